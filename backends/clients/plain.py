"""A small HTTP/1.1 client for plain-HTTP replicas, on asyncio protocols and httptools.

It exists because the client is the dearest piece of the hot path: this one costs a quarter of a
general-purpose library. Rules: one request at a time per connection; a reused connection that ends before
the first byte of an answer is replaced once, by a fresh one; silence is found by one sweep a second over all
exchanges, not by a timer each; a reader that lags pauses the socket.
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

import httptools

from backends.clients.base import (
    ConnectFailed,
    ConnectionBroken,
    Outgoing,
    Pulse,
    ReplyTimeout,
    ReplyTooLarge,
    Taker,
    Withdrawn,
)

SWEEP_S = 1.0
HEADERS_LIMIT_BYTES = 64 * 1024
PAUSE_ABOVE_BYTES = 256 * 1024
CONNECTIONS_PER_ORIGIN = 1024
IDLE_PER_ORIGIN = 256

type_json = b"content-type: application/json\r\naccept-encoding: identity\r\n"


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
        self.heard_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(ConnectionBroken(f"not a valid HTTP answer ({error})"))
            return
        if not self.head_done and self.heard_bytes > HEADERS_LIMIT_BYTES:
            self.fail(ReplyTooLarge(f"headers over {HEADERS_LIMIT_BYTES} bytes"))
        if self.chunks:
            if self.taker is not None and self.waiter is not None and not self.waiter.done():
                self._offer(self.taker)
            else:
                self.wake()
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
        plain = pulse is None or (not pulse.in_comment and body[0] == 0x64 and body[-1] == 0x0A)
        if plain or (pulse is not None and pulse.beats(body)):
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


class PlainReply:
    """The answer on one connection."""

    def __init__(self, client: "PlainClient", connection: Connection) -> None:
        self._client = client
        self._connection = connection
        self.status = connection.status
        self._headers = connection.headers
        self._closed = False

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case; made when asked for, since few answers' are read."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._headers}

    async def read(self) -> bytes:
        """Wait for the next bytes; see ``Reply.read``."""
        connection = self._connection
        while not connection.chunks:
            if connection.error is not None:
                raise connection.error
            if connection.complete:
                return b""
            await connection.wait()
        chunks = connection.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        connection.chunks = []
        connection.buffered_bytes = 0
        if connection.paused and connection.transport is not None:
            connection.paused = False
            connection.quiet_until = connection.loop.time() + connection.idle_s
            connection.transport.resume_reading()
        return data

    def offer(self, taker: Taker) -> None:
        """See ``Reply.offer``."""
        self._connection.taker = taker

    async def read_all(self, limit_bytes: int) -> bytes:
        """Give the whole body; see ``Reply.read_all``."""
        pieces: list[bytes] = []
        total_bytes = 0
        while data := await self.read():
            total_bytes += len(data)
            if total_bytes > limit_bytes:
                raise ReplyTooLarge(f"a body over {limit_bytes} bytes")
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Give the connection back or abort it; further calls do nothing."""
        if not self._closed:
            self._closed = True
            self._connection.taker = None
            self._client.release(self._connection)


