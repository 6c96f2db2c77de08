"""What becomes of finished requests: all of one turn of the loop are counted, traced and logged together.

One by one, each step would find its code and tables gone from the processor's caches: it takes twice as long.
Whoever has had an answer can only ask in a later turn, and finds it counted.
"""

import asyncio

from gateway.passage import Passage
from gateway.request_log import RequestLog
from gateway.telemetry import Telemetry
from gateway.tracing import Tracing


class Aftermath:
    """Takes finished requests, on the event loop."""

    def __init__(self, telemetry: Telemetry, tracing: Tracing | None, log: RequestLog) -> None:
        self._telemetry, self._tracing, self._log = telemetry, tracing, log
        self._finished: list[Passage] = []

    def take(self, passage: Passage) -> None:
        """Take a request that has ended."""
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._attend)
        self._finished.append(passage)

    def _attend(self) -> None:
        finished, self._finished = self._finished, []
        for passage in finished:
            passage.observe(self._telemetry)
        if self._tracing is not None:
            self._tracing.offer(finished)
        self._log.offer(finished)
