"""Takes an answer into a log of frames: a byte that tells the kind, then what is told."""

import msgspec

from gateway.state.logs import Log

OWNER, ACCEPT, BEGIN, PIECE, WHOLE, FAILURE = b"o", b"a", b"b", b"p", b"w", b"e"
STREAM_ID = b"x-switchgear-stream-id"

_encode = msgspec.msgpack.Encoder().encode


class Recorder:
    """Takes an answer from the pipeline into a log; see ``outlet.Outlet``."""

    def __init__(self, into: Log, stream_id: bytes) -> None:
        self._log = into
        self._line = b"%b: %b\r\n" % (STREAM_ID, stream_id) if stream_id else b""

    async def whole(self, head: bytes, body: bytes) -> None:
        """Record a complete answer."""
        self._log.append(WHOLE + _encode((head, body)))

    def accept(self, head: bytes) -> None:
        """Record that a stream is admitted."""
        self._log.append(ACCEPT + head + self._line)

    async def begin(self, head: bytes) -> None:
        """Record the head of a stream."""
        self._log.append(BEGIN + head + self._line)

    lane = None  # a log may have to be waited for

    async def piece(self, data: bytes) -> None:
        """Record the events of a piece, each by itself."""
        for event in data.split(b"\n\n")[:-1]:
            self._log.append(PIECE + event + b"\n\n")
        await self._log.room()
