"""One socket to a replica, and the exchange on it: asyncio's protocol, parsed by httptools."""

import asyncio
from collections import deque

import httptools

from backends.clients.base import ConnectionBroken, Outgoing, Pulse, ReplyTooLarge, Taker

HEADERS_LIMIT_BYTES = 64 * 1024
PAUSE_ABOVE_BYTES = 256 * 1024


class Origin:
    """One host and port: its idle connections, newest last, and how many more there may be."""

    def __init__(self, host: str, port: int, connections: int) -> None:
        self.host = host
        self.port = port
        self.idle: deque[Connection] = deque()
        self.free = connections
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def permit(self) -> None:
        """Wait, in line, until there may be one more exchange."""
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back()  # the turn came as its taker left
            raise

    def give_back(self) -> None:
        """Hand a permit to the next in line, or keep it."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.cancelled():
                turn.set_result(None)
                return
        self.free += 1


class Connection(asyncio.Protocol):
    """One socket and the exchange on it: httptools calls the ``on_*`` methods."""

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.parser: httptools.HttpResponseParser
        """From ``connection_made`` to ``unmade``."""
        self.lost = False
        self.begin(Outgoing(""))

    def begin(self, request: Outgoing) -> None:
        """Reset for the next exchange."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.header_bytes = 0
        self.heard_bytes = 0
        self.chunks: list[bytes] = []
        self.buffered_bytes = 0
        self.paused = False
        self.head_done = False
        self.complete = False
        self.keep_alive = True
        self.error: Exception | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.taker: Taker | None = None
        self.pulse = Pulse() if request.events else None
        self.idle_s = request.idle_s
        self.deadline_s = request.deadline_s
        self.quiet_until = self.loop.time() + request.first_byte_s

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # create_connection gives a full Transport
        self.parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(ConnectionBroken(f"not a valid HTTP answer ({error})"))
            return
        if not self.head_done:
            self.heard_bytes += len(data)
            if self.heard_bytes > HEADERS_LIMIT_BYTES:
                self.fail(ReplyTooLarge(f"headers over {HEADERS_LIMIT_BYTES} bytes"))
        if self.chunks and (waiter := self.waiter) is not None and not waiter.done():
            if self.taker is None:
                waiter.set_result(None)
            else:
                self._offer(self.taker)
        if self.buffered_bytes > PAUSE_ABOVE_BYTES and not self.paused and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.unmade()
        if self in self.origin.idle:
            self.origin.idle.remove(self)
        if self.complete:
            return
        if exc is None and self.head_done and self._ends_with_connection():
            self.complete = True
            self.keep_alive = False
            self.wake()
        else:
            self.fail(ConnectionBroken("the connection was closed before the answer was complete"))

    def unmade(self) -> None:
        """Let go of what knows this connection, or a circle remains."""
        if self.transport is not None:
            self.transport = None
            del self.parser

    def say(self, data: bytes) -> None:
        """Write, unless the connection has gone meanwhile; who waits for the answer is told of that."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    # httptools
    def on_message_begin(self) -> None:
        if self.complete:  # what comes unasked, in the same read or while it lies idle, belongs to no request
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_bytes += len(name) + len(value)
        if self.header_bytes <= HEADERS_LIMIT_BYTES:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        if self.status < 200:  # 100 Continue and its kin: the real answer follows
            self.headers = []
            return
        if self.header_bytes > HEADERS_LIMIT_BYTES:
            self.fail(ReplyTooLarge(f"headers over {HEADERS_LIMIT_BYTES} bytes"))
            return
        self.keep_alive = self.parser.should_keep_alive()
        self.head_done = True
        self.wake()

    def on_body(self, body: bytes) -> None:
        pulse = self.pulse  # asked where it is not plain to see
        if (
            pulse is None
            or (not pulse.in_comment and body[0] == 0x64 and body[-1] == 0x0A)
            or pulse.beats(body)
        ):
            self.quiet_until = self.loop.time() + self.idle_s
        self.chunks.append(body)
        self.buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True
            self.wake()

    def wake(self) -> None:
        """Let the one reader go on."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _offer(self, taker: Taker) -> None:
        """Offer what came while the reader waits; it reads what is not taken, and so all stays in order."""
        try:
            if not taker(self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)):
                self.wake()
                return
        except Exception as error:
            self.error = error
            self.wake()
        self.chunks = []
        self.buffered_bytes = 0

    def fail(self, error: Exception) -> None:
        """End the exchange with an error; the first one counts."""
        if self.error is None and not self.complete:
            self.error = error
        self.keep_alive = False
        if self.transport is not None and not self.lost:
            self.transport.abort()
        self.wake()

    async def wait(self) -> None:
        """Wait for anything new."""
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    def _ends_with_connection(self) -> bool:
        return not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
