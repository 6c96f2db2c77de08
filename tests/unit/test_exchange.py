"""The shell around the pipeline, against a scripted server, in virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.api.exchange import Exchange
from gateway.errors import InvalidRequest, UpstreamFailed
from gateway.pipeline import EVENT_STREAM, JSON
from tests.fakes.loop import run

BEAT_S = 10.0


class Server:
    """The server's side of a request; while it is not ``writable`` the client reads nothing."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.status = 0
        self.head = b""
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.ended = False
        self.gone = self.spoken = self.held = False
        self.leaving: Callable[[], None] = lambda: None
        self.writable = asyncio.Event()
        self.writable.set()

    async def read(self, limit_bytes: int) -> bytes:
        return b""[:limit_bytes]

    def on_leave(self, call: Callable[[], None]) -> None:
        self.leaving = call

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        await self.writable.wait()
        if not self.gone:
            self.status, self.head, self.ended = status, head, True
            self.pieces.append(body)

    async def begin(self, head: bytes) -> None:
        await self.writable.wait()
        if not self.gone:
            self.status, self.head = 200, head

    async def piece(self, data: bytes) -> None:
        await self.writable.wait()
        if not self.gone:
            self.at_once(data)

    @property
    def clear(self) -> bool:
        return self.writable.is_set() and not (self.gone or self.held)

    def at_once(self, data: bytes) -> None:
        self.spoken = True
        self.pieces.append(data)

    async def end(self) -> None:
        await self.writable.wait()
        self.ended = not self.gone

    def leave(self) -> None:
        self.gone = True
        self.writable.set()
        self.leaving()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Trace:
    """Whether the work was left, and whether it came to its end."""

    def __init__(self) -> None:
        self.closed = False
        self.finished = False


class Whole(bytes):
    """A complete answer."""


ACCEPT, BEGIN = "accept", "begin"
Part = str | bytes | float | Exception


async def parts(exchange: Exchange, trace: Trace, *script: Part) -> None:
    """Give the parts; wait the numbers (seconds); raise the exceptions."""
    try:
        for one in script:
            if isinstance(one, int | float):
                await asyncio.sleep(one)
            elif isinstance(one, Exception):
                raise one
            elif isinstance(one, Whole):
                await exchange.whole(JSON, one)
            elif isinstance(one, bytes):
                await exchange.piece(one)
            elif one is ACCEPT:
                exchange.accept(EVENT_STREAM)
            else:
                await exchange.begin(EVENT_STREAM)
        trace.finished = True
    finally:
        trace.closed = True


STREAM = (ACCEPT, BEGIN)


def exchange_of(server: Server) -> Exchange:
    exchange = Exchange(server, "req_1", BEAT_S)
    server.on_leave(exchange.abort.leave)
    return exchange


def outcome(
    *script: Part,
    meanwhile: Callable[[Server, Exchange], None] | None = None,
    at_s: float = 1.0,
) -> tuple[Server, Trace]:
    """Run an exchange to its end; ``meanwhile`` happens at its time."""

    async def main() -> tuple[Server, Trace]:
        server, trace = Server(), Trace()
        exchange = exchange_of(server)
        if meanwhile is not None:
            asyncio.get_running_loop().call_later(at_s, meanwhile, server, exchange)
        await exchange.run(parts(exchange, trace, *script))
        assert trace.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return server, trace

    return run(main())


def test_a_stream_goes_out_piece_by_piece() -> None:
    server, _ = outcome(*STREAM, b"a", b"b")
    assert (server.status, server.head, server.pieces) == (200, EVENT_STREAM, [b"a", b"b"])
    assert server.ended


def test_a_buffered_answer_goes_out_whole() -> None:
    server, trace = outcome(Whole(b"four"))
    assert (server.status, server.head, server.pieces, server.ended) == (200, JSON, [b"four"], True)
    assert trace.finished


def test_heartbeats_fill_silence_only() -> None:
    server, _ = outcome(*STREAM[:1], 25.0, STREAM[1], *(part for _ in range(9) for part in (b"x", 6.0)), 24.0)
    beats = [number for number, one in enumerate(server.pieces) if b"keep-alive" in one]
    data = [number for number, one in enumerate(server.pieces) if one == b"x"]
    assert (len(data), server.status) == (9, 200)
    assert [one for one in beats if one < data[0]] == [0, 1]
    assert not [one for one in beats if data[0] < one < data[-1]]
    assert len([one for one in beats if one > data[-1]]) == 2


