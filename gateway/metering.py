"""Metrics by OTLP: what ``/metrics`` shows, sent now and then, where the ``OTEL_*`` variables ask for it.

The event loop reads the numbers, a thread sends them. A receiver that is slow or away costs a sending,
counted, and nothing else: the next one has everything again, for all numbers count from the start.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from gateway.exporting import asked_for, period_s
from gateway.loops import Loop
from gateway.metrics import METRICS
from gateway.telemetry import Telemetry

if TYPE_CHECKING:  # the SDK takes a third of a second to import: only where something is exported
    from opentelemetry.sdk.metrics.export import MetricsData

log = logging.getLogger("switchgear.metering")

COUNTER = "switchgear_metric_exports_total"
PERIOD_MS = 60_000
UNITS = {metric.name: metric.unit for metric in METRICS}


class Sender(Protocol):
    """Sends what was counted; blocks, and tries again, within its own time-out."""

    def send(self, data: "MetricsData") -> bool:
        """Send; tells whether the receiver has it."""

    def shutdown(self) -> None:
        """Give up what is under way; callable from another thread."""


class Metering:
    """Sends the numbers of one process, or of all its siblings; ``wall`` is in seconds since the epoch."""

    def __init__(
        self, telemetry: Telemetry, sender: Sender, period_s: float, wall: Callable[[], float]
    ) -> None:
        self._telemetry, self._sender, self._wall = telemetry, sender, wall
        self._started_s = wall()
        self.period_s = period_s
        for outcome in ("sent", "failed"):
            telemetry.count(COUNTER, (outcome,), 0.0)

    @property
    def loop(self) -> Loop:
        """Give the loop that sends."""
        return Loop("metrics", self.period_s, self.send)

    async def send(self) -> None:
        """Send everything once; a failure is counted."""
        from gateway.otlp_metrics import metrics_data

        outcome = "failed"
        try:
            families = list(self._telemetry.collect())
            units = [UNITS.get(one.name) or UNITS[f"{one.name}_total"] for one in families]
            data = metrics_data(zip(families, units, strict=True), self._started_s, self._wall())
            if await asyncio.to_thread(self._sender.send, data):
                outcome = "sent"
        except Exception:
            log.exception("metrics were not sent")
        self._telemetry.count(COUNTER, (outcome,))

    async def close(self) -> None:
        """Send what has changed since, as far as the receiver's time-out lets."""
        await self.send()
        self._sender.shutdown()


def metering_from(
    environ: Mapping[str, str], telemetry: Telemetry, wall: Callable[[], float]
) -> Metering | None:
    """Make the metering that the standard variables ask for; None where they ask for none."""
    if not telemetry.speaks_for_all or not asked_for(environ, "METRICS"):
        return None
    # Imported only where it is used: these take a third of a second.
    from gateway.outbound.metrics import MetricExporter

    return Metering(
        telemetry, MetricExporter(), period_s(environ, "OTEL_METRIC_EXPORT_INTERVAL", PERIOD_MS), wall
    )
