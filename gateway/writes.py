"""Small writes that leave together, in one system call."""

import asyncio

JOIN_BELOW_BYTES = 64 * 1024


class JoinedWrites:
    """A transport that keeps small writes until the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Write in the next turn; what is large goes now, behind what is kept."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        if len(data) >= JOIN_BELOW_BYTES:
            self._flush()

    def write_now(self, data: bytes) -> None:
        """Write at once, behind what is kept."""
        if self._pieces:
            self._pieces.append(data)
            self._flush()
        elif not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Write what is kept, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces = self._pieces
        if pieces:
            self._pieces = []
            if not self._transport.is_closing():  # else the client has left in the meantime
                self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
