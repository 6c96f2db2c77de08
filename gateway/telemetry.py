"""The cheap way to count what ``gateway.metrics`` names, and its text for whoever scrapes."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.metrics import METRICS, Buckets, Metric
from gateway.tallies import Key, Tallies

BUCKETS = {metric.name: metric.buckets for metric in METRICS if metric.kind == "histogram"}

Labels = tuple[str, ...]
Probe = Callable[[], Iterable[tuple[Labels, float]]]
Spread = tuple[Sequence[tuple[str, float]], float]
"""A histogram that somebody else has filled: bounds with cumulated counts, and the sum."""
EngineProbe = Callable[[str], Iterable[tuple[Labels, float | Spread]]]
Family = CounterMetricFamily | HistogramMetricFamily | GaugeMetricFamily


class Telemetry:
    """Counts in plain lists, a tenth of the cost of locked metric objects; one thread writes them.

    With several workers the numbers stand in memory that they share, and everything is rendered added up.
    ``rows`` is the place of whoever counts much: where its numbers stand, by what they are about.
    """

    def __init__(self, tallies: Tallies | None = None) -> None:
        self.registry = CollectorRegistry()
        self._tallies = tallies or Tallies()
        self._probes: dict[str, Probe] = {}
        self.engines: EngineProbe | None = None
        self.values = self._tallies.values
        self.rows: dict[Hashable, tuple[int, ...]] = {}
        self.registry.register(self)
        for metric in METRICS:
            if metric.kind == "counter" and not metric.labels:
                self.count(metric.name, (), 0.0)

    @property
    def speaks_for_all(self) -> bool:
        """Whether this process is the one of its siblings that sends everybody's numbers."""
        return self._tallies.leads

    def probe(self, name: str, read: Probe) -> None:
        """Tell where a probe's values come from."""
        self._probes[name] = read

    def at(self, name: str, labels: Labels) -> int:
        """Give where the numbers of a series begin in ``values``; makes room for a new one."""
        key = (name, labels)
        at = self._tallies.index.get(key)
        if at is None:
            at = self._tallies.place(key, _width(name))
        return at

    def count(self, name: str, labels: Labels, amount: float = 1.0) -> None:
        """Add to a counter."""
        self.values[self.at(name, labels)] += amount

    def observe(self, name: str, labels: Labels, value: float) -> None:
        """Add to a histogram: a count per bucket, one beyond the last, then the sum."""
        self.note(self.at(name, labels), BUCKETS[name], value)

    def note(self, at: int, buckets: Buckets, value: float) -> None:
        """Add to the histogram whose numbers begin there."""
        values = self.values
        values[at + bisect_left(buckets, value)] += 1.0
        values[at + len(buckets) + 1] += value

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self.registry)

    async def publish(self) -> None:
        """Show the other workers what the probes read now."""
        self._read_probes()

    def collect(self) -> Iterable[Family]:
        """Give one family per row of the table; see ``prometheus_client.registry.Collector``."""
        self._read_probes()
        found: dict[str, list[Key]] = {}
        for key in self._tallies.known():
            found.setdefault(key[0], []).append(key)
        for metric in METRICS:
            if metric.kind in ("counter", "histogram"):
                yield self._counted(metric, found.get(metric.name, []))
            elif metric.kind != "probe":
                yield _family(metric, self.engines(metric.name) if self.engines is not None else ())
            elif metric.name in self._probes:
                yield self._counted(metric, found.get(metric.name, []))

    def _counted(self, metric: Metric, keys: list[Key]) -> Family:
        """Give the family of a metric whose numbers stand in the tallies."""
        if metric.kind == "histogram":
            return _family(metric, [(key[1], self._spread(metric, key)) for key in keys])
        read = self._tallies.own if metric.alike else self._tallies.sums
        values = [(key[1], read(key, 1)[0]) for key in keys]
        return _family(metric, [(labels, value) for labels, value in values if not math.isnan(value)])

    def _spread(self, metric: Metric, key: Key) -> Spread:
        *buckets, total = self._tallies.sums(key, len(metric.buckets) + 2)
        bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
        return list(zip(bounds, itertools.accumulate(buckets), strict=True)), total

    def _read_probes(self) -> None:
        """Note what the probes read; what they do not name any more is not a number."""
        read = {(name, labels): value for name, probe in self._probes.items() for labels, value in probe()}
        tallies = self._tallies
        for key, at in tallies.index.items():
            if key[0] in self._probes and key not in read:
                tallies.values[at] = math.nan
        for key, value in read.items():
            known = tallies.index.get(key)
            tallies.values[tallies.place(key, 1) if known is None else known] = value


def _width(name: str) -> int:
    buckets = BUCKETS.get(name)
    return 1 if buckets is None else len(buckets) + 2


def _family(metric: Metric, values: Iterable[tuple[Labels, float | Spread]]) -> Family:
    if metric.kind.endswith("histogram"):
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in values:
            if isinstance(value, tuple):
                histogram.add_metric(list(labels), value[0], value[1])
        return histogram
    kind = CounterMetricFamily if metric.kind.endswith("counter") else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        if not isinstance(value, tuple):
            family.add_metric(list(labels), value)
    return family
