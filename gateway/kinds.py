"""What many requests have in common: who asked for what, what was decided, how it ended.

It is worked out once for all of a kind, and so is what is written of it: where its numbers stand
(``passage``), its part of a log line, the attributes of its span.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.passage import Passage

MOST_KINDS = 4096


# In the order in which ``kind_of`` gives them.
_FIELDS = (
    "operation", "provider", "name", "model", "answered", "route", "objective", "reason", "candidates",
    "cache", "streamed", "max_tokens", "temperature", "finish_reasons", "org", "project", "key_id",
    "tried", "outcomes", "status", "error", "price_version", "source", "estimated",
)  # fmt: skip


class Kind:
    """One kind of request; ``line`` and ``span`` are filled in by who writes them."""

    __slots__ = (*_FIELDS, "line", "span")

    operation: str
    provider: str
    name: str
    model: str
    answered: bool
    """Whether a model was chosen, or a kept answer found."""
    route: str
    objective: str
    reason: str
    candidates: tuple[str, ...]
    cache: str
    streamed: bool
    max_tokens: int | None
    temperature: float | None
    finish_reasons: tuple[str, ...]
    org: str
    project: str
    key_id: str
    tried: tuple[str, ...]
    outcomes: tuple[str, ...]
    status: int
    error: str
    price_version: str
    source: str
    estimated: bool | None
    line: bytes
    span: bytes

    def __init__(self, values: tuple[Any, ...]) -> None:
        for name, value in zip(_FIELDS, values, strict=True):
            setattr(self, name, value)
        self.line = self.span = b""


def kind_of(passage: "Passage") -> Kind:
    """Give the kind of a request that has ended."""
    key, choice, charge, trip, route = (
        passage.key,
        passage.choice,
        passage.charge,
        passage.trip,
        passage.route,
    )
    if key is None:
        org = project = key_id = ""
    else:
        org, project, key_id = key.org, key.project, key.id
    provider, objective, reason = "switchgear", "", ""
    candidates: tuple[str, ...] = ()
    if choice is not None:
        provider = choice.model.settings.engine
        if choice.aim is not None:
            objective = choice.aim.told
        if route:
            reason = choice.reason
    if route and passage.target is not None:
        candidates = tuple([one.name for one in passage.target.models])
    tried: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    if trip is not None:
        tried = tuple(trip.tried)
        outcomes = tuple([one.outcome or "given_up" for one in trip.tries])
    version, source, estimated = "", "", None
    if charge is not None:
        version, source, estimated = charge.price.version, charge.source, charge.estimated
    return _kind((
        passage.operation, provider, passage.name, passage.model,
        choice is not None or passage.hit is not None, route, objective, reason, candidates, passage.cache,
        passage.streamed, passage.max_tokens, passage.temperature, tuple(passage.finish_reasons),
        org, project, key_id, tried, outcomes, passage.status, passage.error, version, source, estimated,
    ))  # fmt: skip


_kind = lru_cache(MOST_KINDS)(Kind)
