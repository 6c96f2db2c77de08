"""A request leaves no circle of objects behind, however it ends: nothing waits for the garbage collector.

What waits for it holds bodies and sockets, and under load there are thousands between two collections.
"""

import asyncio
import contextlib
import gc
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from backends.clients.base import ClientError, Outgoing
from backends.clients.connection import Connection
from backends.clients.plain import PlainClient
from gateway.api.exchange import Exchange
from gateway.errors import InvalidApiKey, UpstreamFailed
from gateway.openai.usage import Usage
from gateway.outbound.spans import SpanExporter
from gateway.tenancy.charge import Charge
from tests.fakes.loop import run
from tests.fakes.peer import Peer, peer
from tests.unit.test_billing import Desk
from tests.unit.test_exchange import Server


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    before.clear()
    before.update(map(type, gc.get_objects()))
    yield
    gc.enable()


before: Counter[type] = Counter()  # what earlier tests and their reports hold


def left(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects()) - before[kind]


async def _asked(url: str) -> None:
    client = PlainClient(sweep_s=0.02)
    try:
        with contextlib.suppress(ClientError):
            reply = await client.send(Outgoing(url, connect_s=0.01))
            try:
                await reply.read_all(1 << 20)
            finally:
                reply.close()
    finally:
        await client.close()
    await asyncio.sleep(0)


def test_a_connection_that_ends_before_its_answer() -> None:
    async def break_off(one: Peer) -> None:
        await one.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        one.close()

    async def main() -> None:
        async with peer(break_off) as url:
            for _ in range(3):
                await _asked(url)

    asyncio.run(main())
    assert left(Connection) == 0


def test_a_connection_that_is_never_made() -> None:
    with socket.socket() as bare:
        bare.bind(("127.0.0.1", 0))
        asyncio.run(_asked(f"http://127.0.0.1:{bare.getsockname()[1]}/"))
    assert left(Connection) == 0


@pytest.mark.parametrize("error", [InvalidApiKey("no"), UpstreamFailed("no")])
def test_a_request_that_fails(error: Exception) -> None:
    async def fails() -> None:
        raise type(error)("again")

    async def main() -> None:
        server = Server()
        await Exchange(server, "r", 10.0).run(fails())
        assert server.status >= 400

    run(main())
    assert left(Exchange) == 0


def test_a_stream_whose_usage_is_read_off_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    def streams(charge: Charge) -> None:
        charge.measured_by(lambda: (Usage(charge.order.prompt_tokens, 0, 1), False))
        charge.delivers(1)

    desk.go(streams)
    assert left(Charge) == 0


def test_spans_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "opentelemetry")  # a captured line holds the failure
    with socket.socket() as bare:
        bare.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bare.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        exporter = SpanExporter()
        assert not exporter.send(b"spans")
    assert left(requests.PreparedRequest) == 0
