"""uvicorn's HTTP protocol with three changes.

What is written in one turn of the loop leaves in one system call: an answer is written in two or three pieces
(head, body, end of a chunked body); joined, each costs one ``write`` instead of several, the dearest part of
a small answer.

What is not HTTP, or has a head without end, is refused in OpenAI's shape like any other bad request.

A client that leaves is noticed although it has pipelined another request: uvicorn tells the newest request
only, and stops reading, which hides the client's end.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.api.inference import new_request_id
from gateway.errors import ApiError, InvalidRequest, RequestTooLarge, error_body

HEAD_LIMIT_BYTES = 64 * 1024
PIPELINE_LIMIT = 16
JOIN_BELOW_BYTES = 64 * 1024


class _JoinedWrites:
    """A transport that keeps small writes until the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        """Write in the next turn; what is large goes now, behind what is kept."""
        self._pieces.append(data)
        if len(data) >= JOIN_BELOW_BYTES:
            self._flush()
        elif len(self._pieces) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what is kept, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces = []
            if not self._transport.is_closing():  # else the client has left in the meantime
                self._transport.write(data)


class JoinedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a transport that joins writes, with a limit for the head of a request."""

    _head_bytes: int | None = None  # of the head that is under way
    _answered: RequestResponseCycle | None = None  # the request whose answer is under way

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol.connection_made``."""
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # the part it uses

    def data_received(self, data: bytes) -> None:
        """Parse; a head that goes on over several reads is counted."""
        super().data_received(data)
        if self._head_bytes is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._refuse(RequestTooLarge(f"The request's head is over {HEAD_LIMIT_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._head_bytes = None
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= PIPELINE_LIMIT:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left: tell the request whose answer is under way."""
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ApiError) -> None:
        body = error_body(error)
        head = f"x-request-id: {new_request_id()}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        status = STATUS_LINE[error.status] + b"content-type: application/json\r\n"
        self.transport.write(status + head.encode() + body)
        self.transport.close()
