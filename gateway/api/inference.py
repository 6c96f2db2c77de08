"""``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: one shell, three schemas."""

import os

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.api.exchange import LEAVING, ClientGone, Exchange, read_body, send_error
from gateway.errors import ApiError, MethodNotAllowed, ShuttingDown
from gateway.openai.schemas import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from gateway.pipeline import Incoming
from gateway.process import Process


class _Entropy:
    """Random bytes from the kernel, fetched by the page: one system call for many ids."""

    _page = b""
    _used = 0

    def forget(self) -> None:
        """Begin a new page: a forked child must not repeat its parent's bytes."""
        self._page = b""

    def take(self, count: int) -> bytes:
        """Give bytes that were never given before."""
        if self._used + count > len(self._page):
            self._page, self._used = os.urandom(4096), 0
        self._used += count
        return self._page[self._used - count : self._used]


_entropy = _Entropy()
os.register_at_fork(after_in_child=_entropy.forget)


def new_request_id() -> str:
    """Make an id that nobody can guess."""
    return "req_" + _entropy.take(16).hex()


def handler(process: Process, endpoint: Endpoint) -> ASGIRouteHandler:
    """Make the handler of one endpoint."""

    @asgi(f"/v1{endpoint.path}", opt={"exclude_from_csrf": True})
    async def infer(scope: Scope, receive: Receive, send: Send) -> None:
        started_s = process.now()
        request_id = new_request_id()
        headers = dict(scope["headers"])
        try:
            method = scope.get("method")
            if method != "POST":
                raise MethodNotAllowed(f"/v1{endpoint.path} takes POST, not {method}.")
            if process.draining:
                raise ShuttingDown("The gateway is shutting down.", retry_after_s=1.0)
            body = await read_body(receive, headers, process.settings.server.max_body_bytes)
        except ApiError as error:
            await send_error(send, error, request_id)
            return
        except ClientGone:
            return
        incoming = Incoming(
            endpoint=endpoint, headers=headers, body=body, request_id=request_id, started_s=started_s
        )
        exchange = Exchange(send, request_id, process.settings.server.heartbeat_after_s)
        scope["extensions"][LEAVING](exchange.abort.leave)  # type: ignore[index, operator]  # our own server's
        process.exchanges.add(exchange.abort)
        try:
            await exchange.run(process.pipeline.infer(incoming))
        finally:
            process.exchanges.discard(exchange.abort)

    return infer


def handlers(process: Process) -> list[ASGIRouteHandler]:
    """Give the handlers of the inference endpoints."""
    return [handler(process, endpoint) for endpoint in (CHAT, COMPLETIONS, EMBEDDINGS)]
