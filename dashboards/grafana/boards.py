"""What the seven dashboards show; each panel once, in the order in which an operator asks."""

from dashboards.grafana.panels import (
    Board,
    alike,
    alike_rate,
    figure,
    graph,
    mean,
    quantile,
    rate,
    share,
    table,
)

MODEL = 'model=~"$model"'
SERVED = 'gen_ai_response_model=~"$model"'
HERE = 'model=~"$model",replica=~"$replica"'
ROUTE = 'route=~"$route"'
BY_MODEL, BY_SERVED, BY_REPLICA = "model", "gen_ai_response_model", "replica"
MODEL_NAME, SERVED_NAME, REPLICA_NAME = "{{model}}", "{{gen_ai_response_model}}", "{{replica}}"

TTFT = "gen_ai_server_time_to_first_token_seconds"
TPOT = "gen_ai_server_time_per_output_token_seconds"
DURATION = "gen_ai_server_request_duration_seconds"
REQUESTS = "switchgear_requests_total"

OVERVIEW = Board(
    "switchgear-overview",
    "Switchgear: overview and SLO",
    "Is it up, is it fast, how much of the error budget is left.",
    (
        figure("Availability, 1 h", "Share that did not fail through us (neither 5xx nor 408); all models.",
               "percentunit", "1 - switchgear:errors:ratio_rate1h"),
        figure("Error budget burn, 1 h",
               "1 uses up a month's budget in a month; at 14.4 somebody is woken; all models.",
               "x", "switchgear:errors:burn_rate1h"),
        figure("First tokens in time, 1 h", "Share of streams whose first token came within 1 s; all models.",
               "percentunit", "switchgear:first_token:ratio_rate1h"),
        figure("Requests per second", "All that was answered, with whatever status.", "reqps",
               f"sum(rate({REQUESTS}{{{MODEL}}}[$__rate_interval]))"),
        graph("Requests by status", "499: the client left before its answer was whole.", "reqps",
              ("{{status}}", rate(REQUESTS, "status", MODEL))),
        graph("Error budget burn", "Over windows of 5 minutes to 6 hours; all models.", "x",
              ("5 m", "switchgear:errors:burn_rate5m"), ("30 m", "switchgear:errors:burn_rate30m"),
              ("1 h", "switchgear:errors:burn_rate1h"), ("6 h", "switchgear:errors:burn_rate6h")),
        graph("Time to first token", "Of streams, at the gateway.", "s",
              (f"p50 {SERVED_NAME}", quantile(0.5, TTFT, BY_SERVED, SERVED)),
              (f"p95 {SERVED_NAME}", quantile(0.95, TTFT, BY_SERVED, SERVED))),
        graph("Time between tokens", "Of streams, at the gateway, the mean of each answer.", "s",
              (f"p50 {SERVED_NAME}", quantile(0.5, TPOT, BY_SERVED, SERVED)),
              (f"p95 {SERVED_NAME}", quantile(0.95, TPOT, BY_SERVED, SERVED))),
        graph("Duration of requests", "From the last byte in to the last byte out.", "s",
              (f"p50 {SERVED_NAME}", quantile(0.5, DURATION, BY_SERVED, SERVED)),
              (f"p99 {SERVED_NAME}", quantile(0.99, DURATION, BY_SERVED, SERVED))),
        graph("Tokens per second", "Billed, by direction.", "short",
              ("{{model}} {{direction}}", rate("switchgear_tokens_total", "model, direction", MODEL))),
        graph("Why requests were refused", "By the code of the error; all models.", "reqps",
              ("{{code}}", rate("switchgear_refusals_total", "code")), empty="no refusals"),
    ),
)  # fmt: skip

