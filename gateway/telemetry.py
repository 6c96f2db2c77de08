"""Every metric of the gateway in one table, and the cheap way to count.

Rules: no key, tenant or free text in a label; a model label is a configured name or ``unknown``; children are
looked up once and kept, because building label sets is the dear part.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metric(msgspec.Struct, frozen=True):
    """One row of the table; a ``probe`` is read when somebody scrapes."""

    name: str
    kind: Literal["counter", "histogram", "gauge", "probe"]
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
    Metric("switchgear_queue_depth", "probe", ("model",), "requests", "Requests waiting for a replica."),
    Metric("switchgear_replicas", "probe", ("model", "phase"), "replicas", "Replicas by phase."),
    Metric("switchgear_running", "probe", ("model",), "requests", "Requests running on replicas."),
    Metric("switchgear_cache_entries", "probe", (), "entries", "Answers kept in the exact cache."),
    Metric("switchgear_cache_bytes", "probe", (), "bytes", "Size of the exact cache."),
    Metric(
        "switchgear_loop_failures_total", "counter", ("loop",), "steps", "Failed steps of background loops."
    ),
)

Probe = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Telemetry:
    """Counts; ``probes`` gives the values of the metrics that are read at scrape time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Histogram | Gauge] = {}
        self._children: dict[tuple[str, ...], Counter | Histogram | Gauge] = {}
        self._probes: dict[str, Probe] = {}
        for metric in METRICS:
            if metric.kind == "counter":
                self._metrics[metric.name] = Counter(
                    metric.name, metric.help, metric.labels, registry=self.registry
                )
            elif metric.kind == "histogram":
                self._metrics[metric.name] = Histogram(
                    metric.name, metric.help, metric.labels, buckets=SECONDS, registry=self.registry
                )
        self.registry.register(_Probes(self._probes))

    def probe(self, name: str, read: Probe) -> None:
        """Tell where a probe's values come from."""
        self._probes[name] = read

    def count(self, name: str, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        child = self._child(name, labels)
        assert isinstance(child, Counter)
        child.inc(amount)

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add to a histogram."""
        child = self._child(name, labels)
        assert isinstance(child, Histogram)
        child.observe(value)

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def _child(self, name: str, labels: tuple[str, ...]) -> Counter | Histogram | Gauge:
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            metric = self._metrics[name]
            child = self._children[key] = metric.labels(*labels) if labels else metric
        return child


class _Probes(Collector):
    """Reads the probes when scraped."""

    def __init__(self, probes: dict[str, Probe]) -> None:
        self._probes = probes

    def collect(self) -> Sequence[GaugeMetricFamily]:
        """Give one family per probe that is wired."""
        families = []
        for metric in METRICS:
            read = self._probes.get(metric.name)
            if read is not None:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, value in read():
                    family.add_metric(list(labels), value)
                families.append(family)
        return families
