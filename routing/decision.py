"""Where a query goes, given the ready replicas: values in, a value out."""

from collections.abc import Callable, Sequence

import msgspec


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request when a replica is chosen.

    ``draw`` in [0, 1) and ``sequence`` (a count per model) stand for randomness and turn-taking.
    """

    model: str
    prompt_tokens: int = 0
    draw: float = 0.0
    sequence: int = 0
    exclude: frozenset[str] = frozenset()


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One ready replica with its load as this gateway knows it."""

    id: str
    running: int
    limit: int
    running_tokens: int = 0
    weight: float = 1.0


class Dispatch(msgspec.Struct, frozen=True):
    """Send it to this replica now."""

    replica: str


class Enqueue(msgspec.Struct, frozen=True):
    """All replicas are full: wait."""


class Reject(msgspec.Struct, frozen=True):
    """No replica can take it, now or after waiting."""

    reason: str


Decision = Dispatch | Enqueue | Reject
Policy = Callable[[Query, Sequence[Candidate]], Candidate]


def decide(query: Query, candidates: Sequence[Candidate], policy: Policy) -> Decision:
    """Decide where the query goes, given the ready replicas of its model.

    A replica that the query was already tried on is left out, unless there is no other.
    """
    if not candidates:
        return Reject(f"no ready replica serves {query.model!r}")
    fresh = [one for one in candidates if one.id not in query.exclude] or candidates
    free = [one for one in fresh if one.running < one.limit]
    return Dispatch(policy(query, free).id) if free else Enqueue()