ROUTING = Board(
    "switchgear-routing",
    "Switchgear: routing",
    "Which tier answers, why, and what that saves.",
    (
        graph("Share of tiers", "Of what a route was asked, by the model that answered.", "percentunit",
              ("{{route}} {{model}}",
               f"sum by (route, model) (rate(switchgear_route_decisions_total{{{ROUTE}}}[$__rate_interval])) "
               f"/ on (route) group_left sum by (route) (rate(switchgear_route_decisions_total{{{ROUTE}}}"
               "[$__rate_interval]))")),
        graph("Reasons", "score: the classifier's; others: a wish, what fits, what is ready.", "reqps",
              ("{{route}} {{reason}}", rate("switchgear_route_decisions_total", "route, reason", ROUTE))),
        graph("Scores", "Expected gain of the largest tier.", "none",
              ("p10", quantile(0.1, "switchgear_routing_score", "route", ROUTE)),
              ("p50", quantile(0.5, "switchgear_routing_score", "route", ROUTE)),
              ("p90", quantile(0.9, "switchgear_routing_score", "route", ROUTE))),
        graph("Escalations", "Answered by another tier because the wanted one was not ready.",
              "reqps",
              ("{{route}}", f'sum by (route) (rate(switchgear_route_decisions_total{{{ROUTE},'
               'reason=~"next-ready|only-ready|fallback"}[$__rate_interval])) or 0 * sum by (route) '
               f"(rate(switchgear_route_decisions_total{{{ROUTE}}}[$__rate_interval]))")),
        graph("Attempts by outcome", "On replicas; above one per request others had failed.", "reqps",
              ("{{model}} {{outcome}}",
               rate("switchgear_upstream_attempts_total", "model, outcome", MODEL))),
        graph("Drift of scores", "From those of the validation rows: 0 none, 1 all.", "percentunit",
              ("{{route}}", f"max by (route) (switchgear_routing_drift{{{ROUTE}}})")),
        graph("Regret", "By how much the better tier of labelled queries beat the one that served.", "none",
              ("{{route}}", f"max by (route) (switchgear_routing_regret{{{ROUTE}}})"),
              empty="no labels with both outcomes yet"),
        graph("Labels", "Outcomes that were learnt, from shadows and from users.", "ops",
              ("{{route}} {{source}}", rate("switchgear_routing_labels_total", "route, source", ROUTE)),
              empty="no labels yet"),
        graph("Shadow traffic", "Also asked of the other tier; its cost is nobody's bill.", "short",
              ("{{route}} {{outcome}}", rate("switchgear_shadow_total", "route, outcome", ROUTE)),
              ("{{route}} USD per hour",
               f"sum by (route) (rate(switchgear_shadow_nanousd_total{{{ROUTE}}}[$__rate_interval]))"
               " * 3600 / 1e9"),
              empty="no route has a shadow"),
        graph("Cascades", "First answers: kept, or why the next was asked; tokens not handed on.", "short",
              ("{{route}} {{outcome}}", rate("switchgear_cascade_total", "route, outcome", ROUTE)),
              ("{{route}} tokens", rate("switchgear_cascade_tokens_total", "route", ROUTE)),
              empty="no route has a cascade"),
        graph("Precise grades", "Read, or late or failed and left to the fast grade.", "ops",
              ("{{route}} {{outcome}}", rate("switchgear_precise_grades_total", "route, outcome", ROUTE)),
              empty="no route has the precise grade"),
        table("Money saved by day", "What the largest tier would have cost, less the bill.", "currencyUSD",
              "SELECT day, SUM(baseline_nanousd - amount_nanousd) / 1e9 AS saved_usd, "
              "SUM(baseline_nanousd) / 1e9 AS baseline_usd, SUM(amount_nanousd) / 1e9 AS billed_usd "
              "FROM usage_daily GROUP BY day ORDER BY day"),
    ),
)  # fmt: skip

