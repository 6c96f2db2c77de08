"""The shell around the pipeline: body in, answer out, and the client watched all along.

Rules: the body is counted while it is read; the status waits for the answer's first bytes, but a stream's no
longer than the heartbeat; a client that leaves cancels the work at whatever point it is; after the status a
failure is one in-band error event; what the pipeline has taken is released before this returns.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from gateway.errors import (
    SHUT_DOWN,
    ApiError,
    ShuttingDown,
    error_body,
    error_event,
    error_headers,
    translate,
)
from gateway.outlet import Lane

log = logging.getLogger("switchgear.api")

WIRE = "switchgear.wire"  # extension of a scope: gives our own server's side of the request, a ``Wire``
FAREWELL_S = 1.0
HEARTBEAT = b": keep-alive\n\n"


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class Wire(Protocol):
    """One request as the server has it; heads are lines that end in CRLF, without the status.

    Writing waits while the client does not read, and does nothing once it is gone. ``task`` runs its handler.
    Pieces say that they were ``spoken``; while one is ``held``, none may be sent at once.
    """

    task: asyncio.Task[None]
    spoken: bool
    held: bool

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The request's headers by name."""

    async def read(self, limit_bytes: int) -> bytes:
        """Give the whole body; raises RequestTooLarge over the limit, ClientGone where it breaks off."""

    def on_leave(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when the client leaves before its answer is whole, or has left."""

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Send a complete answer."""

    async def begin(self, head: bytes) -> None:
        """Send status 200 and the head of a stream."""

    async def piece(self, data: bytes) -> None:
        """Send a piece of a stream; a heartbeat is one too."""

    @property
    def clear(self) -> bool:
        """Whether the client is there and reads, and no piece is held."""

    def at_once(self, data: bytes) -> None:
        """Send a piece of a stream now."""

    async def end(self) -> None:
        """Send the end of a stream."""


class Abort:
    """Tells why the task of an exchange was cancelled: by a client that left, or by the shutdown."""

    error: ApiError | None = None
    gone = False

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task: asyncio.Task[None] | None = task

    def shut_down(self) -> None:
        """End the exchange because the process ends."""
        if self.task is not None and self.error is None and not self.gone:
            self.error = ShuttingDown("The gateway is shutting down.", retry_after_s=1.0)
            self.task.cancel(SHUT_DOWN)

    def leave(self) -> None:
        """End the exchange because nobody listens."""
        if self.task is not None and self.error is None:
            self.gone = True
            self.task.cancel()


async def send_error(wire: Wire, error: ApiError, request_id: str) -> None:
    """Send an error with its headers."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in error_headers(error)])
    head = b"content-type: application/json\r\nx-request-id: %b\r\n%b" % (request_id.encode(), lines)
    await wire.answer(error.status, head, error_body(error))


class Exchange:
    """One request's answer on its way out, see ``outlet.Outlet``; ``abort`` ends it from outside."""

    _accepted: bytes | None = None
    _started = False
    _sending = False
    _timer: asyncio.TimerHandle | None = None
    _beater: asyncio.Task[None] | None = None

    def __init__(self, wire: Wire, request_id: str, heartbeat_s: float) -> None:
        self._wire = wire
        self._request_id = request_id
        self._heartbeat_s = heartbeat_s
        self.abort = Abort(wire.task)

    async def run(self, answering: Awaitable[None]) -> None:
        """Answer to the end, or until the client leaves."""
        try:
            await answering
            if self._accepted is not None:
                if self._beater is not None:
                    await self._last_beat()
                await self._wire.end()
        except asyncio.CancelledError:
            if self.abort.task is None or not (self.abort.gone or self.abort.error):
                raise
            self.abort.task.uncancel()
            if self.abort.error is not None:
                await self._fail(self.abort.error)
        except Exception as error:
            await self._fail(self._known(error))
        finally:
            if self._timer is not None:
                await self._stop_heartbeats()

    def _known(self, error: Exception) -> ApiError:
        """Give what the client is told. Kept by ``run`` it would keep its frame, a circle."""
        known = translate(error)
        if known is not error and known.status == 500:
            log.error("request %s failed", self._request_id, exc_info=error)
        elif known.status >= 500:
            log.warning("request %s ended with %d %s", self._request_id, known.status, known.code)
        return known

    # What the pipeline gives
    async def whole(self, head: bytes, body: bytes) -> None:
        """Send a complete answer."""
        self._started = True
        await self._wire.answer(200, head, body)

    def accept(self, head: bytes) -> None:
        """A stream is admitted: from now on it is kept alive, under this head while there is no other."""
        self._accepted = head
        self._timer = asyncio.get_running_loop().call_later(self._heartbeat_s, self._beat)

    async def begin(self, head: bytes) -> None:
        """Begin a stream, unless a heartbeat has done so."""
        if self._beater is not None:
            await self._last_beat()
        if not self._started:
            self._started = True
            await self._wire.begin(head)

    async def piece(self, data: bytes) -> None:
        """Send a piece of a stream that has begun."""
        if self._beater is not None:
            await self._last_beat()
        self._sending = True
        await self._wire.piece(data)
        self._sending = False

    @property
    def lane(self) -> Lane:
        """The wire itself."""
        return self._wire

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
                    await send_error(self._wire, error, self._request_id)
                elif self._accepted is not None:
                    await self._wire.piece(error_event(error))
                    await self._wire.end()

    # The stream kept alive
    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._heartbeat_s, self._beat)
        spoken, self._wire.spoken = self._wire.spoken, False
        if not spoken and not self._sending and (self._beater is None or self._beater.done()):
            self._wire.held = True
            self._beater = loop.create_task(self._send_heartbeat())

    async def _send_heartbeat(self) -> None:
        if not self._started and self._accepted is not None:
            self._started = True
            await self._wire.begin(self._accepted)
        await self._wire.piece(HEARTBEAT)
        self._wire.spoken = False

    async def _last_beat(self) -> None:
        """Wait for the heartbeat under way: nothing may be written into it."""
        if self._beater is not None:
            await asyncio.shield(self._beater)
            self._beater, self._wire.held = None, False

    async def _stop_heartbeats(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beater is not None and not self._beater.done():
            self._beater.cancel()
            with suppress(asyncio.CancelledError):
                await self._beater
