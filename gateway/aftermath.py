"""What becomes of finished requests: they are counted, traced and logged, some at a time.

One by one, each step would find its code and tables gone from the processor's caches: it takes twice as long.
"""

import asyncio

from gateway.passage import Passage
from gateway.request_log import RequestLog
from gateway.telemetry import Telemetry
from gateway.tracing import Tracing

AT_ONCE = 32  # requests: half a millisecond
WAIT_S = 0.5  # at most


class Aftermath:
    """Takes finished requests on the event loop; whoever reads what is made of them has ``attend`` called."""

    def __init__(self, telemetry: Telemetry, tracing: Tracing | None, log: RequestLog) -> None:
        self._telemetry, self._tracing, self._log = telemetry, tracing, log
        self._waiting: list[Passage] = []
        self._due = False

    def take(self, passage: Passage) -> None:
        """Take a request that has ended."""
        self._waiting.append(passage)
        if len(self._waiting) >= AT_ONCE:
            self.attend()
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(WAIT_S, self._attend_in_time)

    def attend(self) -> None:
        """Attend to all that wait."""
        if not self._waiting:
            return
        finished, self._waiting = self._waiting, []
        for passage in finished:
            passage.observe(self._telemetry)
        if self._tracing is not None:
            self._tracing.offer(finished)
        self._log.offer(finished)

    def _attend_in_time(self) -> None:
        self._due = False
        self.attend()
