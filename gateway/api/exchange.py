"""The raw ASGI shell around the pipeline: body in, answer out, and the client watched all along.

Rules: the body is counted while it is read; the status waits for the answer's first bytes, but a stream's no
longer than the heartbeat; a client that leaves cancels the work at whatever point it is; after the status a
failure is one in-band error event; what the pipeline has taken is released before this returns.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from litestar.types import Receive, Send

from gateway.errors import (
    ApiError,
    InvalidRequest,
    RequestTooLarge,
    ShuttingDown,
    error_body,
    error_event,
    error_headers,
    translate,
)
from gateway.pipeline import Accepted, Head, Headers

log = logging.getLogger("switchgear.api")

LEAVING = "switchgear.leaving"  # extension of a scope: takes what to call when the client leaves
FAREWELL_S = 1.0
HEARTBEAT = b": keep-alive\n\n"

Parts = AsyncGenerator[Accepted | Head | bytes, None]


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class Abort:
    """Tells why the task of an exchange was cancelled: by a client that left, or by the shutdown."""

    error: ApiError | None = None
    gone = False

    def __init__(self) -> None:
        self.task = asyncio.current_task()

    def shut_down(self) -> None:
        """End the exchange because the process ends."""
        if self.task is not None and self.error is None and not self.gone:
            self.error = ShuttingDown("The gateway is shutting down.", retry_after_s=1.0)
            self.task.cancel()

    def leave(self) -> None:
        """End the exchange because nobody listens."""
        if self.task is not None and self.error is None:
            self.gone = True
            self.task.cancel()


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """Read the body to its end; raises RequestTooLarge over the limit, ClientGone where it breaks off."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    pieces: list[bytes] = []
    total_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if message["type"] != "http.request":
            raise InvalidRequest("The request is not plain HTTP.")
        piece = message["body"]
        total_bytes += len(piece)
        if total_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        pieces.append(piece)
        if not message["more_body"]:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a complete answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_error(send: Send, error: ApiError, request_id: str) -> None:
    """Send an error with its headers."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
    await send_whole(send, error.status, [*headers, *error_headers(error)], error_body(error))


class Exchange:
    """One request's answer on its way out; ``abort.leave`` is to be called when the client goes."""

    _accepted: Accepted | None = None
    _started = False
    _sending = False
    _spoken = False
    _timer: asyncio.TimerHandle | None = None
    _beater: asyncio.Task[None] | None = None

    def __init__(self, send: Send, request_id: str, heartbeat_s: float) -> None:
        self._send = send
        self._request_id = request_id
        self._heartbeat_s = heartbeat_s
        self._headers: Headers = []
        self.abort = Abort()

    async def run(self, parts: Parts) -> None:
        """Send what the pipeline gives, until its end or the client's."""
        try:
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, bytes):
                        await self._body(part)
                    elif isinstance(part, Head):
                        self._headers = part.headers
                    else:
                        self._accepted = part
                        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_s, self._beat)
            if self._accepted is not None:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if self.abort.task is None or not (self.abort.gone or self.abort.error):
                raise
            self.abort.task.uncancel()
            if self.abort.error is not None:
                await self._fail(self.abort.error)
        except Exception as error:
            known = translate(error)
            if known is not error and known.status == 500:
                log.error("request %s failed", self._request_id, exc_info=error)
            elif known.status >= 500:
                log.warning("request %s ended with %d %s", self._request_id, known.status, known.code)
            await self._fail(known)
        finally:
            if self._timer is not None:
                await self._stop_heartbeats()

    async def _body(self, data: bytes) -> None:
        if self._accepted is None:
            self._started = True
            await send_whole(self._send, 200, self._with_id(self._headers), data)
            return
        if self._beater is not None:
            await asyncio.shield(self._beater)
            self._beater = None
        self._sending = self._spoken = True
        if not self._started:
            await self._start(self._headers)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._sending = False

    async def _start(self, headers: Headers) -> None:
        self._started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": self._with_id(headers)})

    async def _fail(self, error: ApiError) -> None:
        """Say what went wrong: by status where nothing was sent, else in band.

        Nobody watches the client any more, and one that reads nothing is not waited for.
        """
        self.abort.task = None
        if self._timer is not None:
            await self._stop_heartbeats()
        with suppress(OSError):
            async with asyncio.timeout(FAREWELL_S):
                if not self._started:
                    await send_error(self._send, error, self._request_id)
                elif self._accepted is not None:
                    await self._send(
                        {"type": "http.response.body", "body": error_event(error), "more_body": False}
                    )

    def _with_id(self, headers: Headers) -> Headers:
        return [*headers, (b"x-request-id", self._request_id.encode())]

    # The stream kept alive
    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._heartbeat_s, self._beat)
        spoken, self._spoken = self._spoken, False
        if not spoken and not self._sending and (self._beater is None or self._beater.done()):
            self._beater = loop.create_task(self._send_heartbeat())

    async def _send_heartbeat(self) -> None:
        if not self._started and self._accepted is not None:
            await self._start(self._accepted.headers)
        await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})

    async def _stop_heartbeats(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beater is not None and not self._beater.done():
            self._beater.cancel()
            with suppress(asyncio.CancelledError):
                await self._beater


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is over the limit of {limit_bytes} bytes.")
