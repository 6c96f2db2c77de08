"""Every metric of the gateway in one table, and the cheap way to count.

Rules: no key, tenant or free text in a label; a model label is a configured name or ``unknown``.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metric(msgspec.Struct, frozen=True):
    """One row of the table; a ``probe`` is read when somebody scrapes."""

    name: str
    kind: Literal["counter", "histogram", "probe"]
    labels: tuple[str, ...]
    unit: str
    help: str


METRICS = (
    Metric(
        "switchgear_requests_total",
        "counter",
        ("model", "route", "status", "cache"),
        "requests",
        "Requests answered.",
    ),
    Metric(
        "switchgear_upstream_attempts_total",
        "counter",
        ("model", "outcome"),
        "attempts",
        "Attempts on replicas by outcome.",
    ),
    Metric(
        "switchgear_tokens_total",
        "counter",
        ("model", "direction"),
        "tokens",
        "Tokens billed, prompt and completion.",
    ),
    Metric(
        "switchgear_request_duration_seconds",
        "histogram",
        ("model",),
        "seconds",
        "From the request's last byte in to the answer's last byte out.",
    ),
    Metric(
        "switchgear_time_to_first_byte_seconds",
        "histogram",
        ("model",),
        "seconds",
        "Until the first byte of an answer's body.",
    ),
    Metric(
        "switchgear_queue_seconds",
        "histogram",
        ("model",),
        "seconds",
        "Time that a request waited for a replica.",
    ),
    Metric(
        "switchgear_limits_alone_total",
        "counter",
        (),
        "requests",
        "Requests judged by this process's own limits, because Redis was away.",
    ),
    Metric("switchgear_queue_depth", "probe", ("model",), "requests", "Requests waiting for a replica."),
    Metric("switchgear_replicas", "probe", ("model", "phase"), "replicas", "Replicas by phase."),
    Metric("switchgear_running", "probe", ("model",), "requests", "Requests running on replicas."),
    Metric("switchgear_cache_entries", "probe", (), "entries", "Answers kept in the exact cache."),
    Metric("switchgear_cache_bytes", "probe", (), "bytes", "Size of the exact cache."),
    Metric(
        "switchgear_ledger_gap_nanousd",
        "probe",
        (),
        "nano-dollars",
        "By how much journal, ledger and balances of the last days differ; absent until it is known.",
    ),
    Metric(
        "switchgear_traces_total",
        "counter",
        ("outcome",),
        "requests",
        "Traced requests: exported, failed at the receiver, or dropped because the buffer was full.",
    ),
    Metric(
        "switchgear_loop_failures_total", "counter", ("loop",), "steps", "Failed steps of background loops."
    ),
)

Probe = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Telemetry:
    """Counts in plain dictionaries, a tenth of the cost of locked metric objects; one thread writes them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counts: dict[tuple[str, tuple[str, ...]], float] = {}
        self._histograms: dict[tuple[str, tuple[str, ...]], list[float]] = {}
        self._probes: dict[str, Probe] = {}
        self.registry.register(self)

    def probe(self, name: str, read: Probe) -> None:
        """Tell where a probe's values come from."""
        self._probes[name] = read

    def count(self, name: str, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0.0) + amount

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add to a histogram: a count per bucket, one beyond the last, then the sum."""
        key = (name, labels)
        buckets = self._histograms.get(key)
        if buckets is None:
            buckets = self._histograms[key] = [0.0] * (len(SECONDS) + 2)
        buckets[bisect_left(SECONDS, value)] += 1.0
        buckets[-1] += value

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily | GaugeMetricFamily]:
        """Give one family per row of the table; see ``prometheus_client.registry.Collector``."""
        for metric in METRICS:
            if metric.kind == "counter":
                yield self._counter(metric)
            elif metric.kind == "histogram":
                yield self._histogram(metric)
            elif metric.name in self._probes:
                gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, value in self._probes[metric.name]():
                    gauge.add_metric(list(labels), value)
                yield gauge

    def _counter(self, metric: Metric) -> CounterMetricFamily:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        for (name, labels), value in self._counts.items():
            if name == metric.name:
                family.add_metric(list(labels), value)
        return family

    def _histogram(self, metric: Metric) -> HistogramMetricFamily:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for (name, labels), buckets in self._histograms.items():
            if name == metric.name:
                sums = itertools.accumulate(buckets[:-1])
                bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
                family.add_metric(list(labels), list(zip(bounds, sums, strict=True)), buckets[-1])
        return family
