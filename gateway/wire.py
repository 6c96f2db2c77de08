"""uvicorn's HTTP protocol with one change: what is written in one turn of the loop leaves in one system call.

An answer is written in two or three pieces (head, body, end of a chunked body); joined, each costs one
``write`` instead of several, the dearest part of a small answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
            self._transport.write(data)


class JoinedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a transport that joins writes."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol.connection_made``."""
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # the part it uses
