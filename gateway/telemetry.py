"""Every metric of the gateway in one table, and the cheap way to count.

Rules: no key, tenant or free text in a label; a model label is a configured name or ``unknown``. Money and
tenants are the ledger's business. ``gen_ai_*`` are OpenTelemetry's names as Prometheus spells them.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.tallies import Key, Tallies

Buckets = tuple[float, ...]
Kind = Literal["counter", "histogram", "probe", "engine gauge", "engine counter", "engine histogram"]

SECONDS: Buckets = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# Buckets that OpenTelemetry's GenAI conventions advise.
REQUEST_SECONDS: Buckets = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
FIRST_TOKEN_SECONDS: Buckets = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
TOKEN_SECONDS: Buckets = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS: Buckets = tuple(float(4**power) for power in range(14))
SCORES: Buckets = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
START_SECONDS: Buckets = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
LAG_SECONDS: Buckets = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

ASKED = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
REPLICA = ("model", "replica")


class Metric(msgspec.Struct, frozen=True):
    """One row of the table.

    A ``probe`` is read when somebody scrapes; one that every worker reads ``alike`` is not added up. An
    ``engine`` metric is what a replica's server said of itself at the last scrape, under our name.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    help: str
    alike: bool = False
    buckets: Buckets = SECONDS


def _engine(name: str, kind: Kind, unit: str, text: str) -> Metric:
    return Metric(f"switchgear_engine_{name}", kind, REPLICA, unit, text, alike=True)