CACHE = Board(
    "switchgear-cache",
    "Switchgear: cache",
    "How often an answer was there already, whether it was the right one, and what that saved.",
    (
        graph("Hits by kind", "miss and bypass went to a model.", "reqps",
              ("{{cache}}", rate(REQUESTS, "cache", MODEL))),
        graph("Hit ratio", "Of requests that were looked up.", "percentunit",
              ("all", share(f'{REQUESTS}{{{MODEL},cache=~"hit.*"}}',
                            f'{REQUESTS}{{{MODEL},cache=~"hit.*|miss"}}', "job"))),
        graph("Audited false hits", "Of the semantic cache, beside the promised bound.", "percentunit",
              ("false hits", "switchgear_cache_false_hit_ratio"),
              ("estimate", "max(switchgear_cache_error_estimate)"),
              ("bound", "max(switchgear_cache_error_bound)"),
              ("judged wrong by mistake", "max(switchgear_cache_judge_noise)"),
              empty="no audit yet"),
        graph("Size", "Answers kept in the exact cache.", "bytes", ("", "switchgear_cache_bytes")),
        graph("Shared calls", "Upstream calls that identical requests may join, and who reads them.", "short",
              ("calls", "sum(switchgear_shared_calls)"), ("readers", "sum(switchgear_shared_readers)")),
        graph("Not charged", "Since the start, because an answer was kept or a call shared.", "currencyUSD",
              ("{{by}}", "sum by (by) (switchgear_saved_nanousd_total) / 1e9"), empty="nothing saved yet"),
        graph("Texts known", "To the semantic cache.", "short", ("", "sum(switchgear_semantic_texts)"),
              empty="no semantic cache"),
        graph("Tokens saved", "That no model had to generate or read, since the start.", "short",
              ("", "sum(switchgear_cache_saved_tokens)")),
        graph("Time saved", "That clients did not wait for a model, since the start.", "s",
              ("{{tier}}", "sum by (tier) (switchgear_cache_saved_seconds)")),
        graph("Audits", "Hits asked upstream again.", "ops",
              ("{{outcome}}", rate("switchgear_cache_audits_total", "outcome")),
              ("tokens", "sum(rate(switchgear_cache_audit_tokens_total[$__rate_interval]))"),
              ("USD", "sum(rate(switchgear_cache_audit_nanousd_total[$__rate_interval])) / 1e9"),
              empty="no audit yet"),
        graph("Not shared, not looked up", "News lost, and look-ups for lack of Redis or a vector.", "short",
              ("news", "sum(switchgear_cache_lost_news)"),
              ("in Redis", "sum(switchgear_cache_redis_lost)"),
              ("embedding", "sum(switchgear_cache_embedding_failures_total)"), empty="no shared cache"),
        figure("Answers kept", "In the exact cache.", "short", "sum(switchgear_cache_entries)"),
        table("Requests and money by source", "Where answers came from, as billed.", "currencyUSD",
              "SELECT source, SUM(requests) AS requests, SUM(amount_nanousd) / 1e9 AS billed_usd, "
              "SUM(baseline_nanousd - amount_nanousd) / 1e9 AS saved_usd FROM usage_daily "
              "GROUP BY source ORDER BY source"),
    ),
)  # fmt: skip

MONEY = Board(
    "switchgear-money",
    "Switchgear: tenants and billing",
    "Who spends what, what is left, and whether the books agree. Read from the ledger.",
    (
        table("Spend by organisation", "Of each day.", "currencyUSD",
              "SELECT day, org, SUM(requests) AS requests, SUM(prompt_tokens) AS prompt_tokens, "
              "SUM(completion_tokens) AS completion_tokens, SUM(amount_nanousd) / 1e9 AS billed_usd "
              "FROM usage_daily GROUP BY day, org ORDER BY day DESC, billed_usd DESC"),
        table("Spend by project and model", "Since the beginning of the ledger.", "currencyUSD",
              "SELECT org, project, model, SUM(requests) AS requests, "
              "SUM(amount_nanousd) / 1e9 AS billed_usd "
              "FROM usage_daily GROUP BY org, project, model ORDER BY billed_usd DESC"),
        table("Balances", "What was put in, what was used.", "currencyUSD",
              "SELECT account, transferred_nanousd / 1e9 AS paid_usd, used_nanousd / 1e9 AS used_usd, "
              "(transferred_nanousd - used_nanousd) / 1e9 AS left_usd FROM balances ORDER BY account"),
        table("Budgets at their thresholds", "Budgets and credits of which half or more was used.",
              "currencyUSD",
              "SELECT account, kind, period, threshold_percent, limit_nanousd / 1e9 AS limit_usd, "
              "used_nanousd / 1e9 AS used_usd FROM alerts ORDER BY ts DESC",
              empty="no budget is half used"),
        figure("Reserved now", "For requests under way of keys with a budget; settled when they end.",
               "currencyUSD", "sum(switchgear_reserved_nanousd) / 1e9"),
        table("Settled by day", "What reservations became.", "currencyUSD",
              "SELECT day, SUM(amount_nanousd) / 1e9 AS settled_usd FROM spend_daily "
              "WHERE account LIKE 'key:%' GROUP BY day ORDER BY day"),
        figure("Reconciliation gap", "By how much journal, ledger and balances differ: 0.",
               "currencyUSD",
               "max(switchgear_ledger_gap_nanousd) / 1e9", empty="not proved yet"),
        figure("Keys that expire within a week", "API keys that are valid now.", "short",
               "max(switchgear_keys_expiring)"),
    ),
)  # fmt: skip

