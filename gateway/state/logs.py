"""Logs that one writer fills and many read while it does: the seam, and its form within one process.

A log is claimed by name: whoever comes first writes it, under a lease that it renews; the others read it from
its beginning. When it has ended its name is free at once, or, where it is to be kept, after ``keep_s``.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.state.broadcast import Buffer, Reader

WINDOW_BYTES = 256 * 1024  # how far a writer may be ahead of its fastest reader


class Lost(Exception):
    """Who wrote the log is gone, and its end has not come."""


class Log:
    """One log as this process has it; ``mine`` where whoever claimed it is to write it."""

    def __init__(self, name: str, limit_bytes: int, *, token: str = "") -> None:
        self.name = name
        self.token = token or secrets.token_hex(12)
        self.buffer = Buffer(limit_bytes)
        self.on_append: Callable[[], None] | None = None
        self._window_bytes = min(WINDOW_BYTES, limit_bytes // 2)
        self._room: asyncio.Future[None] | None = None
        self.buffer.on_read = self._was_read

    def append(self, frame: bytes) -> None:
        """Add a frame."""
        self.buffer.append(frame)
        if self.on_append is not None:
            self.on_append()

    async def room(self) -> None:
        """Wait until the fastest reader has come near; where nobody reads there is room."""
        while self.buffer.ahead_bytes > self._window_bytes:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def read(self, reader: Reader) -> Sequence[bytes]:
        """Give the next frames, none at the end. Raises Overrun, or Lost behind all that came."""
        await self.next(reader)
        return reader.take()

    async def next(self, reader: Reader) -> None:
        """Wait until there is something to take, or the end. Raises Lost."""
        while not reader.ready:
            if self.buffer.lost:
                raise Lost
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            reader.notify = lambda told=told: told.done() or told.set_result(None)
            await told

    def _was_read(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Claim:
    """What came of a claim: the log, and whether it is for the claimer to write."""

    def __init__(self, log: Log, mine: bool) -> None:
        self.log = log
        self.mine = mine


class Logs(Protocol):
    """The logs of one process, or of several that share them."""

    async def claim(self, name: str, limit_bytes: int) -> Claim:
        """Give the log of a name; a new one, to be written by the claimer, where nobody writes it.

        A log that has lost its beginning cannot be joined: then the new one is nobody else's.
        """

    async def find(self, name: str) -> Log | None:
        """Give a log that is written or kept."""

    async def listened(self, log: Log) -> bool:
        """Tell whether anybody reads a log, wherever."""

    def end(self, log: Log, *, keep_s: float = 0.0) -> None:
        """Put the end to a log of ours; it is kept for so long."""

    async def close(self) -> None:
        """Give up everything."""


class MemoryLogs:
    """Logs within one process; those that have ended are kept up to so many bytes together.

    ``on_crowded`` hears of one that goes before its time, to make room.
    """

    def __init__(self, kept_bytes: int, logs: dict[str, Log] | None = None) -> None:
        self._kept_bytes = kept_bytes
        self.on_crowded: Callable[[Log], None] | None = None
        self._logs: dict[str, Log] = {} if logs is None else logs
        self._kept: dict[str, tuple[Log, asyncio.TimerHandle]] = {}
        self._size_bytes = 0

    async def claim(self, name: str, limit_bytes: int) -> Claim:
        """See ``Logs.claim``."""
        known = self._logs.get(name)
        if known is not None and known.buffer.whole:
            return Claim(known, False)
        log = Log(name, limit_bytes)
        if known is None:
            self._logs[name] = log
        return Claim(log, True)

    async def find(self, name: str) -> Log | None:
        """See ``Logs.find``."""
        return self._logs.get(name)

    async def listened(self, log: Log) -> bool:
        """See ``Logs.listened``."""
        return log.buffer.readers > 0

    def end(self, log: Log, *, keep_s: float = 0.0) -> None:
        """See ``Logs.end``; the oldest go first where too much is kept."""
        log.buffer.end()
        if self._logs.get(log.name) is not log:
            return
        if not keep_s:
            del self._logs[log.name]
            return
        timer = asyncio.get_running_loop().call_later(keep_s, self._forget, log.name)
        self._kept[log.name] = (log, timer)
        self._size_bytes += log.buffer.size_bytes
        while self._size_bytes > self._kept_bytes:
            oldest, _ = next(iter(self._kept.values()))
            self._forget(oldest.name)
            if self.on_crowded is not None:
                self.on_crowded(oldest)

    def lose(self, log: Log) -> None:
        """Tell its readers that nobody writes a log any more; its name is free."""
        if self._logs.get(log.name) is log:
            del self._logs[log.name]
        log.buffer.lose()

    async def close(self) -> None:
        """See ``Logs.close``."""
        for name in list(self._kept):
            self._forget(name)

    def _forget(self, name: str) -> None:
        log, timer = self._kept.pop(name)
        timer.cancel()
        self._size_bytes -= log.buffer.size_bytes
        if self._logs.get(name) is log:
            del self._logs[name]
