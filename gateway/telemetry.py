"""Every metric of the gateway in one table, and the cheap way to count.

Rules: no key, tenant or free text in a label; a model label is a configured name or ``unknown``.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.tallies import Key, Tallies

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
HISTOGRAM_WIDTH = len(SECONDS) + 2


class Metric(msgspec.Struct, frozen=True):
    """One row of the table.

    A ``probe`` is read when somebody scrapes; one that every worker reads ``alike`` is not added up.
    """

    name: str
    kind: Literal["counter", "histogram", "probe"]
    labels: tuple[str, ...]
    unit: str
    help: str
    alike: bool = False


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
    Metric("switchgear_replicas", "probe", ("model", "phase"), "replicas", "Replicas by phase.", alike=True),
    Metric("switchgear_running", "probe", ("model",), "requests", "Requests running on replicas."),
    Metric("switchgear_cache_entries", "probe", (), "entries", "Answers kept in the exact cache."),
    Metric("switchgear_cache_bytes", "probe", (), "bytes", "Size of the exact cache."),
    Metric(
        "switchgear_shared_calls",
        "probe",
        (),
        "calls",
        "Upstream calls under way that identical requests may join.",
    ),
    Metric(
        "switchgear_shared_readers", "probe", (), "requests", "Requests under way that read a shared call."
    ),
    Metric(
        "switchgear_saved_nanousd_total",
        "counter",
        ("model", "by"),
        "nano-dollars",
        "What clients did not pay because an answer was cached or an upstream call shared.",
    ),
    Metric(
        "switchgear_ledger_gap_nanousd",
        "probe",
        (),
        "nano-dollars",
        "By how much journal, ledger and balances of the last days differ; absent until it is known.",
        alike=True,
    ),
    Metric(
        "switchgear_webhook_attempts_total",
        "counter",
        ("outcome",),
        "attempts",
        "Attempts to send a message to a webhook: delivered, failed, given_up.",
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
    """Counts in plain lists, a tenth of the cost of locked metric objects; one thread writes them.

    With several workers the numbers stand in memory that they share, and everything is rendered added up.
    """

    def __init__(self, tallies: Tallies | None = None) -> None:
        self.registry = CollectorRegistry()
        self._tallies = tallies or Tallies()
        self._probes: dict[str, Probe] = {}
        self.registry.register(self)

    def probe(self, name: str, read: Probe) -> None:
        """Tell where a probe's values come from."""
        self._probes[name] = read

    def count(self, name: str, labels: tuple[str, ...], amount: float = 1.0) -> None:
        """Add to a counter."""
        key = (name, labels)
        tallies = self._tallies
        at = tallies.index.get(key)
        if at is None:
            at = tallies.place(key, 1)
        tallies.values[at] += amount

    def observe(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add to a histogram: a count per bucket, one beyond the last, then the sum."""
        key = (name, labels)
        tallies = self._tallies
        at = tallies.index.get(key)
        if at is None:
            at = tallies.place(key, HISTOGRAM_WIDTH)
        values = tallies.values
        values[at + bisect_left(SECONDS, value)] += 1.0
        values[at + HISTOGRAM_WIDTH - 1] += value

    def text(self) -> bytes:
        """Render everything in Prometheus's text format."""
        return generate_latest(self.registry)

    async def publish(self) -> None:
        """Show the other workers what the probes read now."""
        self._read_probes()

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily | GaugeMetricFamily]:
        """Give one family per row of the table; see ``prometheus_client.registry.Collector``."""
        self._read_probes()
        found: dict[str, list[Key]] = {}
        for key in self._tallies.known():
            found.setdefault(key[0], []).append(key)
        for metric in METRICS:
            keys = found.get(metric.name, [])
            if metric.kind == "histogram":
                yield self._histogram(metric, keys)
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for key in keys:
                (value,) = self._tallies.own(key, 1) if metric.alike else self._tallies.sums(key, 1)
                if not math.isnan(value):
                    family.add_metric(list(key[1]), value)
            if metric.kind == "counter" or metric.name in self._probes:
                yield family

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

    def _histogram(self, metric: Metric, keys: list[Key]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for key in keys:
            *buckets, total = self._tallies.sums(key, HISTOGRAM_WIDTH)
            sums = itertools.accumulate(buckets)
            bounds = [*(str(bound) for bound in SECONDS), "+Inf"]
            family.add_metric(list(key[1]), list(zip(bounds, sums, strict=True)), total)
        return family