FLEET = Board(
    "switchgear-fleet",
    "Switchgear: fleet",
    "The replicas, as the gateway and as their engines see them.",
    (
        graph("Replicas by phase", "ready ones are in routing.", "short",
              ("{{model}} {{phase}}", alike("switchgear_replicas", "model, phase", MODEL))),
        graph("Waiting and running", "At the gateway.", "short",
              (f"waiting {MODEL_NAME}", f"sum by (model) (switchgear_queue_depth{{{MODEL}}})"),
              (f"running {MODEL_NAME}", f"sum by (model) (switchgear_running{{{MODEL}}})")),
        graph("Queue seconds", "Waiting for a replica's slot, 95th percentile.", "s",
              (MODEL_NAME, quantile(0.95, "switchgear_queue_seconds", BY_MODEL, MODEL))),
        graph("Attempts' duration", "95th percentile by replica.", "s",
              (REPLICA_NAME, quantile(0.95, "gen_ai_client_operation_duration_seconds", BY_REPLICA, HERE))),
        graph("Running in the engine", "As the engine says.", "short",
              (REPLICA_NAME, alike("switchgear_engine_running", BY_REPLICA, HERE))),
        graph("Waiting in the engine", "As the engine says.", "short",
              (REPLICA_NAME, alike("switchgear_engine_waiting", BY_REPLICA, HERE))),
        graph("KV cache in use", "Near 1 the engine sets requests back.", "percentunit",
              (REPLICA_NAME, alike("switchgear_engine_kv_usage_ratio", BY_REPLICA, HERE))),
        graph("Prefix cache hits", "Share of prompt tokens found.", "percentunit",
              (REPLICA_NAME, share(f"switchgear_engine_prefix_hits_total{{{HERE}}}",
                                   f"switchgear_engine_prefix_queries_total{{{HERE}}}", BY_REPLICA))),
        graph("Tokens per second", "Generated.", "short",
              (REPLICA_NAME, alike_rate("switchgear_engine_generation_tokens_total", BY_REPLICA, HERE))),
        graph("Prompt tokens per second", "Taken by the engine.", "short",
              (REPLICA_NAME, alike_rate("switchgear_engine_prompt_tokens_total", BY_REPLICA, HERE))),
        graph("Preemptions", "Requests set back for lack of KV cache.", "ops",
              (REPLICA_NAME, alike_rate("switchgear_engine_preemptions_total", BY_REPLICA, HERE))),
        graph("Speculative acceptance", "Share of drafted tokens that the model accepted.", "percentunit",
              (REPLICA_NAME, share(f"switchgear_engine_accepted_tokens_total{{{HERE}}}",
                                   f"switchgear_engine_draft_tokens_total{{{HERE}}}", BY_REPLICA)),
              empty="no speculative decoding"),
        graph("Time in the engine", "Means: waiting, prefill, first token, between tokens.", "s",
              (f"queue {REPLICA_NAME}", mean("switchgear_engine_queue_seconds", BY_REPLICA, HERE)),
              (f"prefill {REPLICA_NAME}", mean("switchgear_engine_prefill_seconds", BY_REPLICA, HERE)),
              (f"first {REPLICA_NAME}", mean("switchgear_engine_first_token_seconds", BY_REPLICA, HERE)),
              (f"token {REPLICA_NAME}", mean("switchgear_engine_token_seconds", BY_REPLICA, HERE))),
        graph("GPU utilisation", "By DCGM's exporter.", "percent",
              ("{{gpu}}", "avg by (gpu) (DCGM_FI_DEV_GPU_UTIL)"), empty="no DCGM exporter"),
        graph("GPU memory in use", "By DCGM's exporter.", "decmbytes",
              ("{{gpu}}", "sum by (gpu) (DCGM_FI_DEV_FB_USED)"), empty="no DCGM exporter"),
    ),
)  # fmt: skip

