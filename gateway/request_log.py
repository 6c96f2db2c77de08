"""The log: a line for each request, as JSON, and everything else; written behind the requests' backs.

Lines are made of finished requests, some at a time, and written by a thread (``gateway.backroom``). What no
room is left for is counted, never waited for. A line says what was decided and what it cost, by whom it was
asked and under which trace: no prompt, no answer, no key, no text of an error.
"""

import contextlib
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Literal

import msgspec

from gateway.backroom import Backroom, Batch
from gateway.choosing import Reading
from gateway.kinds import Kind, kind_of
from gateway.openai.usage import Usage
from gateway.passage import Passage
from gateway.settings import LoggingSettings
from gateway.telemetry import Telemetry

BUFFER_REQUESTS = 8192
KEPT_LINES = 2000
METRIC = "switchgear_log_lines_total"

_encode = msgspec.json.Encoder().encode


Level = Literal["info", "warning", "error"]


class Decided(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What many requests have in common: who asked for what, and what was decided."""

    level: Level
    event: Literal["request"]  # no default: it stands in every line
    operation: str
    org: str = ""
    project: str = ""
    key_id: str = ""
    asked: str
    model: str
    route: str = ""
    objective: str = ""
    reason: str = ""
    candidates: tuple[str, ...] = ()
    cache: str
    streamed: bool = False
    replicas: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    status: int
    error: str = ""
    price_version: str = ""
    source: str = ""


class RequestLine(Decided, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of one request; times in milliseconds."""

    ts: str
    request_id: str
    trace_id: str = ""
    span_id: str = ""
    score: float | None = None
    threshold: float | None = None
    cache_entry: str = ""
    similarity: float | None = None
    verdict: str = ""
    queue_ms: float
    first_byte_ms: float
    total_ms: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount_nanousd: int


_LINE = (
    b'{"ts":"%b.%03d+00:00","request_id":"%b",%b,%b"queue_ms":%.2f,"first_byte_ms":%.2f,"total_ms":%.2f,'
    b'"prompt_tokens":%d,"cached_tokens":%d,"completion_tokens":%d,"amount_nanousd":%d}'
)
_NOTHING = Usage()
_decode = msgspec.json.Decoder(RequestLine).decode


def line(passage: Passage, offset_s: float) -> bytes:
    """Say what became of a request, as JSON; ``offset_s`` turns its times into seconds since the epoch."""
    choice, trip, charge, trace = passage.choice, passage.trip, passage.charge, passage.trace
    kind = passage.kind or kind_of(passage)
    if not kind.line:
        kind.line = _decided(kind)
    more = b""
    if trace is not None:
        more = b'"trace_id":"%032x","span_id":"%016x",' % (trace.trace_id, trace.span_id)
    if choice is not None and choice.score is not None:
        more += b'"score":%.6f,' % choice.score
        if choice.threshold is not None:
            more += b'"threshold":%.6f,' % choice.threshold
    if passage.hit is not None:
        more += b'"cache_entry":"%b",' % passage.hit.id.encode()
    if (found := passage.found_near) is not None:
        more += b'"similarity":%.6f,"verdict":"%b",' % (found.similarity, found.verdict.told.encode())
    usage = charge.usage if charge is not None else _NOTHING
    began_s, ended_s = passage.started_s, passage.ended_s
    second, rest = divmod(ended_s + offset_s, 1)
    return _LINE % (
        _iso_second(int(second)),
        rest * 1000,
        passage.request_id.encode(),
        kind.line,
        more,
        trip.queue_s * 1000 if trip is not None else 0.0,
        (passage.first_byte_s - began_s) * 1000 if passage.first_byte_s else 0.0,
        (ended_s - began_s) * 1000,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        charge.booked_nanousd if charge is not None else 0,
    )


def _decided(kind: Kind) -> bytes:
    """Encode the fields of ``Decided``, in their order, without its braces."""
    level: Level = "error" if kind.status >= 500 else "warning" if kind.error else "info"
    return _encode(
        Decided(
            level=level,
            event="request",
            operation=kind.operation,
            org=kind.org,
            project=kind.project,
            key_id=kind.key_id,
            asked=kind.name,
            model=kind.model,
            route=kind.route,
            objective=kind.objective,
            reason=kind.reason,
            candidates=kind.candidates,
            cache=kind.cache,
            streamed=kind.streamed,
            replicas=kind.tried,
            outcomes=kind.outcomes,
            status=kind.status,
            error=kind.error,
            price_version=kind.price_version,
            source=kind.source,
        )
    )[1:-1]


@lru_cache(4)
def _iso_second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


_Kept = tuple[str, bytes, Reading | None]
"""A request's id, its line, and what the classifier read."""


class RequestLog:
    """Writes lines from its own thread, and keeps the last ones for who asks how a request was decided."""

    def __init__(
        self,
        telemetry: Telemetry,
        clocks: tuple[Callable[[], float], Callable[[], float]],
        out: IO[bytes] = sys.stderr.buffer,
    ) -> None:
        """``clocks``: monotonic, and seconds since the epoch."""
        self._telemetry = telemetry
        self._now, self._wall = clocks
        self._out = out
        self.waiting: Callable[[], Sequence[Passage]] = lambda: ()
        """Gives requests that have ended, and will be handed in."""
        self._settings = LoggingSettings()
        self._kept: deque[list[_Kept]] = deque()  # by batch; other threads read it
        self._kept_lines = 0
        self._room = Backroom("request log", self._make, self._write, BUFFER_REQUESTS)
        for outcome in ("written", "dropped"):  # one writer each: the thread, and the event loop
            telemetry.count(METRIC, (outcome,), 0.0)

    def adopt(self, settings: LoggingSettings) -> None:
        """Put settings in force; the level is that of everything else."""
        self._settings = settings
        logging.getLogger("switchgear").setLevel((settings.level or "notset").upper())

    def offer(self, passages: Sequence[Passage]) -> None:
        """Take finished requests."""
        if dropped := self._room.offer(passages):
            self._telemetry.count(METRIC, ("dropped",), len(dropped))

    def find(self, request_id: str) -> RequestLine | None:
        """Give what is kept of a request of this process; None where it is long ago, or of another one."""
        kept = self._find(request_id)
        return _decode(kept[1]) if kept is not None else None

    def latest(self, wanted: Callable[[RequestLine], bool], limit: int) -> list[RequestLine]:
        """Give the latest requests of this process that are wanted, the newest first."""
        found: dict[str, RequestLine] = {}
        for name, said, _ in self._newest_first():
            if len(found) == limit:
                break
            if name not in found and wanted(one := _decode(said)):
                found[name] = one
        return list(found.values())

    def reading(self, request_id: str) -> Reading | None:
        """Give what the classifier read, of a request that ``find`` finds; None where it was not asked."""
        kept = self._find(request_id)
        return kept[2] if kept is not None else None

    def _find(self, request_id: str) -> _Kept | None:
        return next((one for one in self._newest_first() if one[0] == request_id), None)

    def _newest_first(self) -> Iterator[_Kept]:
        """Give what is known, what waits first: handed in meanwhile, it comes twice, but is not missed."""
        offset_s = self._wall() - self._now()
        for passage in reversed(list(self.waiting())):
            yield _kept(passage, offset_s)
        for batch in reversed(self._kept.copy()):
            yield from reversed(batch)

    def start(self) -> None:
        """Start writing."""
        self._room.start()

    def close(self) -> None:
        """Write what is left; blocks."""
        self._room.close()

    def _make(self, passages: Sequence[Passage]) -> list[bytes]:
        """Make the lines of some requests, and keep them; gives those that are to be written."""
        offset_s = self._wall() - self._now()
        kept = [_kept(passage, offset_s) for passage in passages]
        self._kept.append(kept)
        self._kept_lines += len(kept)
        while self._kept_lines - len(self._kept[0]) >= KEPT_LINES:
            self._kept_lines -= len(self._kept.popleft())
        if self._settings.requests == "all":
            return [said for _, said, _ in kept]
        if self._settings.requests == "failed":
            return [said for passage, (_, said, _) in zip(passages, kept, strict=True) if passage.error]
        return []

    def _write(self, batches: Sequence[Batch[list[bytes]]]) -> None:
        lines = [said for _, some in batches for said in some]
        if lines:
            self._telemetry.count(METRIC, ("written",), len(lines))
            with contextlib.suppress(OSError):  # whoever read the log is gone
                self._out.write(b"\n".join([*lines, b""]))
                self._out.flush()


def _kept(passage: Passage, offset_s: float) -> _Kept:
    choice = passage.choice
    return passage.request_id, line(passage, offset_s), choice.reading if choice is not None else None