ENGINE_METRICS = (
    _engine("running", "engine gauge", "requests", "Requests that the engine computes."),
    _engine("waiting", "engine gauge", "requests", "Requests that wait inside the engine."),
    _engine("kv_usage_ratio", "engine gauge", "share", "Share of the KV cache in use."),
    _engine(
        "prefix_queries_total", "engine counter", "tokens", "Prompt tokens looked up in the prefix cache."
    ),
    _engine("prefix_hits_total", "engine counter", "tokens", "Prompt tokens found in the prefix cache."),
    _engine("prompt_tokens_total", "engine counter", "tokens", "Prompt tokens that the engine took."),
    _engine("generation_tokens_total", "engine counter", "tokens", "Tokens that the engine generated."),
    _engine("preemptions_total", "engine counter", "requests", "Requests set back for lack of KV cache."),
    _engine("draft_tokens_total", "engine counter", "tokens", "Tokens drafted by speculative decoding."),
    _engine("accepted_tokens_total", "engine counter", "tokens", "Drafted tokens that the model accepted."),
    _engine("queue_seconds", "engine histogram", "seconds", "Time that requests waited in the engine."),
    _engine("prefill_seconds", "engine histogram", "seconds", "Time that the engine took for prompts."),
    _engine("first_token_seconds", "engine histogram", "seconds", "Until the engine's first token."),
    _engine("token_seconds", "engine histogram", "seconds", "Between two tokens of the engine."),
)

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
        "gen_ai_server_request_duration_seconds",
        "histogram",
        (*ASKED, "error_type"),
        "seconds",
        "From the request's last byte in to its answer's last byte out; error_type is a failure's status.",
        buckets=REQUEST_SECONDS,
    ),
    Metric(
        "gen_ai_server_time_to_first_token_seconds",
        "histogram",
        ASKED,
        "seconds",
        "Until the first byte of a streamed answer's body.",
        buckets=FIRST_TOKEN_SECONDS,
    ),
    Metric(
        "gen_ai_server_time_per_output_token_seconds",
        "histogram",
        ASKED,
        "seconds",
        "Of a streamed answer, between its first byte and its last, for each token but the first.",
        buckets=TOKEN_SECONDS,
    ),
    Metric(
        "gen_ai_client_token_usage",
        "histogram",
        (*ASKED, "gen_ai_token_type"),
        "tokens",
        "Tokens billed for a request, by input and output.",
        buckets=TOKENS,
    ),
    Metric(
        "gen_ai_client_operation_duration_seconds",
        "histogram",
        (*REPLICA, "error_type"),
        "seconds",
        "One attempt on a replica, from its sending to its last byte; error_type is a failure's outcome.",
        buckets=REQUEST_SECONDS,
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
    Metric("switchgear_semantic_texts", "probe", (), "texts", "Texts that the semantic cache knows."),
    Metric(
        "switchgear_cache_false_hit_ratio",
        "probe",
        (),
        "hits",
        "Wrong hits expected by the audits, for each hit of the semantic cache.",
    ),
    Metric("switchgear_cache_error_bound", "probe", (), "requests", "Wrong hits allowed, for each request."),
    Metric(
        "switchgear_cache_error_estimate",
        "probe",
        (),
        "requests",
        "Wrong hits expected by the audits, for each request that the semantic cache saw.",
    ),
    Metric("switchgear_cache_saved_tokens", "probe", ("tier",), "tokens", "Tokens that hits did not cost."),
    Metric(
        "switchgear_cache_audits_total",
        "counter",
        ("outcome",),
        "audits",
        "Hits of the semantic cache asked upstream again: answered or failed.",
    ),
    Metric("switchgear_cache_audit_tokens_total", "counter", (), "tokens", "Tokens that audits have cost."),
    Metric(
        "switchgear_cache_lost_news",
        "probe",
        (),
        "news",
        "What other gateways were never told about this one's caches, because Redis was away.",
    ),
    Metric(
        "switchgear_cache_redis_lost",
        "probe",
        (),
        "operations",
        "Look-ups and writes of the semantic cache that came to nothing, because Redis was away or slow.",
    ),
    Metric(
        "switchgear_cache_embedding_failures_total",
        "counter",
        (),
        "requests",
        "Requests that the semantic cache could not look up, because the embedding model failed.",
    ),
    Metric(
        "switchgear_cache_judge_noise",
        "probe",
        (),
        "audits",
        "Right answers that are judged wrong, for each: by audits that ask twice.",
    ),
    Metric(
        "switchgear_cache_audit_nanousd_total",
        "counter",
        (),
        "nano-dollars",
        "What audits would have cost clients.",
    ),
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
        "switchgear_metric_exports_total",
        "counter",
        ("outcome",),
        "sendings",
        "Sendings of these metrics by OTLP: sent, or failed at the receiver.",
    ),
    Metric(
        "switchgear_log_lines_total",
        "counter",
        ("outcome",),
        "lines",
        "Lines of the log for requests: written, or dropped because the buffer was full.",
    ),
    Metric(
        "switchgear_loop_failures_total", "counter", ("loop",), "steps", "Failed steps of background loops."
    ),
    Metric(
        "switchgear_loop_step_seconds",
        "histogram",
        ("loop",),
        "seconds",
        "A step of a background loop: ledger is a write to the database, limits one to Redis.",
    ),
    Metric(
        "switchgear_loop_lag_seconds",
        "histogram",
        (),
        "seconds",
        "By how much the event loop woke a timer too late.",
        buckets=LAG_SECONDS,
    ),
    Metric("switchgear_cpu_seconds_total", "counter", (), "seconds", "CPU time of the gateway's processes."),
    Metric("switchgear_memory_bytes", "probe", (), "bytes", "Resident memory of the gateway's processes."),
    Metric("switchgear_reserved_nanousd", "probe", (), "nano-dollars", "Reserved for requests under way."),
    Metric(
        "switchgear_refusals_total",
        "counter",
        ("code",),
        "requests",
        "Requests that the gateway itself refused or failed, by the code of the error.",
    ),
    Metric(
        "switchgear_routing_score",
        "histogram",
        ("route",),
        "score",
        "Expected gain of the largest tier, as scored.",
        buckets=SCORES,
    ),
    Metric(
        "switchgear_route_decisions_total",
        "counter",
        ("route", "model", "reason"),
        "requests",
        "Which tier answered for a route, and why.",
    ),
    Metric(
        "switchgear_routing_labels_total",
        "counter",
        ("route", "source"),
        "labels",
        "Outcomes of routed queries that were learnt: from shadows and from users.",
    ),
    Metric(
        "switchgear_routing_regret",
        "probe",
        ("route",),
        "quality",
        "By how much the better tier of labelled queries beat the one that served, in the mean.",
        alike=True,
    ),
    Metric(
        "switchgear_routing_drift",
        "probe",
        ("route",),
        "distance",
        "How far the latest scores have moved from those of the validation rows, 0 to 1.",
        alike=True,
    ),
    Metric(
        "switchgear_shadow_total",
        "counter",
        ("route", "outcome"),
        "requests",
        "Requests also asked of the other tier: judged, failed, dropped, or capped by the cost of the day.",
    ),
    Metric(
        "switchgear_shadow_nanousd_total",
        "counter",
        ("route",),
        "nano-dollars",
        "What shadows and their judges have cost; nobody is billed for it.",
    ),
    Metric(
        "switchgear_cascade_total",
        "counter",
        ("route", "outcome"),
        "requests",
        "First answers of a cascade: kept, or why the next tier was asked.",
    ),
    Metric(
        "switchgear_cascade_tokens_total",
        "counter",
        ("route",),
        "tokens",
        "Tokens of first answers that were not handed on; nobody is billed for them.",
    ),
    Metric(
        "switchgear_precise_grades_total",
        "counter",
        ("route", "outcome"),
        "requests",
        "Texts for the precise grade: read, or late or failed and left to the fast one.",
    ),
    Metric(
        "switchgear_keys_expiring",
        "probe",
        (),
        "keys",
        "API keys that are valid now and expire within a week.",
        alike=True,
    ),
    Metric("switchgear_replica_starts_total", "counter", REPLICA, "starts", "Replicas that became ready."),
    Metric(
        "switchgear_replica_start_seconds",
        "histogram",
        ("model",),
        "seconds",
        "From a replica's launch until it was ready.",
        buckets=START_SECONDS,
    ),
    Metric(
        "switchgear_replicas_wanted",
        "probe",
        ("model", "spot"),
        "replicas",
        "Replicas that are wanted, on spot capacity or not.",
        alike=True,
    ),
    Metric(
        "switchgear_build_info",
        "probe",
        ("version",),
        "1",
        "Always 1; the version of the gateway.",
        alike=True,
    ),
    *ENGINE_METRICS,
)

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
        self.rows: dict[Labels, tuple[int, ...]] = {}
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
