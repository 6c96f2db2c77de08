"""Typed configuration: the keys that there are, in one frozen ``Settings``.

Rules: unknown keys are errors; units end the name; secrets come as names of environment variables, never as
values. A file becomes ``Settings`` in ``gateway.config_file``; relations between keys are checked in
``gateway.checks``.
"""

from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from backends.discovery import DOOM_TAINTS
from backends.engines import LaunchProfile

# Upper bounds keep infinity out of timers and every amount within SQL's 64 bits.
Positive = Annotated[int, Meta(gt=0, le=2**53)]
LogBytes = Annotated[int, Meta(ge=256 * 1024, le=2**40)]  # more than comes at once
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1)]
Usd = Annotated[float, Meta(ge=0, le=1e9)]
UsdPerMillion = Annotated[float, Meta(ge=0, le=1e6)]
Label = Annotated[str, Meta(min_length=1, max_length=200)]
# No slash: "a/b" of one organisation must never read like "b" of another's; and "*" means all of them.
TENANT = r"^[^/*\x00-\x1f\x7f]{1,200}$"
TENANTS = r"^[^/\s]+(/[^/\s]+)?$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
LANGUAGE = r"^[a-z]{2,3}$"
SHA256 = r"^[0-9a-fA-F]{64}$"
HTTP = r"^https?://"
API = r"^(https?://.*)?$"
SQL = r"^(sqlite|postgresql)://"
REDIS = r"^(redis|rediss|unix)://"
WORDS = {
    TENANT: "1 to 200 characters, without '/', '*' and control characters",
    TENANTS: "ORGANISATION or ORGANISATION/PROJECT, without spaces",
    NAME: "a letter or digit, then up to 127 letters, digits and . _ : / -",
    VERSION: "a letter or digit, then up to 63 letters, digits and . _ -",
    LANGUAGE: "two or three small letters, such as en",
    SHA256: "64 hexadecimal digits",
    HTTP: "a URL that begins with http:// or https://",
    API: "a URL that begins with http:// or https://, or nothing",
    SQL: "sqlite:///FILE or postgresql://USER@HOST/DATABASE",
    REDIS: "redis://HOST:PORT/NUMBER, rediss://... or unix://PATH",
}
"""What each pattern asks for, as an operator is told it."""
TenantName = Annotated[str, Meta(pattern=TENANT)]
Name = Annotated[str, Meta(pattern=NAME)]
Band = Literal["interactive", "standard", "batch"]
Kind = Literal["chat", "embedding"]
Engine = Literal["vllm", "trtllm", "sglang", "openai", "local"]


class ConfigError(Exception):
    """The configuration cannot be used; the text says where and what to do."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. (Each subclass says ``frozen`` again for the type checker.)"""


class ServerSettings(Table, frozen=True):
    """``[server]``."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    workers: Positive = 1
    drain_s: Annotated[float, Meta(ge=0, le=1e9)] = 30.0
    max_body_bytes: Positive = 20 * 1024 * 1024
    heartbeat_after_s: Seconds = 10.0
    metrics_token_env: str | None = None
    state_dir: str = ".switchgear/state"
    managed_config: bool = False


class FleetSettings(Table, frozen=True):
    """``[fleet]``: ``apart`` where ``switchgear fleet run`` launches the engines, not the gateway.

    Engines whose gateway was killed run on for ``orphan_s``, for the next one to take them over.
    """

    apart: bool = False
    orphan_s: Annotated[float, Meta(ge=0, le=600)] = 15.0


class SpotSettings(Table, frozen=True):
    """``[spot]``: which cloud's notices are listened to, for the replicas that run on this machine."""

    cloud: Literal["aws", "gcp", "azure"]
    metadata_url: Annotated[str, Meta(pattern=HTTP)] | None = None


class DatabaseSettings(Table, frozen=True):
    """``[database]``: SQLite or PostgreSQL."""

    url: Annotated[str, Meta(pattern=SQL)] = "sqlite:///switchgear.db"


