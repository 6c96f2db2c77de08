"""A growing list of frames that any number of readers follow, each at its own place. Pure.

Rules: a reader sees every frame from its place on, once and in order; one that joins late first takes what is
there. The bytes kept are bounded: what is over goes from the front, and a reader that had not come so far is
overrun, but never the fastest. Nothing is appended behind the end.
"""

from collections.abc import Callable


class Overrun(Exception):
    """What the reader wants next is not kept any more."""


class Reader:
    """One reader; ``notify`` is called once, at the next thing that happens, and then forgotten."""

    def __init__(self, buffer: "Buffer", at: int, read_bytes: int) -> None:
        self._buffer = buffer
        self.at = at
        self.read_bytes = read_bytes
        self.notify: Callable[[], None] | None = None

    def take(self) -> list[bytes]:
        """Give the frames that have come since the last time. Raises Overrun."""
        buffer = self._buffer
        frames = buffer.since(self.at)
        if frames:
            self.at += len(frames)
            self.read_bytes += sum(map(len, frames))
            buffer.was_read()
        return frames

    @property
    def ready(self) -> bool:
        """Whether there is something to take, or the end has come."""
        return self.at < self._buffer.length or self._buffer.ended

    @property
    def done(self) -> bool:
        """Whether everything is taken and nothing more comes."""
        return self._buffer.ended and self.at >= self._buffer.length

    def leave(self) -> None:
        """Read no more; the last reader's leaving is told to the writer."""
        self.notify = None
        self._buffer.leave(self)


class Buffer:
    """The frames and their readers.

    ``on_read`` and ``on_deserted`` are the writer's: they are called when a reader has taken something, and
    when the last reader leaves before the end.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames: list[bytes] = []
        self.base = 0
        self._readers: list[Reader] = []
        self.first: bytes | None = None  # kept whatever goes
        self.size_bytes = 0
        self.total_bytes = 0
        self.ended = False
        self.lost = False
        self.on_read: Callable[[], None] | None = None
        self.on_deserted: Callable[[], None] | None = None

    @property
    def length(self) -> int:
        """How many frames there ever were."""
        return self.base + len(self._frames)

    @property
    def whole(self) -> bool:
        """Whether the first frame is still there."""
        return self.base == 0

    @property
    def readers(self) -> int:
        """How many read."""
        return len(self._readers)

    @property
    def ahead_bytes(self) -> int:
        """How far the writer is ahead of its fastest reader; 0 where nobody reads."""
        if not self._readers:
            return 0
        return self.total_bytes - max(reader.read_bytes for reader in self._readers)

    def append(self, frame: bytes) -> None:
        """Add a frame; the oldest go where there are too many bytes.

        Never the newest, and nothing that the fastest reader has still to take: so one is always served.
        """
        assert not self.ended, "nothing comes behind the end"
        if not self.length:
            self.first = frame
        self._frames.append(frame)
        self.size_bytes += len(frame)
        self.total_bytes += len(frame)
        if self.size_bytes > self._limit_bytes:
            self._trim()
        self._wake()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._wake()

    def lose(self) -> None:
        """Nobody writes any more, and the end has not come."""
        self.lost = not self.ended
        self._wake()

    def skip(self, to: int) -> None:
        """Go on behind a gap: what is missing was dropped where the log is written."""
        self._frames.clear()
        self.base, self.size_bytes = to, 0

    def join(self, after: int = 0) -> Reader:
        """Read from behind the first ``after`` frames on. Raises Overrun."""
        if after < self.base:
            raise Overrun
        after = min(after, self.length)
        behind = sum(map(len, self._frames[after - self.base :]))
        reader = Reader(self, after, self.total_bytes - behind)
        self._readers.append(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """See ``Reader.leave``."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if not self._readers and not self.ended and self.on_deserted is not None:
            self.on_deserted()
        else:
            self.was_read()

    def since(self, at: int) -> list[bytes]:
        """Give the frames from a place on. Raises Overrun."""
        if at < self.base:
            raise Overrun
        return self._frames[at - self.base :]

    def was_read(self) -> None:
        """Tell the writer that there may be room."""
        if self.on_read is not None:
            self.on_read()

    def _trim(self) -> None:
        fastest = max((reader.at for reader in self._readers), default=self.length)
        droppable = min(fastest - self.base, len(self._frames) - 1)
        drop = 0
        while self.size_bytes > self._limit_bytes and drop < droppable:
            self.size_bytes -= len(self._frames[drop])
            drop += 1
        del self._frames[:drop]
        self.base += drop

    def _wake(self) -> None:
        for reader in self._readers:
            notify, reader.notify = reader.notify, None
            if notify is not None:
                notify()
