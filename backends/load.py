"""An engine's `/metrics` text -> how busy the replica is.

Pure, and tolerant: what cannot be read is left out, never an error. The engines name the same thing
differently (and vLLM renamed its KV-cache gauge), so the names are data that each engine brings along.
"""

import math
from collections.abc import Iterator

from msgspec import Struct


class LoadMetrics(Struct, frozen=True, kw_only=True):
    """The names of an engine's gauges, newest first."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv_usage: tuple[str, ...]


class TokenMetrics(Struct, frozen=True, kw_only=True):
    """The names of an engine's token counters, and of the moment since when they count."""

    prompt: str
    generated: str
    since: tuple[str, ...]


class TokenCount(Struct, frozen=True, kw_only=True):
    """The tokens that an engine has worked on since a moment, in seconds since the epoch."""

    prompt_tokens: int
    generated_tokens: int
    since_s: float


class ReplicaLoad(Struct, frozen=True, kw_only=True):
    """None: the engine did not say."""

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""


def read_load(text: str, names: LoadMetrics) -> ReplicaLoad:
    """Sum requests over the label sets (one per data-parallel rank); of the KV caches take the fullest."""
    wanted = {*names.running, *names.waiting, *names.kv_usage}
    values: dict[str, list[float]] = {}
    for name, value in _samples(text):
        if name in wanted:
            values.setdefault(name, []).append(value)
    running, waiting, usage = (
        _first(values, alternatives) for alternatives in (names.running, names.waiting, names.kv_usage)
    )
    return ReplicaLoad(
        running=None if running is None else int(sum(running)),
        waiting=None if waiting is None else int(sum(waiting)),
        kv_usage=None if usage is None else min(max(usage), 1.0),
    )


def read_counts(text: str, names: TokenMetrics) -> TokenCount | None:
    """Sum token counters over the label sets; None where one of them, or their beginning, is not told."""
    values: dict[str, list[float]] = {}
    for name, value in _samples(text):
        if name in (names.prompt, names.generated, *names.since):
            values.setdefault(name, []).append(value)
    since = _first(values, names.since)
    if since is None or names.prompt not in values or names.generated not in values:
        return None
    return TokenCount(
        prompt_tokens=int(sum(values[names.prompt])),
        generated_tokens=int(sum(values[names.generated])),
        since_s=max(since),
    )


def _first(values: dict[str, list[float]], alternatives: tuple[str, ...]) -> list[float] | None:
    return next((values[name] for name in alternatives if name in values), None)


def _samples(text: str) -> Iterator[tuple[str, float]]:
    """(name, value) of each readable line of the Prometheus text format; no negative, NaN, infinite ones."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        brace = line.find("{")
        if brace >= 0:
            name, rest = line[:brace], line[line.rfind("}") + 1 :]
        else:
            name, _, rest = line.partition(" ")
        fields = rest.split()
        try:
            value = float(fields[0])
        except (ValueError, IndexError):
            continue
        if math.isfinite(value) and value >= 0:
            yield name.strip(), value