class RedisSettings(Table, frozen=True):
    """``[redis]``: what several gateway processes share; slower than the time-out counts as away."""

    url: Annotated[str, Meta(pattern=REDIS)]
    password_env: str | None = None
    timeout_ms: Annotated[float, Meta(gt=0, le=1e9)] = 50.0


class PriceSettings(Table, frozen=True):
    """USD per million tokens, ``request`` in USD; the last four are factors on the whole price."""

    input: UsdPerMillion
    output: UsdPerMillion = 0.0
    cached_input: UsdPerMillion | None = None
    reasoning: UsdPerMillion | None = None
    request: UsdPerMillion = 0.0
    cache_hit: Share = 0.1
    joined: Share = 0.1
    batch: Share = 1.0
    spot: Share = 1.0


class ReplicaSettings(Table, frozen=True):
    """``[[models.replicas]]``: a server that runs already."""

    url: Annotated[str, Meta(pattern=HTTP)]
    max_concurrency: Positive = 64
    spot: bool = False
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    version: str = ""
    api_key_env: str | None = None


class WorkloadSettings(Table, frozen=True):
    """``[[models.kubernetes.workloads]]``: a Deployment or StatefulSet, and the Service of the same name."""

    name: Label
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    version: str = ""
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0


class PodSettings(Table, frozen=True):
    """``[models.kubernetes]``: replicas are pods; ``min_replicas = 0`` puts them to sleep when idle."""

    workloads: Annotated[tuple[WorkloadSettings, ...], Meta(min_length=1)]
    namespace: Label = "default"
    min_replicas: Annotated[int, Meta(ge=0)] = 1
    idle_s: Seconds = 900.0
    when_asleep: Literal["hold", "refuse"] = "hold"
    max_concurrency: Positive = 64


class KubernetesSettings(Table, frozen=True):
    """``[kubernetes]``: the API server, by default the one of the cluster that the gateway is a pod of."""

    api: Annotated[str, Meta(pattern=API)] = ""
    token_file: str | None = None
    ca_file: str | None = None
    namespace: str | None = None
    lease: Label = "switchgear"
    timeout_s: Seconds = 10.0
    watch_s: Positive = 60
    evict: bool = True
    taints: tuple[str, ...] = DOOM_TAINTS


class BandSettings(Table, frozen=True):
    """One of ``bands = [...]``: what differs from the model's own settings for a band of priority."""

    name: Band
    queue_timeout_s: Seconds | None = None
    slo_ttft_ms: Positive | None = None


class HedgeSettings(Table, frozen=True):
    """``hedge = {...}``: from when on a second replica is asked, and for how many of the requests at most.

    A first byte is late after ``after_ms``, or, where that is not set, above a quantile of the latest ones.
    """

    after_ms: Annotated[float, Meta(ge=1, le=1e6)] | None = None
    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.95
    budget: Share = 0.1


class VersionSettings(Table, frozen=True):
    """``[[models.versions]]``: its share of the traffic, and the keys, by name, that always get it."""

    name: Annotated[str, Meta(pattern=VERSION)]
    share: Share = 0.0
    keys: tuple[str, ...] = ()
    weights: str | None = None


class ModelSettings(Table, frozen=True):
    """``[[models]]``."""

    name: Name
    aliases: tuple[Name, ...] = ()
    versions: tuple[VersionSettings, ...] = ()
    kind: Kind = "chat"
    engine: Engine = "vllm"
    upstream_model: str | None = None
    price: PriceSettings | None = None
    context_tokens: Positive | None = None
    tools: bool = True
    images: bool = True
    json_schema: bool = True
    languages: tuple[Annotated[str, Meta(pattern=LANGUAGE)], ...] = ()
    policy: str = "adaptive"
    share_prefix_cache: bool = False
    queue_limit: Annotated[int, Meta(ge=0)] = 256
    queue_timeout_s: Seconds = 60.0
    queue_age_s: Seconds = 30.0
    slo_ttft_ms: Positive | None = None
    bands: tuple[BandSettings, ...] = ()
    batch_window_ms: Annotated[float, Meta(ge=0, le=1000)] | None = None
    hedge: HedgeSettings | None = None
    connect_timeout_s: Seconds = 5.0
    first_byte_timeout_s: Seconds = 120.0
    stall_timeout_s: Seconds = 60.0
    max_attempts: Positive = 3
    replicas: tuple[ReplicaSettings, ...] = ()
    launch: LaunchProfile | None = None
    kubernetes: PodSettings | None = None

    @property
    def upstream_name(self) -> str:
        """The name that the replicas know the model by."""
        return self.upstream_model or self.name


