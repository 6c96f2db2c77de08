"""Configuration files for tests."""

SAMPLE = """
[server]
host = "127.0.0.1"
port = 8080
workers = 1
drain_s = 30
max_body_bytes = 1000000
heartbeat_after_s = 10
metrics_token_env = "METRICS_TOKEN"
state_dir = "state"

[database]
url = "sqlite:///switchgear.db"

[[models]]
name = "small"
kind = "chat"
engine = "vllm"
upstream_model = "smollm2-135m"
price = { input = 0.05, cached_input = 0.01, output = 0.20, cache_hit = 0.1, joined = 0.1 }
context_tokens = 2048
policy = "adaptive"
[[models.replicas]]
url = "http://127.0.0.1:9001/v1"
max_concurrency = 64
spot = true
weight = 1
version = "2026-11"
api_key_env = "UPSTREAM_KEY"

[[models]]
name = "large"
price = { input = 0.5 }
[models.launch]
weights = "/models/qwen"
gpus = 1
tensor_parallel = 1
quantization = "awq"
min_replicas = 0
max_replicas = 4
speculative = { method = "ngram", num_speculative_tokens = 4 }

[[routes]]
name = "auto"
tiers = ["small", "large"]
objective = { large_share = 0.3 }
fallback = ["large"]

[cache]
exact_ttl_s = 3600
semantic = { error_bound = 0.01, precision = 0.95, ttl_s = 86400 }

[[keys]]
name = "bench"
sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
rpm = 1000
tpm = 100000
concurrency = 10
budget_usd = 5
prepaid_usd = 10.5
floor_usd = 0.5
band = "interactive"
models = ["small", "auto"]

[[keys]]
name = "other"
key_env = "OTHER_KEY"
"""

REDIS = """
[redis]
url = "redis://127.0.0.1:6379/0"
"""

ENVIRON = {"METRICS_TOKEN": "t", "UPSTREAM_KEY": "u", "OTHER_KEY": "sk-sg-o"}

MODEL = """
[[models]]
name = "m"
price = { input = 0.05 }
[[models.replicas]]
url = "http://127.0.0.1:9001/v1"
"""
