"""What becomes of finished requests: some are counted, traced and logged together.

One by one, each step would find its code and tables gone from the processor's caches: it takes twice as long.
Counted are those of one turn of the loop: whoever has had an answer can only ask in a later turn, and finds
it counted. Traces and lines wait for others, no longer than a second; the log finds those that wait.
"""

import asyncio

from gateway.loops import Loop
from gateway.passage import Passage
from gateway.request_log import RequestLog
from gateway.telemetry import Telemetry
from gateway.tracing import Tracing

TOGETHER = 32


class Aftermath:
    """Takes finished requests, on the event loop."""

    def __init__(self, telemetry: Telemetry, tracing: Tracing | None, log: RequestLog) -> None:
        self._telemetry, self._tracing, self._log = telemetry, tracing, log
        self._finished: list[Passage] = []
        self._counted: list[Passage] = []
        log.waiting = lambda: self._counted

    def take(self, passage: Passage) -> None:
        """Take a request that has ended."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._attend)
        self._finished.append(passage)

    def _attend(self) -> None:
        finished, self._finished = self._finished, []
        for passage in finished:
            passage.observe(self._telemetry)
        self._counted += finished
        if len(self._counted) >= TOGETHER:
            self._tell()

    @property
    def loop(self) -> Loop:
        """Give the loop that tells of those that wait for others."""
        return Loop("aftermath", 1.0, self.tell, due=lambda: self._counted)

    async def tell(self) -> None:
        """Trace and log all that have ended."""
        if self._counted:
            self._tell()

    def _tell(self) -> None:
        try:
            if self._tracing is not None:
                self._tracing.offer(self._counted)
            self._log.offer(self._counted)
        finally:
            self._counted = []  # not before they are in the log, which looks here for what it has not
