"""``/v1/streams/{id}``: the rest of a resumable stream, for the key that began it."""

from typing import Any, cast

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.api.exchange import WIRE, Exchange, Wire, send_error
from gateway.api.inference import new_request_id
from gateway.errors import ApiError, MethodNotAllowed, ShuttingDown
from gateway.process import Process


def handlers(process: Process) -> list[ASGIRouteHandler]:
    """Make the handler."""

    @asgi("/v1/streams", is_mount=True, opt={"exclude_from_csrf": True})
    async def resume(scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_request_id()
        asked = cast("dict[str, Any]", scope)
        wire: Wire = asked["extensions"][WIRE]()  # our own server's
        try:
            if asked["method"] != "GET":
                raise MethodNotAllowed(f"/v1/streams/... takes GET, not {asked['method']}.")
            if process.draining:
                raise ShuttingDown("The gateway is shutting down.", retry_after_s=1.0)
        except ApiError as error:
            await send_error(wire, error, request_id)
            return
        exchange = Exchange(wire, request_id, process.settings.server.heartbeat_after_s)
        wire.on_leave(exchange.abort.leave)
        process.exchanges.add(exchange.abort)
        stream_id = asked["raw_path"].removeprefix(b"/v1/streams").strip(b"/").decode("ascii")
        try:
            await exchange.run(process.recordings.resume(stream_id, dict(asked["headers"]), exchange))
        finally:
            process.exchanges.discard(exchange.abort)

    return [resume]
