"""The load: a closed loop over some connections, buffered or streamed, counted at the socket."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools


class Tally:
    """What came back: latencies and times to the first byte of a body in seconds, and events."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.first_s: list[float] = []
        self.events = 0
        self.failures = 0


class _Client(asyncio.Protocol):
    """One connection that asks again and again until told to stop."""

    def __init__(self, next_request: Callable[[], bytes], tally: Tally, until_s: float) -> None:
        self._next = next_request
        self._tally = tally
        self._until_s = until_s
        self._first_s = self._sent_s = 0.0
        self._in_error = False
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self._tally.failures += 1
            self.over.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first_s:
            self._first_s = time.perf_counter()
        self._tally.events += body.count(b"data: {")
        self._in_error = self._in_error or body.startswith(b'data: {"error"')

    def on_message_complete(self) -> None:
        now_s = time.perf_counter()
        if self._parser.get_status_code() == 200 and not self._in_error:
            self._tally.latencies_s.append(now_s - self._sent_s)
            self._tally.first_s.append(self._first_s - self._sent_s)
        else:
            self._tally.failures += 1
        if now_s < self._until_s:
            asyncio.get_running_loop().call_soon(self._ask)
        elif not self.over.done():
            self.over.set_result(None)

    def _ask(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._first_s, self._in_error = 0.0, False
        self._sent_s = time.perf_counter()
        self._transport.write(self._next())


async def run(port: int, next_request: Callable[[], bytes], connections: int, seconds: float) -> Tally:
    """Drive a port for some seconds; requests under way at the end are waited for."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    until_s = time.perf_counter() + seconds
    clients = []
    for _ in range(connections):
        transport, client = await loop.create_connection(
            lambda: _Client(next_request, tally, until_s), "127.0.0.1", port
        )
        clients.append((transport, client))
    await asyncio.gather(*(client.over for _, client in clients))
    for transport, _ in clients:
        transport.close()
    return tally
