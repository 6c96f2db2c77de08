"""An engine's `/metrics` text -> how busy the replica is, and its figures under names that all engines share.

Pure, and tolerant: what cannot be read is left out, never an error. The engines name the same thing
differently (and vLLM renamed its KV-cache gauge), so the names are data that each engine brings along.
"""

import math
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

_LE = re.compile(r'[{,]\s*le="([^"]+)"')


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


class Spread(Struct, frozen=True):
    """A histogram: counts up to and including each bound, cumulated, and the sum of the values."""

    buckets: tuple[tuple[str, float], ...]
    total: float


Figures = Mapping[str, float | Spread]
"""By a name that all engines share: a sum over the label sets, or a histogram added up over them."""


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


def read_figures(text: str, names: Mapping[str, tuple[str, ...]]) -> Figures:
    """Read an engine's metrics; `names` says what each figure is called there, newest first."""
    wanted = {theirs: ours for ours, alternatives in names.items() for theirs in reversed(alternatives)}
    plain: dict[str, dict[str, float]] = {}
    buckets: dict[str, dict[str, float]] = {}
    for name, value, labels in _labelled(text):
        base, _, part = name.rpartition("_")
        if name in wanted:
            found = plain.setdefault(wanted[name], {})
            found[name] = found.get(name, 0.0) + value
        elif part == "bucket" and base in wanted and (bound := _bound(labels)):
            spread = buckets.setdefault(wanted[base], {})
            spread[bound] = spread.get(bound, 0.0) + value
        elif part == "sum" and base in wanted:
            found = plain.setdefault(wanted[base], {})
            found["sum"] = found.get("sum", 0.0) + value
    figures: dict[str, float | Spread] = {}
    for ours, alternatives in names.items():
        if ours in buckets:
            ordered = sorted(buckets[ours].items(), key=lambda one: float(one[0]))
            figures[ours] = Spread(tuple(ordered), plain.get(ours, {}).get("sum", 0.0))
        elif (value_of := plain.get(ours)) is not None:
            figures[ours] = next((value_of[one] for one in alternatives if one in value_of), 0.0)
    return figures


def _bound(labels: str) -> str:
    """Give the value of the label `le`, empty where there is none."""
    match = _LE.search(labels)
    return match[1] if match is not None else ""


def _first(values: dict[str, list[float]], alternatives: tuple[str, ...]) -> list[float] | None:
    return next((values[name] for name in alternatives if name in values), None)


def _samples(text: str) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value, _ in _labelled(text))


def _labelled(text: str) -> Iterator[tuple[str, float, str]]:
    """(name, value, labels) of each readable line of Prometheus's text; no negative, NaN, infinite ones."""
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        brace, labels = line.find("{"), ""
        if brace >= 0:
            end = line.rfind("}")
            name, labels, rest = line[:brace], line[brace:end], line[end + 1 :]
        else:
            name, _, rest = line.partition(" ")
        fields = rest.split()
        try:
            value = float(fields[0])
        except (ValueError, IndexError):
            continue
        if math.isfinite(value) and value >= 0:
            yield name.strip(), value, labels
