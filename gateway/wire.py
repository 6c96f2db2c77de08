"""uvicorn's HTTP protocol with five changes.

What is written in one turn of the loop leaves in one system call: an answer is written in two or three pieces
(head, body, end of a chunked body); joined, each costs one ``write`` instead of several, the dearest part of
a small answer; so do a stream's first piece and its head, its last one and its end. What is sent by
``at_once`` leaves at once: such a piece comes alone, and another turn would only cost.

The way of a request through it is short: no pattern is run over each header, no timer is set for each pause
between two requests, and the hot path speaks with its ``Cycle`` directly (the scope's extension ``WIRE``):
heads are bytes that are written as they are, a client that leaves is a callback. ASGI's messages, and a task
that waits for ``http.disconnect``, cost a sixth of what a small request costs.

What is not HTTP, or has a head without end, is refused in OpenAI's shape like any other bad request.

A client that reads nothing for a minute while an answer waits is let go: what its request holds (a slot at a
replica) is not its own. So is one that does not send the rest of its head or body.

A client that leaves is noticed although it has pipelined another request: uvicorn tells the newest request
only, and stops reading, which hides the client's end.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast
from weakref import ref

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.api.exchange import WIRE, ClientGone
from gateway.api.inference import new_request_id
from gateway.errors import ApiError, InvalidRequest, RequestTooLarge, error_body
from gateway.heads import Head, Heads, parts_of
from gateway.signals import Signal
from gateway.writes import JoinedWrites

HEAD_LIMIT_BYTES = 64 * 1024
CLIENT_READS_WITHIN_S = 60.0
CLIENT_SENDS_WITHIN_S = 60.0  # the next piece of a body
PIPELINE_LIMIT = 16
BODILESS = (204, 304)

_heads = Heads()


class Cycle(RequestResponseCycle):
    """One request and its answer: as ASGI has it, and as ``api.exchange.Wire`` for the hot path."""

    task: "asyncio.Task[None]"
    tasks: set["asyncio.Task[None]"]
    transport: JoinedWrites  # type: ignore[assignment]  # what ``connection_made`` has put in its place
    spoken = held = False
    named: Mapping[bytes, bytes] | None = None
    """The headers by name, where they are known already."""
    _leave: Callable[[], None] | None = None

    async def run_asgi(self, app: Any) -> None:
        """Have the application answer; where it does not to the end, the connection is closed."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            self.logger.exception("the application failed")
            if not self.response_started:
                await self.send_500_response()
        finally:
            self.on_response = _nothing  # else a circle
            self.tasks.discard(self.task)
        if not self.response_complete and not self.disconnected:
            self.transport.close()

    @property
    def over(self) -> bool:
        """Whether the request is whole and answered: what comes next begins another one."""
        return self.response_complete and not self.more_body

    def left(self) -> None:
        """The client is gone."""
        self.disconnected = True
        self.message_event.set()
        if self._leave is not None:
            self._leave()

    async def _drained(self) -> None:
        """Wait until the client reads again; one that reads nothing for too long is let go."""
        try:
            async with asyncio.timeout(CLIENT_READS_WITHIN_S):
                await self.flow.drain()
        except TimeoutError:
            self.disconnected = True  # nothing more is written; the transport's end tells the handler
            self.transport.abort()

    async def _sent(self) -> None:
        """Wait for more of the body; a client that sends none for too long is let go."""
        try:
            async with asyncio.timeout(CLIENT_SENDS_WITHIN_S):
                await self.message_event.wait()
        except TimeoutError:
            self.disconnected = True
            self.transport.abort()

    # The hot path
    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """See ``Wire.headers``."""
        return dict(self.scope["headers"]) if self.named is None else self.named

    async def read(self, limit_bytes: int) -> bytes:
        """See ``Wire.read``."""
        if self.more_body:  # else all of it is here, and looked at below
            for name, value in self.scope["headers"]:
                if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
                    raise _too_large(limit_bytes)
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        while self.more_body and not self.disconnected:
            self.flow.resume_reading()
            self.message_event.clear()
            await self._sent()
            if len(self.body) > limit_bytes:
                raise _too_large(limit_bytes)
        if self.disconnected:
            raise ClientGone
        if len(self.body) > limit_bytes:
            raise _too_large(limit_bytes)
        body, self.body = bytes(self.body), bytearray()
        return body

    def on_leave(self, call: Callable[[], None]) -> None:
        """See ``Wire.on_leave``."""
        self._leave = call
        if self.disconnected:
            call()

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        """See ``Wire.answer``."""
        if self.flow.write_paused and not self.disconnected:
            await self._drained()
        if not self.disconnected:
            self.response_started = True
            if not self.keep_alive:
                head += b"connection: close\r\n"
            sent = b"" if self.scope["method"] == "HEAD" else body
            self.transport.write(
                b"%bcontent-length: %d\r\n%b\r\n%b" % (STATUS_LINE[status], len(body), head, sent)
            )
            self._complete()

    async def begin(self, head: bytes) -> None:
        """See ``Wire.begin``."""
        if self.flow.write_paused and not self.disconnected:
            await self._drained()
        if not self.disconnected:
            self.response_started = True
            self.chunked_encoding = self.scope["http_version"] == "1.1"
            if self.chunked_encoding:
                head += b"transfer-encoding: chunked\r\n"
            if not self.keep_alive:
                head += b"connection: close\r\n"
            self.transport.write(b"%b%b\r\n" % (STATUS_LINE[200], head))

    async def piece(self, data: bytes) -> None:
        """See ``Wire.piece``."""
        if self.flow.write_paused and not self.disconnected:
            await self._drained()
        if data and not self.disconnected:
            self.spoken = True
            self.transport.write(self._framed(data))

    @property
    def clear(self) -> bool:
        """See ``Wire.clear``."""
        return not (self.held or self.flow.write_paused or self.disconnected)

    def at_once(self, data: bytes) -> None:
        """See ``Wire.at_once``."""
        self.spoken = True
        self.transport.write_now(self._framed(data))

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunked_encoding else data

    async def end(self) -> None:
        """See ``Wire.end``."""
        if self.flow.write_paused and not self.disconnected:
            await self._drained()
        if not self.disconnected:
            if self.chunked_encoding:
                self.transport.write(b"0\r\n\r\n")
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    # ASGI
    async def send(self, message: Any) -> None:
        """Send a part of the answer; see the ASGI specification."""
        if self.flow.write_paused and not self.disconnected:
            await self._drained()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif self.response_complete or not self.response_started:
            raise RuntimeError(f"{message['type']} out of turn")
        else:
            self._continue(message.get("body", b""), message.get("more_body", False))

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if self.response_started:
            raise RuntimeError("an answer begins once")
        pieces = [STATUS_LINE[status]]
        lines = 1
        for name, value in headers:
            if len(name) == 10 and name.lower() == b"connection":
                self.keep_alive = False  # nobody says anything else by it
                continue
            if len(name) == 14 and name.lower() == b"content-length":
                self.chunked_encoding = False
            pieces += (name, b": ", value, b"\r\n")
            lines += 1
        if self.chunked_encoding is None and status not in BODILESS and self.scope["method"] != "HEAD":
            self.chunked_encoding = True
            pieces.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        head = b"".join(pieces)
        if head.count(b"\n") != lines or head.count(b"\r") != lines:
            raise RuntimeError("a header with a line break in it")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head + (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"))

    def _continue(self, body: bytes, more: bool) -> None:
        if self.scope["method"] != "HEAD":
            if body:
                body = self._framed(body)
            if self.chunked_encoding and not more:
                body += b"0\r\n\r\n"
            if body and more:
                self.transport.write_now(body)
            elif body:
                self.transport.write(body)
        if not more:
            self._complete()


class JoinedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a transport that joins writes, with a limit for the head of a request."""

    _head_bytes: int | None = None  # of the head that is under way
    _answered: Cycle | None = None  # the request whose answer is under way
    _idle_since_s: float | None = None

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol.connection_made``."""
        self._idle_since_s = self.loop.time()
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))

    def data_received(self, data: bytes) -> None:
        """Parse, unless its head is known; a head that goes on over several reads is counted."""
        before = self.cycle
        between = self._head_bytes is None and (before is None or cast("Cycle", before).over)
        if between and (known := _heads.find(data)) is not None and not self.transport.is_closing():
            self._take(*known)
            return
        super().data_received(data)
        if between and self.cycle is not before and self._head_bytes is None and _heads.again(data):
            self._remember(data, cast("Cycle", self.cycle))
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._refuse(RequestTooLarge(f"The request's head is over {HEAD_LIMIT_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_bytes = 0
        if self._idle_since_s is not None:
            self._idle_since_s = self.loop.time()  # from here on the rest of the head is waited for
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole: start its request, or queue it behind the one under way."""
        parser, scope = self.parser, cast("dict[str, Any]", self.scope)
        version = parser.get_http_version()
        before = self.cycle
        cycle = self._begin(self.expect_100_continue, version != "1.0" and parser.should_keep_alive())
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["path"], scope["raw_path"], scope["query_string"] = parts_of(self.url)
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
            return
        self.pipeline.appendleft((cycle, self.app))
        if len(self.pipeline) > PIPELINE_LIMIT:
            self.flow.pause_reading()

    def _begin(self, expects_100: bool, keep_alive: bool) -> Cycle:
        self._head_bytes = self._idle_since_s = None
        self.cycle = cycle = Cycle(
            self.scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            False,  # an access log
            [],  # headers of the server's own
            cast("asyncio.Event", Signal()),
            expects_100,
            keep_alive,
            self.on_response_complete,
        )
        # Weak: a circle of scope and Cycle would keep what a request held until the collector's last
        # generation is looked at, of long streams for hours.
        cast("dict[str, Any]", self.scope)["extensions"] = {WIRE: ref(cycle)}
        return cycle

    def _take(self, head: Head, body: bytes) -> None:
        """Start a request of a known head, past the parser, which goes on waiting for a message."""
        super().on_message_begin()
        self.headers.extend(head.headers)
        scope = cast("dict[str, Any]", self.scope)
        scope["method"] = "POST"
        scope["path"], scope["raw_path"], scope["query_string"] = head.path, head.raw_path, head.query
        cycle = self._begin(False, True)
        cycle.named = head.named
        cycle.body += body
        cycle.more_body = False
        cycle.message_event.set()
        self._start_asgi_task(cycle, self.app)

    def _remember(self, data: bytes, cycle: Cycle) -> None:
        """Keep the head of data that were one whole message."""
        scope = cast("dict[str, Any]", cycle.scope)
        if cycle.more_body or not cycle.keep_alive or scope["method"] != "POST" or self.pipeline:
            return
        _heads.keep(
            data,
            Head(
                scope["path"],
                scope["raw_path"],
                scope["query_string"],
                tuple(scope["headers"]),
                dict(scope["headers"]),
                len(cycle.body),
            ),
        )

    def on_response_complete(self) -> None:
        """Go on with the next request, or lie idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()

    def close_if_idle(self, limit_s: float) -> None:
        """Close a connection on which no whole head has come for so long since its last answer, or ever."""
        since_s = self._idle_since_s
        if since_s is not None and self.loop.time() - since_s >= limit_s and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: tell the request whose answer is under way."""
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.left()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = answered = cast("Cycle", cycle)
        answered.tasks = self.tasks
        answered.task = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ApiError) -> None:
        body = error_body(error)
        head = f"x-request-id: {new_request_id()}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        status = STATUS_LINE[error.status] + b"content-type: application/json\r\n"
        self.transport.write(status + head.encode() + body)
        self.transport.close()


def _nothing() -> None:
    """Stand in for a callback."""


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is over the limit of {limit_bytes} bytes.")