class Objective(Table, frozen=True):
    """What a route aims at: exactly one of these."""

    large_share: Share | None = None
    quality: Share | None = None
    cost_per_request_usd: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    threshold: Share | None = None

    @property
    def told(self) -> str:
        """The objective in words: ``large_share=0.3``."""
        return _told(self)

    @property
    def stated(self) -> list[tuple[str, float]]:
        """What is stated, by name."""
        pairs = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, value) for name, value in pairs if value is not None]


@lru_cache(256)
def _told(objective: Objective) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in objective.stated)


class Cascade(Table, frozen=True):
    """``cascade = {...}``: the cheapest tier answers first; an answer that it is unsure of goes to the next.

    ``min_logprob`` is the least mean log-probability of its tokens that counts as sure.
    """

    min_logprob: Annotated[float, Meta(le=0, ge=-100)] = -0.8
    timeout_s: Seconds = 20.0


class Shadow(Table, frozen=True):
    """``shadow = {...}``: a share of the route's traffic is also asked of the other tier, and judged."""

    share: Share = 0.02
    judge: str | None = None
    max_usd_per_day: Usd = 1.0


class RouteSettings(Table, frozen=True):
    """``[[routes]]``: a virtual model; ``tiers`` are models, cheapest first."""

    name: Name
    tiers: Annotated[tuple[str, ...], Meta(min_length=2)]
    objective: Objective = Objective(large_share=0.3)
    fallback: tuple[str, ...] = ()
    grade: Literal["fast", "precise"] = "fast"
    embedder: str | None = None
    grade_timeout_ms: Annotated[float, Meta(gt=0, le=10_000)] = 50.0
    when_late: Literal["fast", "large"] = "fast"
    cascade: Cascade | None = None
    shadow: Shadow | None = None


class SemanticSettings(Table, frozen=True):
    """``semantic = {...}`` of ``[cache]``."""

    error_bound: Share = 0.01
    precision: Share = 0.95
    ttl_s: Seconds = 86400.0
    volatile_ttl_s: Seconds = 600.0
    embedding: str = "static"
    store: Literal["memory", "redis"] = "memory"
    redis_timeout_ms: Annotated[float, Meta(gt=0, le=1000)] = 5.0
    audit_tokens_per_hour: Annotated[int, Meta(ge=0)] = 1_000_000


class CacheSettings(Table, frozen=True):
    """``[cache]``: ``exact_ttl_s = 0`` switches it off; sampling hotter than the limit is never cached."""

    exact_ttl_s: Annotated[float, Meta(ge=0, le=1e9)] = 3600.0
    max_temperature: Annotated[float, Meta(ge=0)] = 1.0
    max_bytes: Positive = 64 * 1024 * 1024
    max_entries: Positive = 100_000
    max_answer_bytes: Positive = 1024 * 1024
    replay_tokens_per_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    opt_out: tuple[str, ...] = ()
    semantic: SemanticSettings | None = None


class CoalescingSettings(Table, frozen=True):
    """``[coalescing]``: which identical requests in flight share one upstream call."""

    policy: Literal["deterministic", "all", "off"] = "deterministic"
    live: bool = False
    max_bytes: LogBytes = 8 * 1024 * 1024
    lease_s: Annotated[float, Meta(ge=0.2, le=3600)] = 3.0


class IdempotencySettings(Table, frozen=True):
    """``[idempotency]``: how long an answer is kept for its ``Idempotency-Key``, and how large it may be."""

    retention_s: Seconds = 86400.0
    max_bytes: LogBytes = 8 * 1024 * 1024