class PlainClient:
    """Pool and exchanges; belongs to the event loop in which it was made."""

    def __init__(self, *, sweep_s: float = SWEEP_S, connections: int = CONNECTIONS_PER_ORIGIN) -> None:
        self._loop = asyncio.get_running_loop()
        self._sweep_s = sweep_s
        self._connections = connections
        self._origins: dict[tuple[str, int], Origin] = {}
        self._heads: dict[tuple[str, str], tuple[Origin, bytes]] = {}
        self._active: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def send(self, request: Outgoing) -> PlainReply:
        """Send and wait for the head; see ``InferenceClient.send``."""
        origin, head = self._route(request)
        if origin.free:
            origin.free -= 1
        else:
            await origin.permit()
        stale = False
        try:
            while True:
                reused = bool(origin.idle) and not stale
                connection = origin.idle.pop() if reused else await self._connect(origin, request)
                try:
                    await self._exchange(connection, head, request)
                except ConnectionBroken:
                    self._abandon(connection)
                    if reused and not connection.head_done:
                        stale = True  # while it lay idle, the server had closed it or talked out of turn
                        continue
                    raise
                except BaseException:
                    self._abandon(connection)
                    raise
                return PlainReply(self, connection)
        except BaseException:
            origin.give_back()
            raise

    def release(self, connection: Connection) -> None:
        """Take back a connection whose reply was closed."""
        self._active.discard(connection)
        origin = connection.origin
        origin.give_back()
        reusable = connection.complete and connection.keep_alive and not connection.lost
        if reusable and len(origin.idle) < IDLE_PER_ORIGIN:
            if connection.paused and connection.transport is not None:
                connection.transport.resume_reading()
            origin.idle.append(connection)
        else:
            self._abandon(connection)

    def withdraw(self, url: str) -> None:
        """End every exchange with the server of the url; see ``InferenceClient.withdraw``."""
        parts = urlsplit(url)
        origin = self._origins.get((parts.hostname or "", parts.port or 80))
        for connection in [one for one in self._active if one.origin is origin and not one.complete]:
            connection.fail(Withdrawn("its machine is taken away"))

    async def close(self) -> None:
        """Close every connection, exchanges included."""
        if self._sweep is not None:
            self._sweep.cancel()
        for origin in self._origins.values():
            for connection in list(origin.idle):
                self._abandon(connection)
        for connection in list(self._active):
            connection.fail(ConnectionBroken("the client was closed"))

    async def _exchange(self, connection: Connection, head: bytes, request: Outgoing) -> None:
        connection.begin(request)
        self._active.add(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._sweep_s, self._sweep_silent)
        pieces = [head]
        for name, value in request.headers:
            pieces += (name, b": ", value, b"\r\n")
        pieces += (b"content-length: ", str(len(request.body)).encode(), b"\r\n\r\n", request.body)
        assert connection.transport is not None
        connection.transport.write(b"".join(pieces))
        while not connection.head_done:
            if connection.error is not None:
                raise connection.error
            if connection.lost:
                raise ConnectionBroken("the connection was closed before the answer began")
            await connection.wait()

    async def _connect(self, origin: Origin, request: Outgoing) -> Connection:
        connection = Connection(origin, self._loop)
        try:
            async with asyncio.timeout_at(min(self._loop.time() + request.connect_s, request.deadline_s)):
                await self._loop.create_connection(lambda: connection, origin.host, origin.port)
        except asyncio.CancelledError:
            connection.unmade()  # the loop closes it without a word
            raise
        except TimeoutError:
            connection.unmade()
            raise ConnectFailed(f"no connection to {origin.host}:{origin.port} in time") from None
        except OSError as error:
            raise ConnectFailed(
                f"no connection to {origin.host}:{origin.port} ({error.strerror or error})"
            ) from None
        return connection

    def _route(self, request: Outgoing) -> tuple[Origin, bytes]:
        cached = self._heads.get((request.method, request.url))
        if cached is None:
            cached = self._resolve(request)
            self._heads[(request.method, request.url)] = cached
        return cached

    def _resolve(self, request: Outgoing) -> tuple[Origin, bytes]:
        parts = urlsplit(request.url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ConnectFailed(f"this client speaks plain http only, not {parts.scheme!r}")
        where = (parts.hostname, parts.port or 80)
        origin = self._origins.setdefault(where, Origin(*where, self._connections))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = f"{request.method} {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n".encode("latin-1") + type_json
        return origin, head

    def _abandon(self, connection: Connection) -> None:
        self._active.discard(connection)
        connection.error = None  # it names the frames that it went through, and they the connection
        if connection in connection.origin.idle:
            connection.origin.idle.remove(connection)
        if connection.transport is not None and not connection.lost:
            connection.transport.abort()

    def _sweep_silent(self) -> None:
        """Fail exchanges that were silent for too long; a paused one has until its deadline."""
        now_s = self._loop.time()
        for connection in list(self._active):
            until_s = math.inf if connection.paused else connection.quiet_until
            if now_s > min(until_s, connection.deadline_s) and not connection.complete:
                phase = "within" if connection.head_done else "before"
                connection.fail(ReplyTimeout(f"no byte in time {phase} the answer"))
        again = self._loop.call_later(self._sweep_s, self._sweep_silent) if self._active else None
        self._sweep = again
