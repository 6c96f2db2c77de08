"""The log: a line for each request, as JSON, and everything else; written behind the requests' backs.

The event loop appends the finished Passage to a bounded buffer; a thread writes the lines. What no room is
left for is counted, never waited for. A line says what was decided and what it cost, by whom it was asked and
under which trace: no prompt, no answer, no key, no text of an error.
"""

import contextlib
import logging
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Literal

import msgspec

from gateway.choosing import Reading
from gateway.passage import Passage
from gateway.settings import LoggingSettings
from gateway.telemetry import Telemetry

BUFFER_REQUESTS = 8192
KEPT_LINES = 2000
PERIOD_S = 0.5
METRIC = "switchgear_log_lines_total"

_encode = msgspec.json.Encoder().encode


class RequestLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of one request; times in milliseconds."""

    ts: str
    level: Literal["info", "warning", "error"]
    event: Literal["request"] = "request"
    request_id: str
    trace_id: str = ""
    span_id: str = ""
    operation: str
    org: str = ""
    project: str = ""
    key_id: str = ""
    asked: str
    model: str
    route: str = ""
    score: float | None = None
    threshold: float | None = None
    objective: str = ""
    reason: str = ""
    candidates: tuple[str, ...] = ()
    cache: str
    cache_entry: str = ""
    streamed: bool = False
    replicas: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    queue_ms: float = 0.0
    first_byte_ms: float = 0.0
    total_ms: float
    status: int
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    amount_nanousd: int = 0
    price_version: str = ""
    source: str = ""


def line(passage: Passage, offset_s: float) -> RequestLine:
    """Say what became of a request; ``offset_s`` turns its times into seconds since the epoch."""
    key, choice, trip, charge, trace = (
        passage.key,
        passage.choice,
        passage.trip,
        passage.charge,
        passage.trace,
    )
    usage = charge.usage if charge is not None else None
    began_s = passage.started_s
    return RequestLine(
        ts=datetime.fromtimestamp(passage.ended_s + offset_s, UTC).isoformat(timespec="milliseconds"),
        level="error" if passage.status >= 500 else "warning" if passage.error else "info",
        request_id=passage.request_id,
        trace_id=f"{trace.trace_id:032x}" if trace is not None else "",
        span_id=f"{trace.span_id:016x}" if trace is not None else "",
        operation=passage.operation,
        org=key.org if key is not None else "",
        project=key.project if key is not None else "",
        key_id=key.id if key is not None else "",
        asked=passage.name,
        model=passage.model,
        route=passage.route,
        score=choice.score if choice is not None else None,
        threshold=choice.threshold if choice is not None else None,
        objective=choice.aim.told if choice is not None and choice.aim is not None else "",
        reason=choice.reason if choice is not None and passage.route else "",
        candidates=tuple(one.name for one in passage.target.models)
        if passage.target is not None and passage.route
        else (),
        cache=passage.cache,
        cache_entry=passage.hit.id if passage.hit is not None else "",
        streamed=passage.streamed,
        replicas=tuple(trip.tried) if trip is not None else (),
        outcomes=tuple(one.outcome or "given_up" for one in trip.tries) if trip is not None else (),
        queue_ms=round(trip.queue_s * 1000, 2) if trip is not None else 0.0,
        first_byte_ms=round((passage.first_byte_s - began_s) * 1000, 2) if passage.first_byte_s else 0.0,
        total_ms=round((passage.ended_s - began_s) * 1000, 2),
        status=passage.status,
        error=passage.error,
        prompt_tokens=usage.prompt_tokens if usage is not None else 0,
        cached_tokens=usage.cached_tokens if usage is not None else 0,
        completion_tokens=usage.completion_tokens if usage is not None else 0,
        amount_nanousd=charge.amount_nanousd(usage) if charge is not None and usage is not None else 0,
        price_version=charge.price.version if charge is not None else "",
        source=charge.source if charge is not None else "",
    )


class RequestLog:
    """Writes lines from its own thread, and keeps the last ones for who asks how a request was decided."""

    def __init__(
        self,
        telemetry: Telemetry,
        clocks: tuple[Callable[[], float], Callable[[], float]],
        out: IO[str] = sys.stderr,
    ) -> None:
        """``clocks``: monotonic, and seconds since the epoch."""
        self._telemetry = telemetry
        self._now, self._wall = clocks
        self._out = out
        self._settings = LoggingSettings()
        self._buffer: deque[Passage] = deque()
        self._kept: OrderedDict[str, tuple[RequestLine, Reading | None]] = OrderedDict()
        self._lock = threading.Lock()  # between the thread and who asks; the event loop takes it never
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        for outcome in ("written", "dropped"):  # one writer each: the thread, and the event loop
            telemetry.count(METRIC, (outcome,), 0.0)

    def adopt(self, settings: LoggingSettings) -> None:
        """Put settings in force; the level is that of everything else."""
        self._settings = settings
        logging.getLogger("switchgear").setLevel((settings.level or "notset").upper())

    def offer(self, passage: Passage) -> None:
        """Take a finished request."""
        if len(self._buffer) >= BUFFER_REQUESTS:
            self._telemetry.count(METRIC, ("dropped",))
            return
        self._buffer.append(passage)

    def find(self, request_id: str) -> RequestLine | None:
        """Give what is kept of a request of this process; None where it is long ago, or of another one."""
        self._drain()
        kept = self._kept.get(request_id)
        return kept[0] if kept is not None else None

    def reading(self, request_id: str) -> Reading | None:
        """Give what the classifier read, of a request that ``find`` finds; None where it was not asked."""
        kept = self._kept.get(request_id)
        return kept[1] if kept is not None else None

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left; blocks."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._drain()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._drain()

    def _drain(self) -> None:
        with self._lock:
            self._write()

    def _write(self) -> None:
        offset_s = self._wall() - self._now()
        wanted, lines = self._settings.requests, []
        while self._buffer:
            passage = self._buffer.popleft()
            said = line(passage, offset_s)
            reading = passage.choice.reading if passage.choice is not None else None
            self._kept[said.request_id] = said, reading
            if wanted == "all" or (wanted == "failed" and said.level != "info"):
                lines.append(_encode(said).decode())
        while len(self._kept) > KEPT_LINES:
            self._kept.popitem(last=False)
        if lines:
            self._telemetry.count(METRIC, ("written",), len(lines))
            with contextlib.suppress(OSError):  # whoever read the log is gone
                self._out.write("\n".join(lines) + "\n")
                self._out.flush()
