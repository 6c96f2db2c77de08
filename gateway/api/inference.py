"""``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: one shell, three schemas."""

import os
import time
from typing import Any, cast

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.api.exchange import WIRE, ClientGone, Exchange, Wire, send_error
from gateway.calls import Incoming
from gateway.errors import ApiError, MethodNotAllowed, ShuttingDown
from gateway.openai.schemas import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from gateway.process import Process


class _Entropy:
    """Random digits from the kernel, fetched by the page: one system call for many ids."""

    _page = ""
    _used = 0

    def forget(self) -> None:
        """Begin a new page: a forked child must not repeat its parent's digits."""
        self._page = ""

    def take(self, count: int) -> str:
        """Give hexadecimal digits that were never given before."""
        begin, self._used = self._used, self._used + count
        if self._used > len(self._page):
            self._page, begin, self._used = os.urandom(4096).hex(), 0, count
        return self._page[begin : self._used]


_entropy = _Entropy()
os.register_at_fork(after_in_child=_entropy.forget)


def new_request_id() -> str:
    """Make an id that nobody can guess: the milliseconds of its making, and 80 random bits.

    Ids that grow with time keep the databases' indexes fast: random ones took twice the CPU of a ledger row.
    """
    return f"req_{time.time_ns() // 1_000_000:012x}{_entropy.take(20)}"


def handler(process: Process, endpoint: Endpoint) -> ASGIRouteHandler:
    """Make the handler of one endpoint."""

    @asgi(f"/v1{endpoint.path}", opt={"exclude_from_csrf": True})
    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        started_s = process.now()
        request_id = new_request_id()
        asked = cast("dict[str, Any]", scope)
        wire: Wire = asked["extensions"][WIRE]()  # our own server's
        try:
            if asked["method"] != "POST":
                raise MethodNotAllowed(f"/v1{endpoint.path} takes POST, not {asked['method']}.")
            if process.draining:
                raise ShuttingDown("The gateway is shutting down.", retry_after_s=1.0)
            body = await wire.read(process.settings.server.max_body_bytes)
        except ApiError as error:
            await send_error(wire, error, request_id)
            return
        except ClientGone:
            return
        incoming = Incoming(endpoint, wire.headers, body, request_id, started_s)
        exchange = Exchange(wire, request_id, process.settings.server.heartbeat_after_s)
        wire.on_leave(exchange.abort.leave)
        process.exchanges.add(exchange.abort)
        recordings = process.recordings
        answers = recordings.serve if recordings.wanted(incoming.headers) else process.pipeline.infer
        try:
            await exchange.run(answers(incoming, exchange))
        finally:
            process.exchanges.discard(exchange.abort)

    return infer


def handlers(process: Process) -> list[ASGIRouteHandler]:
    """Give the handlers of the inference endpoints."""
    return [handler(process, endpoint) for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)]