WANTED = f"sum by (model) ({alike('switchgear_replicas_wanted', 'model, spot', MODEL)})"
STARTS = Board(
    "switchgear-starts",
    "Switchgear: cold start and autoscaling",
    "How long replicas take to become ready, and whether there are as many as wanted.",
    (
        graph("Wanted and ready", "Replicas; below what is wanted they start, or fail.", "short",
              (f"wanted {MODEL_NAME}", WANTED),
              (f"ready {MODEL_NAME}",
               alike("switchgear_replicas", BY_MODEL, f'{MODEL},phase="ready"') + f" or 0 * {WANTED}")),
        graph("On spot capacity", "Replicas that may be taken away.", "short",
              ("{{model}} spot {{spot}}", alike("switchgear_replicas_wanted", "model, spot", MODEL))),
        graph("Launch until ready", "Mean, of replicas that the gateway launches.", "s",
              (MODEL_NAME, mean("switchgear_replica_start_seconds", BY_MODEL, MODEL)),
              empty="nothing was launched"),
        graph("Steps of the last start", "Spawn, import, weights, compilation, warm-up.", "s",
              ("{{replica}} {{step}}",
               alike("switchgear_replica_start_step_seconds", "replica, step", HERE)),
              empty="nothing was launched"),
        graph("Replicas that became ready", "First starts and returns, since the start.", "short",
              (REPLICA_NAME, alike("switchgear_replica_starts_total", BY_REPLICA, HERE))),
        graph("Requests that found a model loading", "They got 503 with a wait to expect.", "reqps",
              ("", rate("switchgear_refusals_total", "code", 'code="model_loading"')), empty="none"),
        graph("Waiting for a replica", "The demand that scaling answers to.", "short",
              (MODEL_NAME, f"sum by (model) (switchgear_queue_depth{{{MODEL}}})")),
    ),
)  # fmt: skip

GATEWAY = Board(
    "switchgear-gateway",
    "Switchgear: gateway",
    "What the gateway itself costs, and how its stores do.",
    (
        graph("CPU per request", "Of the gateway's processes, everything included.", "s",
              ("", f"sum(rate(switchgear_cpu_seconds_total[$__rate_interval])) / "
                   f"sum(rate({REQUESTS}[$__rate_interval]))")),
        graph("CPU", "Cores in use.", "short",
              ("", "sum(rate(switchgear_cpu_seconds_total[$__rate_interval]))")),
        graph("Loop lag", "By how much the event loop woke a timer too late.", "s",
              ("p50", quantile(0.5, "switchgear_loop_lag_seconds", "job")),
              ("p99", quantile(0.99, "switchgear_loop_lag_seconds", "job"))),
        graph("Memory", "Resident.", "bytes", ("", "sum(switchgear_memory_bytes)")),
        graph("Database writes", "A carry of the journal into the ledger.", "s",
              ("p50", quantile(0.5, "switchgear_loop_step_seconds", "job", 'loop="ledger"')),
              ("p99", quantile(0.99, "switchgear_loop_step_seconds", "job", 'loop="ledger"'))),
        graph("Redis", "A round of shared limits.", "s",
              ("p50", quantile(0.5, "switchgear_loop_step_seconds", "job", 'loop="limits"')),
              ("p99", quantile(0.99, "switchgear_loop_step_seconds", "job", 'loop="limits"')),
              empty="no Redis"),
        graph("Background loops", "Mean time of a step.", "s",
              ("{{loop}}", mean("switchgear_loop_step_seconds", "loop"))),
        graph("Failed steps", "Of background loops.", "ops",
              ("{{loop}}", rate("switchgear_loop_failures_total", "loop")), empty="none"),
        graph("Traces", "failed and dropped ones are lost; the ledger is not.", "reqps",
              ("{{outcome}}", rate("switchgear_traces_total", "outcome")), empty="tracing is off"),
        graph("Metrics sent", "By OTLP; one that failed is made up for by the next.", "ops",
              ("{{outcome}}", rate("switchgear_metric_exports_total", "outcome")), empty="not sent by OTLP"),
        graph("Lines of the log", "Of requests; dropped ones are lost.", "ops",
              ("{{outcome}}", rate("switchgear_log_lines_total", "outcome"))),
        graph("Webhooks", "Attempts to deliver.", "ops",
              ("{{outcome}}", rate("switchgear_webhook_attempts_total", "outcome")), empty="none"),
        graph("Limits without Redis", "Requests judged by one process alone.", "reqps",
              ("", "sum(rate(switchgear_limits_alone_total[$__rate_interval]))"), empty="none"),
        figure("Version", "Of the gateway.", "none", "count by (version) (switchgear_build_info)"),
    ),
)  # fmt: skip

BOARDS = (OVERVIEW, ROUTING, CACHE, MONEY, FLEET, STARTS, GATEWAY)
