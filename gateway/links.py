"""What several gateways share through a Redis, made from the settings; else this process's own.

Its client is imported only where there is a Redis: it takes 8 MB.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gateway.settings import RedisSettings, Settings
from gateway.state.logs import Logs, MemoryLogs

if TYPE_CHECKING:
    from gateway.state.redis import RedisLimits
    from gateway.state.redis_meeting import RedisMeeting
    from semantic_cache.stores.redis import Link
    from semantic_cache.stores.shared import SharedLog


def logs_of(settings: Settings, environ: Mapping[str, str]) -> Logs:
    """Make the logs of this process, or of all that share a Redis."""
    redis, kept_bytes = settings.redis, settings.streams.total_bytes
    if redis is None:
        return MemoryLogs(kept_bytes)
    from gateway.state.redis_logs import RedisLogs

    return RedisLogs(
        redis.url,
        password=_password(redis, environ),
        timeout_s=redis.timeout_ms / 1000,
        lease_s=settings.coalescing.lease_s,
        kept_bytes=kept_bytes,
    )


def limits_of(
    settings: Settings, environ: Mapping[str, str], alone: Callable[[], None]
) -> "RedisLimits | None":
    """Make the limits that several processes share; ``alone`` hears when one has to count by itself."""
    redis = settings.redis
    if redis is None:
        return None
    from gateway.state.redis import RedisLimits

    return RedisLimits(
        redis.url,
        password=_password(redis, environ),
        timeout_s=redis.timeout_ms / 1000,
        share=settings.server.workers,
        alone=alone,
    )


def news_of(settings: Settings, environ: Mapping[str, str]) -> "SharedLog | None":
    """Make the log of what caches keep; by it gateways also agree on the salt of names."""
    redis = settings.redis
    if redis is None:
        return None
    from semantic_cache.stores.shared import SharedLog

    return SharedLog(redis.url, _password(redis, environ), redis.timeout_ms / 1000)


def meeting_of(settings: Settings, environ: Mapping[str, str]) -> "RedisMeeting | None":
    """Make the way to where the processes that route one stream meet; a process without Redis is alone."""
    redis = settings.redis
    if redis is None:
        return None
    from gateway.state.redis_meeting import RedisMeeting

    return RedisMeeting(redis.url, _password(redis, environ), redis.timeout_ms / 1000)


def link_of(settings: Settings, environ: Mapping[str, str], now: Callable[[], float]) -> "Link | None":
    """Make the way to the texts and answers in Redis, where they are to be kept there."""
    redis, semantic = settings.redis, settings.cache.semantic
    if redis is None or semantic is None or semantic.store != "redis":
        return None
    from semantic_cache.stores.redis import Link

    return Link(redis.url, _password(redis, environ), semantic.redis_timeout_ms / 1000, now)


def _password(redis: RedisSettings, environ: Mapping[str, str]) -> str | None:
    return environ[redis.password_env] if redis.password_env else None