def test_nothing_goes_the_short_way_into_a_heartbeat() -> None:
    """A heartbeat that waits for the client has not been written when the client reads again."""
    clear: list[bool] = []

    def stop_reading(server: Server, exchange: Exchange) -> None:
        server.writable.clear()
        asyncio.get_running_loop().call_later(22.0, read_again, server, exchange)

    def read_again(server: Server, exchange: Exchange) -> None:
        server.writable.set()
        clear.append(exchange.lane.clear)

    server, _ = outcome(*STREAM, b"a", 28.0, b"b", meanwhile=stop_reading)
    assert clear == [False]
    assert server.pieces == [b"a", b": keep-alive\n\n", b"b"]


def test_a_buffered_answer_has_no_heartbeat() -> None:
    server, _ = outcome(100.0, Whole(b"all"))
    assert server.body == b"all"


@pytest.mark.parametrize(
    ("script", "at_s"),
    [
        ((100.0,), 1.0),
        ((*STREAM[:1], 100.0), 1.0),
        ((*STREAM[:1], 100.0), 15.0),
        ((*STREAM, b"a", 100.0), 1.0),
        ((*STREAM, b"a", 100.0), 15.0),
        ((100.0, Whole(b"a")), 1.0),
    ],
)
def test_a_client_that_leaves_ends_the_work(script: tuple[Part, ...], at_s: float) -> None:
    server, trace = outcome(*script, meanwhile=lambda server, _: server.leave(), at_s=at_s)
    assert not trace.finished
    assert not server.ended


@pytest.mark.parametrize("script", [(*STREAM, b"a", b"b"), (Whole(b"a"),)])
def test_a_client_that_leaves_while_a_write_waits(script: tuple[Part, ...]) -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        server.writable.clear()
        asyncio.get_running_loop().call_later(30.0, server.leave)
        exchange = exchange_of(server)
        await exchange.run(parts(exchange, trace, *script, 100.0))
        assert (trace.closed, trace.finished) == (True, False)

    run(main())


def test_a_failure_before_the_answer_is_a_status() -> None:
    server, _ = outcome(*STREAM[:1], InvalidRequest("no", param="p"))
    assert (server.status, server.ended) == (400, True)
    assert (
        server.body
        == b'{"error":{"message":"no","type":"invalid_request_error","param":"p","code":"invalid_value"}}'
    )


@pytest.mark.parametrize("script", [(*STREAM, b"data: x\n\n"), (*STREAM[:1], BEAT_S * 1.5)])
def test_a_failure_after_it_is_one_event(script: tuple[Part, ...]) -> None:
    server, _ = outcome(*script, UpstreamFailed("gone"))
    assert (server.status, server.ended) == (200, True)
    assert server.body.count(b'data: {"error":{"message":"gone"') == 1
    assert b"[DONE]" not in server.body


def test_an_unknown_exception_stays_opaque(caplog: pytest.LogCaptureFixture) -> None:
    server, _ = outcome(RuntimeError("secret"))
    assert server.status == 500
    assert b"secret" not in server.body
    assert "req_1" in caplog.text


def test_a_shutdown_is_told() -> None:
    server, trace = outcome(*STREAM, b"x", 100.0, meanwhile=lambda _, exchange: exchange.abort.shut_down())
    assert b'"code":"shutting_down"' in server.body
    assert (server.ended, trace.finished) == (True, False)
    waiting, _ = outcome(100.0, Whole(b"a"), meanwhile=lambda _, exchange: exchange.abort.shut_down())
    assert waiting.status == 503


def test_a_shutdown_waits_for_nobody_who_does_not_read() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        exchange = exchange_of(server)
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, server.writable.clear)
        loop.call_later(5.0, exchange.abort.shut_down)
        began_s = loop.time()
        await exchange.run(parts(exchange, trace, *STREAM, b"a", 2.0, b"b", 1000.0))
        assert trace.closed
        assert loop.time() - began_s < 10.0  # of virtual time

    run(main())


def test_a_client_may_leave_while_it_is_told_of_a_failure() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        server.writable.clear()
        asyncio.get_running_loop().call_later(0.5, server.leave)
        exchange = exchange_of(server)
        await exchange.run(parts(exchange, trace, InvalidRequest("no")))
        assert trace.closed

    run(main())


def test_an_outer_cancellation_goes_through() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        exchange = exchange_of(server)
        task = server.task = asyncio.create_task(exchange.run(parts(exchange, trace, *STREAM, 100.0)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trace.closed

    run(main())
