"""OpenTelemetry traces, for billing and latency: one per request, exported in the background.

Rules: spans are made of finished requests, some at a time, and sent by a thread (``gateway.backroom``). A
receiver that is slow or away costs traces, counted, and nothing else. Head sampling by the standard
variables; what failed, was tried twice, was slow or dear is kept whatever the sampler said. No text of errors
is in a span, and prompts and answers only of tenants that the configuration names (``gateway.content``).
"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway import otlp
from gateway.backroom import Backroom, Batch
from gateway.content import Content, Noting, Rules
from gateway.exporting import asked_for, period_s, resource, version
from gateway.otlp import Value
from gateway.outlet import Outlet
from gateway.passage import Passage
from gateway.settings import TracingSettings
from gateway.spans import spans
from gateway.telemetry import Telemetry
from gateway.tracecontext import Sampler, Trace, sampler_from

log = logging.getLogger("switchgear.tracing")

BUFFER_REQUESTS = 4096
CONTENT_BYTES = 64 * 1024 * 1024  # of prompts and answers that wait
CLOSE_S = 5.0
DELAY_MS = 5000  # as in OpenTelemetry's general SDK configuration
METRIC = "switchgear_traces_total"


class Exporter(Protocol):
    """Sends encoded spans; blocks, and tries again, within its own time-out."""

    def send(self, data: bytes) -> bool:
        """Send an ``ExportTraceServiceRequest``; tells whether the receiver has it."""

    def shutdown(self) -> None:
        """Give up what is under way; callable from another thread."""


class Tracing:
    """Gives requests their traces, keeps finished ones, exports them from its own thread."""

    def __init__(
        self,
        exporter: Exporter,
        resource: Mapping[str, Value],
        sampler: Sampler,
        telemetry: Telemetry,
        clocks: tuple[Callable[[], float], Callable[[], float]],
        delay_s: float = 1.0,
    ) -> None:
        """``clocks``: monotonic, and seconds since the epoch. What is finished waits ``delay_s`` at most."""
        self._exporter = exporter
        self._resource = resource
        self._sampler = sampler
        self._telemetry = telemetry
        self._now, self._wall = clocks
        self._keep = TracingSettings()
        self.content: Rules | None = None
        self._content_bytes = [0, 0]  # taken by the event loop, let go by the thread
        self._room = Backroom("traces", self._encode, self._export, BUFFER_REQUESTS, delay_s)
        # Each counter is made here and then has one writer: "dropped" the event loop, the others the thread.
        for outcome in ("exported", "failed", "dropped"):
            telemetry.count(METRIC, (outcome,), 0.0)

    def adopt(self, settings: TracingSettings) -> None:
        """Put settings in force."""
        self._keep = settings
        self.content = Rules(settings.content) if settings.content is not None else None

    # On the event loop
    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """Give a request its trace: the client's, or a new one."""
        return self._sampler.begin(headers, random.getrandbits)

    def noted(self, passage: Passage, body: bytes, out: Outlet) -> Outlet:
        """Give the outlet that notes a tenant's answer, where its content is wanted in its trace."""
        key = passage.key
        if self.content is None or key is None or not self.content.wanted(key.org, key.project):
            return out
        passage.content = Content(self.content, body)
        return Noting(passage.content, out)

    def offer(self, passages: Sequence[Passage]) -> None:
        """Take finished requests, as far as they are to be seen; one with content takes the thread."""
        plain: list[Passage] = []
        full: list[Passage] = []
        for passage in passages:
            assert passage.trace is not None
            if not passage.trace.sampled and not self._worth(passage):
                continue
            if passage.content is not None:
                self._make_room(passage, passage.content)
            (plain if passage.content is None else full).append(passage)
        dropped = [*self._room.offer(plain), *(self._room.leave(full) if full else ())]
        if dropped:
            self._telemetry.count(METRIC, ("dropped",), len(dropped))
            self._content_bytes[0] -= sum(
                one.content.size_bytes for one in dropped if one.content is not None
            )

    def _make_room(self, passage: Passage, content: Content) -> None:
        """Have content wait too, unless too much of it waits already."""
        taken, let_go = self._content_bytes
        if taken - let_go + content.size_bytes > CONTENT_BYTES:
            passage.content = None
            return
        self._content_bytes[0] += content.size_bytes

    def _worth(self, passage: Passage) -> bool:
        keep, trip, charge = self._keep, passage.trip, passage.charge
        waited_s = (passage.first_byte_s or passage.ended_s) - passage.started_s
        return (
            passage.status >= 500
            or (trip is not None and len(trip.tried) > 1)
            or waited_s >= keep.slow_s
            or (charge is not None and charge.cost_usd >= keep.expensive_usd)
        )

    def start(self) -> None:
        """Start exporting."""
        self._room.start()

    def close(self) -> None:
        """Export what is left, as far as that takes no longer than ``CLOSE_S``; blocks."""
        self._room.close(CLOSE_S)
        self._exporter.shutdown()

    def _encode(self, passages: Sequence[Passage]) -> bytes:
        """Encode the spans of some requests."""
        offset_s = self._wall() - self._now()
        encoded: list[bytes] = []
        for passage in passages:
            try:
                encoded += spans(passage, offset_s)
            except Exception:
                log.exception("the trace of request %s cannot be written", passage.request_id)
            if passage.content is not None:
                self._content_bytes[1] += passage.content.size_bytes
        return b"".join(encoded)

    # In the thread
    def _export(self, batches: Sequence[Batch[bytes]]) -> None:
        """Send what was encoded."""
        count, outcome = sum(requests for requests, _ in batches), "failed"
        encoded = [data for _, data in batches]
        try:
            if self._exporter.send(otlp.request(self._resource, ("switchgear", version()), encoded)):
                outcome = "exported"
        except Exception:
            log.exception("traces of %d requests are lost", count)
        self._telemetry.count(METRIC, (outcome,), count)


def tracing_from(
    environ: Mapping[str, str], telemetry: Telemetry, clocks: tuple[Callable[[], float], Callable[[], float]]
) -> Tracing | None:
    """Make the tracing that the standard ``OTEL_*`` variables ask for; None where they ask for none."""
    if not asked_for(environ, "TRACES"):
        return None
    # Imported only where it is used: these take a third of a second.
    from gateway.outbound.spans import SpanExporter

    described = resource().attributes
    plain = {name: value for name, value in described.items() if isinstance(value, str | int | float)}
    delay_s = period_s(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS)
    return Tracing(SpanExporter(), plain, sampler_from(environ), telemetry, clocks, delay_s)
