"""Every metric of the gateway in one table.

Rules: no key, tenant or free text in a label; a model label is a configured name or ``unknown``. Money and
tenants are the ledger's business. ``gen_ai_*`` are OpenTelemetry's names as Prometheus spells them.
"""

from typing import Literal

import msgspec

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
        "Requests whose rates were judged by this process alone, because Redis was away.",
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
        "switchgear_cache_saved_seconds",
        "probe",
        ("tier",),
        "seconds",
        "What the answers that hits gave again had taken to come.",
    ),
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
        "switchgear_replica_start_step_seconds",
        "probe",
        ("model", "replica", "step"),
        "seconds",
        "What each step of a launched replica's last start took.",
        alike=True,
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
