"""Every name that spans bear, in one place: conventions still move, the code around them need not.

``gen_ai.*`` follow OpenTelemetry's GenAI semantic conventions as of ``VERSION``, all in the state
Development; they have no attribute for money, so ``gen_ai.usage.cost`` (USD) is the name that backends read.
What no convention has begins with ``switchgear.``; money there is in whole nano-dollars, as in the ledger.
"""

VERSION = "semantic-conventions-genai, November 2026 (gen_ai_latest_experimental)"

# The request
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_MESSAGES = "gen_ai.input.messages"  # JSON; only of tenants that want it
OUTPUT_MESSAGES = "gen_ai.output.messages"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"  # cached ones included
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
COST_USD = "gen_ai.usage.cost"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# Who pays what
REQUEST_ID = "switchgear.request.id"  # also the ledger's
ORG = "switchgear.org"
PROJECT = "switchgear.project"
KEY_ID = "switchgear.key.id"
AMOUNT = "switchgear.billing.amount_nanousd"
PRICE_VERSION = "switchgear.billing.price_version"
SOURCE = "switchgear.billing.source"
ESTIMATED = "switchgear.billing.estimated"

# What was decided
ROUTE = "switchgear.route"
SCORE = "switchgear.routing.score"
THRESHOLD = "switchgear.routing.threshold"
REASON = "switchgear.routing.reason"
CANDIDATES = "switchgear.routing.candidates"
CACHE = "switchgear.cache"
CACHE_ENTRY = "switchgear.cache.entry.id"
CACHE_SIMILARITY = "switchgear.cache.similarity"
CACHE_VERDICT = "switchgear.cache.verdict"
CONTENT_CUT = "switchgear.content.cut"
ATTEMPTS = "switchgear.attempts"
REPLICA = "switchgear.replica"
ATTEMPT = "switchgear.attempt.number"
OUTCOME = "switchgear.attempt.outcome"

# Metrics: ours as Prometheus spells them -> OpenTelemetry's. All others keep the name of the table.
METRICS = {
    "gen_ai_server_request_duration_seconds": "gen_ai.server.request.duration",
    "gen_ai_server_time_to_first_token_seconds": "gen_ai.server.time_to_first_token",
    "gen_ai_server_time_per_output_token_seconds": "gen_ai.server.time_per_output_token",
    "gen_ai_client_token_usage": "gen_ai.client.token.usage",
    "gen_ai_client_operation_duration_seconds": "gen_ai.client.operation.duration",
}
LABELS = {
    "gen_ai_operation_name": OPERATION,
    "gen_ai_provider_name": PROVIDER,
    "gen_ai_request_model": REQUEST_MODEL,
    "gen_ai_response_model": RESPONSE_MODEL,
    "gen_ai_token_type": "gen_ai.token.type",
    "error_type": ERROR_TYPE,
}
