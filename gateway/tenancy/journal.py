"""The usage journal: what must not be lost, before it is in SQL.

One append-only file per gateway process and segment. Lines are JSON arrays: ``accepted`` (written before a
request is dispatched), ``progress`` (tokens delivered so far), ``settled`` (the ledger row). A line is in
the kernel's pages before ``append`` returns, so that ``kill -9`` loses none; nor does a power cut, after
``sync``.
Files are mapped and their room is reserved ahead: a line costs neither a system call nor a turn of the
interpreter's lock, and a full disk is met before a line is begun. Behind the last line of a process that died
there are zeros.
The file is the queue towards SQL: nothing waits in memory. A process holds a lock on its segments; a segment
without a lock belongs to a process that is gone, and another one recovers it. Fields are only ever added at
the end of a line, with a default, so that an upgraded gateway reads what an older one has left.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

SEGMENT_BYTES = 16 * 1024 * 1024
WINDOW_BYTES = 1024 * 1024  # mapped and reserved at once
SETTLED = b'["s",'  # how the line of an ``Entry`` begins


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A request was admitted."""

    request_id: str
    ts: float
    org: str
    project: str
    key_id: str
    model: str
    route: str
    operation: str = ""
    end_user: str = ""
    metadata: str = ""


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """So many tokens were delivered by now, for so much."""

    request_id: str
    model: str
    price_version: str
    prompt_tokens: int
    completion_tokens: int
    amount_nanousd: int
    replica: str
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    baseline_nanousd: int = 0
    service: str = "standard"


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A settled request: one ledger row."""

    request_id: str
    ts: float
    org: str
    project: str
    key_id: str
    model: str
    route: str
    status: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount_nanousd: int
    price_version: str
    source: str
    attempts: int
    replicas: str
    estimated: bool
    reasoning_tokens: int = 0
    baseline_nanousd: int = 0
    service: str = "standard"
    operation: str = ""
    end_user: str = ""
    metadata: str = ""


Line = Accepted | Progress | Entry

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode
_decode_entries = msgspec.json.Decoder(Entry).decode_lines


class JournalError(Exception):
    """The journal cannot be written: no request may be accepted."""


class Segment:
    """One file, locked by its process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = _locked(path)
        self.size_bytes = 0
        self.open_requests = 0
        self.dirty = False
        self._window: mmap.mmap | None = None
        self._from = self._until = 0  # what of the file the window shows

    def write(self, data: bytes) -> None:
        """Write behind what is there, all or nothing. Raises OSError where there is no room."""
        at, behind = self.size_bytes, self.size_bytes + len(data)
        if behind > self._until or self._window is None:
            self._reserve(behind)
        self._window[at - self._from : behind - self._from] = data  # type: ignore[index]  # there is one now
        self.size_bytes = behind
        self.dirty = True

    def close(self) -> None:
        """Close the file at its last line."""
        self._unmap()
        with contextlib.suppress(OSError):  # zeros at its end do no harm
            os.ftruncate(self.fd, self.size_bytes)
        os.close(self.fd)

    def _reserve(self, behind: int) -> None:
        from_bytes = self.size_bytes - self.size_bytes % mmap.ALLOCATIONGRANULARITY
        until = max(from_bytes + WINDOW_BYTES, behind)
        os.posix_fallocate(self.fd, self._until, until - self._until)
        window = mmap.mmap(self.fd, until - from_bytes, offset=from_bytes)
        self._unmap()
        self._window, self._from, self._until = window, from_bytes, until

    def _unmap(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None


def _locked(path: Path) -> int:
    """Open and lock a new file; again, where another process has taken it for an orphan in between."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


class Journal:
    """The segments of this process; carried ones move to ``kept``, or are deleted where that is None."""

    def __init__(self, directory: Path, name: str, kept: Path | None = None) -> None:
        self.directory = directory
        self.kept = kept
        self._name = name
        self._number = 0
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._segment = self._next_segment()
        except OSError as error:
            raise JournalError(
                f"cannot write the usage journal in {directory}: {error.strerror}. "
                "Name a folder that can be written in server.state_dir."
            ) from error
        self._full: list[Segment] = []
        self._owed: list[
            tuple[Entry, Segment | None]
        ] = []  # as many as ran when the disk was full: no more come in

    def owe(self, entry: Entry, segment: Segment | None) -> None:
        """Remember a settlement that could not be written, of a request that ``segment`` accepted, if any."""
        self._owed.append((entry, segment))

    def pay(self) -> int:
        """Write what is owed, from the loop's thread as ``append``; gives how many still are."""
        while self._owed:
            entry, segment = self._owed[0]
            try:
                self.append(entry)
            except JournalError:
                break
            if segment is not None:
                segment.open_requests -= 1
            del self._owed[0]
        return len(self._owed)

    def append(self, line: Line) -> Segment:
        """Write one line; gives the segment it is in. Raises JournalError where the disk does not take it."""
        segment = self._segment
        try:
            segment.write(_encode(line) + b"\n")
        except OSError as error:
            raise JournalError(
                f"the usage journal {segment.path} cannot be written: {error.strerror}"
            ) from error
        if segment.size_bytes > SEGMENT_BYTES:
            with contextlib.suppress(OSError):  # then this one grows on, and the next line tries again
                self._segment = self._next_segment()
                self._full.append(segment)
        return segment

    def segments(self) -> list[Segment]:
        """Give the live segments of this process, oldest first."""
        return [*self._full, self._segment]

    def drop(self, segment: Segment) -> None:
        """Put away a full segment whose requests are all settled and in SQL."""
        self._full.remove(segment)
        keep(segment.path, self.kept)
        segment.close()

    def sync(self) -> None:
        """Force what was written to the disk; run it in a thread."""
        for segment in self.segments():
            if segment.dirty:
                segment.dirty = False
                os.fdatasync(segment.fd)

    def close(self, *, settled: bool) -> None:
        """Close the files; ``settled`` says that everything in them is in SQL, so that they may go."""
        for segment in self.segments():
            if settled:
                keep(segment.path, self.kept)
            segment.close()

    def _next_segment(self) -> Segment:
        self._number += 1
        return Segment(self.directory / f"{self._name}-{self._number:06d}.jsonl")


def keep(path: Path, kept: Path | None) -> None:
    """Put a carried segment away, for the ledger to be held against; one that cannot be kept is deleted."""
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.mkdir(mode=0o700, exist_ok=True)
            path.replace(kept / path.name)
    path.unlink(missing_ok=True)


def prune(kept: Path, *, older_than_s: float, over_bytes: int) -> None:
    """Delete kept segments from before a moment, and the oldest that are over a size in all."""
    total_bytes = 0
    for path in sorted(kept.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True):
        state = path.stat()
        total_bytes += state.st_size
        if state.st_mtime < older_than_s or total_bytes > over_bytes:
            path.unlink(missing_ok=True)


def read_lines(path: Path, offset: int = 0) -> Iterator[tuple[Line, int]]:
    """Give each whole line from a byte offset with the offset behind it; a torn last line is left out."""
    with path.open("rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            try:
                yield _decode(raw), offset
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # a line torn by a crash in the middle of a write


def read_settled(segment: Segment, offset: int, limit_bytes: int) -> tuple[list[Entry], int]:
    """Give the settled ones of this process's own lines from a byte offset on, and the offset behind them.

    Reads so many bytes, in whole lines; more only where the first line is longer.
    """
    left_bytes = segment.size_bytes - offset  # a line is counted when it is whole
    data = os.pread(segment.fd, min(limit_bytes, left_bytes), offset)
    while b"\n" not in data and limit_bytes < left_bytes:
        limit_bytes *= 2
        data = os.pread(segment.fd, min(limit_bytes, left_bytes), offset)
    data = data[: data.rfind(b"\n") + 1]
    settled = [line for line in data.split(b"\n") if line.startswith(SETTLED)]
    return _decode_entries(b"\n".join(settled)), offset + len(data)


def orphans(directory: Path, own: set[Path]) -> list[tuple[Path, int]]:
    """Lock and give the segments of processes that are gone, with the descriptors that hold the locks."""
    found: list[tuple[Path, int]] = []
    for path in sorted(directory.glob("*.jsonl")):
        if path in own:
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        found.append((path, fd))
    return found
