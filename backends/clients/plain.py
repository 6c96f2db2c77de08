"""A small HTTP/1.1 client for plain-HTTP replicas, on asyncio protocols and httptools.

It exists because the client is the dearest piece of the hot path: this one costs a quarter of a
general-purpose library. Rules: one request at a time per connection; a reused connection that ends before
the first byte of an answer is replaced once, by a fresh one; silence is found by one sweep a second over all
exchanges, not by a timer each; a reader that lags pauses the socket.
"""

import asyncio
import math
from collections.abc import Mapping
from urllib.parse import urlsplit

from backends.clients.base import (
    ConnectFailed,
    ConnectionBroken,
    Outgoing,
    ReplyTimeout,
    ReplyTooLarge,
    Taker,
    Withdrawn,
)
from backends.clients.connection import Connection, Origin

SWEEP_S = 1.0
CONNECTIONS_PER_ORIGIN = 1024
IDLE_PER_ORIGIN = 256

type_json = b"content-type: application/json\r\naccept-encoding: identity\r\n"


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

    @property
    def ended(self) -> bool:
        """See ``Reply.ended``."""
        return self._connection.complete and not self._connection.chunks

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
        # In the loop's next turn, behind what else this one has to do: a system call in its midst throws it
        # out of the processor's caches, and a busy gateway's requests cost a tenth more.
        self._loop.call_soon(connection.say, b"".join(pieces))
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
