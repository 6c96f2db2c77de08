"""Where a query goes, given the ready replicas: values in, a value out."""

from collections.abc import Callable, Sequence

import msgspec


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request when a replica is chosen.

    ``weight`` is the tenant's share of a busy model against others' (1 for most) of its innermost group;
    ``within`` are the names and weights of its groups, widest first. ``draw`` in [0, 1) and
    ``sequence`` (a count per model) stand for randomness and turn-taking. ``prefix`` are
    the marks of the prompt's beginning (``routing.prefixes``), where the policy reads them.
    ``version`` is the one that is wanted; "" is any.
    """

    model: str
    tenant: str = ""
    weight: float = 1.0
    within: tuple[tuple[str, float], ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix: tuple[bytes, ...] = ()
    draw: float = 0.0
    sequence: int = 0
    exclude: frozenset[str] = frozenset()
    version: str = ""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One ready replica with its load as this gateway knows it; 0 where it does not.

    ``running`` and ``running_tokens`` are this gateway's requests there and their prompts; ``ahead_tokens``
    is the work of those that have no first byte yet, less some of what has been done of it. ``cached_tokens``
    of the query's prompt were sent there before. ``outside`` are other gateways' requests, and ``kv_usage``
    the share of the KV cache in use, as the engine last told. ``latency_s`` is the time to the first byte,
    peaks remembered; ``pace_s`` the same per token of work before it, ``pace_age_s`` ago.
    """

    id: str
    running: int
    limit: int
    running_tokens: int = 0
    ahead_tokens: float = 0
    cached_tokens: int = 0
    outside: int = 0
    kv_usage: float = 0.0
    latency_s: float = 0.0
    pace_s: float = 0.0
    pace_age_s: float = 0.0
    weight: float = 1.0
    version: str = ""


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