class StreamSettings(Table, frozen=True):
    """``[streams]``: resumable streams, in time after their end, in bytes each and together."""

    keep_s: Seconds = 120.0
    orphan_s: Seconds = 30.0
    max_bytes: LogBytes = 4 * 1024 * 1024
    total_bytes: Positive = 128 * 1024 * 1024


class BillingSettings(Table, frozen=True):
    """``[billing]``: what happens to models without a price, and how long the carried journal is kept."""

    unpriced: Literal["flag", "refuse"] = "flag"
    keep_journal_days: Annotated[float, Meta(ge=0, le=3650)] = 7.0
    keep_journal_bytes: Annotated[int, Meta(ge=0, le=2**53)] = 1024 * 1024 * 1024


class WebhookSettings(Table, frozen=True):
    """``[webhooks]``: whether they may lead to addresses that are not public."""

    allow_private: bool = False


class ContentSettings(Table, frozen=True):
    """``[tracing.content]``: whose prompts and answers are in their traces, and what is taken out of them."""

    tenants: Annotated[tuple[Annotated[str, Meta(pattern=TENANTS)], ...], Meta(min_length=1, max_length=1000)]
    max_chars: Annotated[int, Meta(ge=1, le=65536)] = 8192
    redact: Annotated[tuple[str, ...], Meta(max_length=100)] = ()

    def __post_init__(self) -> None:
        import regex  # only who has rules pays for it

        for one in self.redact:
            try:
                found = regex.compile(one)
            except regex.error as error:
                raise ValueError(f"`redact`: {one!r} is no regular expression: {error}") from None
            if found.match("") is not None:
                raise ValueError(f"`redact`: {one!r} matches nothing at all; give it something to find")


class TracingSettings(Table, frozen=True):
    """``[tracing]``: what is kept whatever the sampler said; the ``OTEL_*`` variables switch tracing on."""

    slow_s: Annotated[float, Meta(ge=0, le=1e9)] = 10.0
    expensive_usd: Usd = 0.1
    content: ContentSettings | None = None


class LoggingSettings(Table, frozen=True):
    """``[logging]``: which requests have a line in the log, and from which level on all else has one."""

    requests: Literal["all", "failed", "none"] = "all"
    level: Literal["debug", "info", "warning", "error"] | None = None


class KeySettings(Table, frozen=True):
    """``[[keys]]``: a bootstrap key, by the hash of its text or by the variable that holds it."""

    name: Label
    sha256: Annotated[str, Meta(pattern=SHA256)] | None = None
    key_env: str | None = None
    org: TenantName = "default"
    project: TenantName = "default"
    rpm: Positive | None = None
    tpm: Positive | None = None
    rpd: Positive | None = None
    tpd: Positive | None = None
    concurrency: Positive | None = None
    budget_usd: Usd | None = None
    prepaid_usd: Usd | None = None
    floor_usd: Usd | None = None
    band: Band | None = None
    weight: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    models: tuple[str, ...] = ()
    resumable: bool | None = None
    large_share: Share | None = None
    most_large_share: Share | None = None


class Settings(Table, frozen=True):
    """The whole file."""

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings | None = None
    kubernetes: KubernetesSettings = KubernetesSettings()
    spot: SpotSettings | None = None
    fleet: FleetSettings = FleetSettings()
    models: tuple[ModelSettings, ...] = ()
    routes: tuple[RouteSettings, ...] = ()
    cache: CacheSettings = CacheSettings()
    coalescing: CoalescingSettings = CoalescingSettings()
    idempotency: IdempotencySettings = IdempotencySettings()
    streams: StreamSettings = StreamSettings()
    billing: BillingSettings = BillingSettings()
    webhooks: WebhookSettings = WebhookSettings()
    tracing: TracingSettings = TracingSettings()
    logging: LoggingSettings = LoggingSettings()
    keys: tuple[KeySettings, ...] = ()
