"""Asking a replica whether it is well: which questions, and what the answers mean.

The question itself is asked by a function that the gateway gives (only `backends.clients` may import an HTTP
client). A replica is any URL that answers: a missing `/health` or `/v1/models` takes a feature away, never
readiness. What was launched here must also do one tiny piece of work before it counts as ready, because
engines answer `/health` before their first, slow, request.
"""

import asyncio
import errno
from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from backends.engines import Engine
from backends.replica import Event


class ProbeReply(Struct, frozen=True):
    status: int
    body: bytes = b""


class Probe(Protocol):
    async def __call__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> ProbeReply:
        """GET the url, or POST the JSON body to it. Raises OSError or TimeoutError where no answer came."""


class Target(Struct, frozen=True, kw_only=True):
    """Whom to ask, and how."""

    url: str
    engine: Engine
    headers: Mapping[str, str]
    upstream_model: str
    kind: str = "chat"


class Verdict(Struct, frozen=True):
    event: Event
    reason: str = ""


async def ask_health(probe: Probe, target: Target, timeout_s: float) -> Verdict:
    """One probe: the engine's health address, or the list of models where it has none."""
    root = target.url.removesuffix("/v1")
    try:
        if target.engine.health_path is not None:
            reply = await probe(root + target.engine.health_path, target.headers, timeout_s)
            if not _absent(reply.status):
                return _verdict(reply)
        return _verdict(await probe(target.url + "/models", target.headers, timeout_s))
    except (OSError, TimeoutError) as error:
        return missed(error)


async def ask_work(probe: Probe, target: Target, timeout_s: float) -> Verdict:
    """The warm-up: one token, or one embedding, must come back."""
    verdict = Verdict(Event.MISSED, "no warm-up")
    try:
        for path, request in _warm_ups(target.kind):
            body = msgspec.json.encode({"model": target.upstream_model, **request})
            headers = {**target.headers, "content-type": "application/json"}
            reply = await probe(target.url + path, headers, timeout_s, body)
            if reply.status < 400:
                return Verdict(Event.ANSWERED)
            said = reply.body[:300].decode(errors="replace")
            verdict = Verdict(Event.MISSED, f"warm-up on {path} got {reply.status}: {said}")
    except (OSError, TimeoutError) as error:
        return missed(error)
    return verdict


async def ask_metrics(probe: Probe, target: Target, timeout_s: float) -> str | None:
    """The text of its engine's metrics; None where it does not give them now, "" where it has none."""
    path = target.engine.metrics_path
    if path is None:
        return None
    try:
        async with asyncio.timeout(timeout_s):
            reply = await probe(target.url.removesuffix("/v1") + path, target.headers, timeout_s)
    except (OSError, TimeoutError):
        return None
    return reply.body.decode(errors="replace") if reply.status == 200 else ""


async def tell(
    probe: Probe, target: Target, path: str, timeout_s: float, body: Mapping[str, object] | None = None
) -> str:
    """Post to one of the engine's own addresses; "" where it did it, else what it said."""
    headers = {**target.headers, "content-type": "application/json"}
    try:
        async with asyncio.timeout(timeout_s):
            url = target.url.removesuffix("/v1") + path
            reply = await probe(url, headers, timeout_s, msgspec.json.encode(body or {}))
    except (OSError, TimeoutError) as error:
        return missed(error).reason
    return "" if reply.status < 300 else f"status {reply.status}: {reply.body[:300].decode(errors='replace')}"


def missed(error: OSError | TimeoutError) -> Verdict:
    if isinstance(error, ConnectionRefusedError) or error.errno == errno.ECONNREFUSED:
        return Verdict(Event.REFUSED, "connection refused")
    if isinstance(error, TimeoutError):
        return Verdict(Event.MISSED, "no answer in time")
    return Verdict(Event.MISSED, str(error) or type(error).__name__)


def _warm_ups(kind: str) -> tuple[tuple[str, dict[str, object]], ...]:
    """Base models have no chat template and refuse the first; both are the same work."""
    if kind == "embedding":
        return (("/embeddings", {"input": "warm up"}),)
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return (("/chat/completions", chat), ("/completions", {"prompt": "hi", "max_tokens": 1}))


def _absent(status: int) -> bool:
    """The server is there, the address is not."""
    return status in (404, 405, 501)


def _verdict(reply: ProbeReply) -> Verdict:
    if reply.status < 500 or _absent(reply.status):
        return Verdict(Event.ANSWERED)
    return Verdict(Event.MISSED, f"probe got {reply.status}")
