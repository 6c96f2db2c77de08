"""The shell around the pipeline, against a scripted ASGI server, in virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from gateway.api.exchange import ClientGone, Exchange, read_body
from gateway.errors import InvalidRequest, RequestTooLarge, UpstreamFailed
from gateway.pipeline import EVENT_STREAM, JSON, Accepted, Head
from tests.fakes.loop import run

BEAT_S = 10.0
Part = Accepted | Head | bytes


class Server:
    """What an ASGI server takes; while it is not ``writable`` the client reads nothing and writing waits."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gone = False
        self.leaving: Callable[[], None] = lambda: None
        self.writable = asyncio.Event()
        self.writable.set()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if not self.gone:
            self.sent.append(message)

    def leave(self) -> None:
        self.gone = True
        self.writable.set()
        self.leaving()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(one["body"] for one in self.sent[1:])

    @property
    def ended(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


class Trace:
    """Whether a generator was closed, and when."""

    def __init__(self) -> None:
        self.closed = False
        self.finished = False


async def parts(trace: Trace, *script: Part | float | Exception) -> AsyncGenerator[Part, None]:
    """Give the parts; wait the numbers (seconds); raise the exceptions."""
    try:
        for one in script:
            if isinstance(one, int | float):
                await asyncio.sleep(one)
            elif isinstance(one, Exception):
                raise one
            else:
                yield one
        trace.finished = True
    finally:
        trace.closed = True


STREAM = (Accepted(EVENT_STREAM), Head(EVENT_STREAM))
WHOLE = (Head(JSON),)


def exchange_of(server: Server) -> Exchange:
    exchange = Exchange(server.send, "req_1", BEAT_S)
    server.leaving = exchange.abort.leave
    return exchange


def outcome(
    *script: Part | float | Exception,
    meanwhile: Callable[[Server, Exchange], None] | None = None,
    at_s: float = 1.0,
) -> tuple[Server, Trace]:
    """Run an exchange to its end; ``meanwhile`` happens at its time."""

    async def main() -> tuple[Server, Trace]:
        server, trace = Server(), Trace()
        exchange = exchange_of(server)
        if meanwhile is not None:
            asyncio.get_running_loop().call_later(at_s, meanwhile, server, exchange)
        await exchange.run(parts(trace, *script))
        assert trace.closed, "closed by name, not by the garbage collector"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return server, trace

    return run(main())


def test_a_stream_goes_out_piece_by_piece() -> None:
    server, _ = outcome(*STREAM, b"a", b"b")
    assert (server.status, [one["body"] for one in server.sent[1:]]) == (200, [b"a", b"b", b""])
    assert (b"x-request-id", b"req_1") in server.sent[0]["headers"]
    assert server.ended


def test_a_buffered_answer_has_its_length() -> None:
    server, trace = outcome(*WHOLE, b"four")
    assert (b"content-length", b"4") in server.sent[0]["headers"]
    assert trace.finished


def test_heartbeats_fill_silence_only() -> None:
    server, _ = outcome(*STREAM[:1], 25.0, STREAM[1], *(part for _ in range(9) for part in (b"x", 6.0)), 24.0)
    beats = [number for number, one in enumerate(server.sent[1:]) if b"keep-alive" in one["body"]]
    data = [number for number, one in enumerate(server.sent[1:]) if one["body"] == b"x"]
    assert (len(data), server.status) == (9, 200)
    assert [one for one in beats if one < data[0]] == [0, 1]
    assert not [one for one in beats if data[0] < one < data[-1]]
    assert len([one for one in beats if one > data[-1]]) == 2


def test_a_buffered_answer_has_no_heartbeat() -> None:
    server, _ = outcome(100.0, *WHOLE, b"all")
    assert server.body == b"all"


@pytest.mark.parametrize(
    ("script", "at_s"),
    [
        ((100.0,), 1.0),
        ((*STREAM[:1], 100.0), 1.0),
        ((*STREAM[:1], 100.0), 15.0),
        ((*STREAM, b"a", 100.0), 1.0),
        ((*STREAM, b"a", 100.0), 15.0),
        ((100.0, *WHOLE), 1.0),
    ],
)
def test_a_client_that_leaves_ends_the_work(script: tuple[Part | float, ...], at_s: float) -> None:
    server, trace = outcome(*script, meanwhile=lambda server, _: server.leave(), at_s=at_s)
    assert not trace.finished
    assert not server.ended


@pytest.mark.parametrize("kind", [STREAM, WHOLE])
def test_a_client_that_leaves_while_a_write_waits(kind: tuple[Part, ...]) -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        server.writable.clear()
        asyncio.get_running_loop().call_later(30.0, server.leave)
        await exchange_of(server).run(parts(trace, *kind, b"a", b"b", 100.0))
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
def test_a_failure_after_it_is_one_event(script: tuple[Part | float, ...]) -> None:
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
    waiting, _ = outcome(100.0, *WHOLE, meanwhile=lambda _, exchange: exchange.abort.shut_down())
    assert waiting.status == 503


def test_a_shutdown_waits_for_nobody_who_does_not_read() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        exchange = exchange_of(server)
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, server.writable.clear)
        loop.call_later(5.0, exchange.abort.shut_down)
        began_s = loop.time()
        await exchange.run(parts(trace, *STREAM, b"a", 2.0, b"b", 1000.0))
        assert trace.closed
        assert loop.time() - began_s < 10.0  # of virtual time

    run(main())


def test_a_client_may_leave_while_it_is_told_of_a_failure() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        server.writable.clear()
        asyncio.get_running_loop().call_later(0.5, server.leave)
        await exchange_of(server).run(parts(trace, InvalidRequest("no")))
        assert trace.closed

    run(main())


def test_an_outer_cancellation_goes_through() -> None:
    async def main() -> None:
        server, trace = Server(), Trace()
        task = asyncio.create_task(exchange_of(server).run(parts(trace, *STREAM, 100.0)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trace.closed

    run(main())


def test_a_body_is_read_up_to_its_limit() -> None:
    def receive(*pieces: bytes, cut: bool = False) -> Any:
        messages = [{"type": "http.request", "body": one, "more_body": True} for one in pieces]
        messages[-1]["more_body"] = cut
        left = iter([*messages, {"type": "http.disconnect"}])

        async def next_one() -> Any:
            return next(left)

        return next_one

    def read(receive: Any, **headers: bytes) -> bytes:
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        return run(read_body(receive, named, 10))

    assert read(receive(b"12345", b"67890")) == b"1234567890"
    assert read(receive(b"")) == b""
    with pytest.raises(RequestTooLarge):
        read(receive(b"12345", b"678901"))
    with pytest.raises(RequestTooLarge):
        read(receive(b""), content_length=b"11")
    with pytest.raises(ClientGone):
        read(receive(b"12", cut=True))
