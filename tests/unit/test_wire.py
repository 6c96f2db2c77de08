"""The server's protocol on a scripted transport: what leaves, and what it tells the handler."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.api.exchange import WIRE, ClientGone
from gateway.errors import RequestTooLarge
from gateway.wire import Cycle, JoinedHttpProtocol
from tests.fakes.loop import run

ASK = b"%s /x HTTP/1.1\r\nhost: a\r\n\r\n"
Handler = Callable[[Any, Any, Any], Awaitable[None]]


class Transport:
    """Notes each write."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def connected(handler: Handler) -> tuple[JoinedHttpProtocol, Transport]:
    config = uvicorn.Config(handler, lifespan="off", log_config=None, ws="none")
    config.load()
    transport = Transport()
    protocol = JoinedHttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    return protocol, transport


def answer(headers: list[tuple[bytes, bytes]], *pieces: bytes, method: bytes = b"GET") -> Transport:
    """Give what leaves for an answer of these headers and pieces."""

    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            more = number < len(pieces) - 1
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def main() -> Transport:
        protocol, transport = connected(handler)
        protocol.data_received(ASK % method)
        await turns()
        return transport

    return asyncio.run(main())


def test_a_whole_answer_leaves_in_one_write() -> None:
    sent = answer([(b"content-length", b"2")], b"ok")
    assert sent.written == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    assert not sent.closed


def test_each_piece_of_a_stream_leaves_at_once() -> None:
    first, second, end = answer([], b"one", b"two", b"").written
    assert first.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n")
    assert (second, end) == (b"3\r\ntwo\r\n", b"0\r\n\r\n")


def test_an_answer_to_head_has_no_body() -> None:
    assert answer([(b"content-length", b"2")], b"ok", method=b"HEAD").written[0].endswith(b"\r\n\r\n")


def test_an_answer_may_close_its_connection() -> None:
    sent = answer([(b"content-length", b"2"), (b"connection", b"close")], b"ok")
    assert sent.closed
    assert sent.written[0].count(b"connection: close") == 1


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
@pytest.mark.parametrize("where", ["name", "value"])
def test_a_header_cannot_smuggle_in_another(value: bytes, where: str) -> None:
    header = (value, b"x") if where == "name" else (b"x-a", value)
    sent = b"".join(answer([header], b"ok").written)
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert value not in sent


@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_what_an_application_leaves_unanswered_ends_with_its_connection(began: bool, raises: bool) -> None:
    async def handler(_scope: Any, _receive: Any, send: Any) -> None:
        if began:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if raises:
            raise ValueError("not for the client")

    async def main() -> tuple[JoinedHttpProtocol, Transport]:
        protocol, transport = connected(handler)
        protocol.data_received(ASK % b"GET")
        await turns()
        return protocol, transport

    protocol, transport = asyncio.run(main())
    assert transport.closed
    assert not protocol.tasks
    sent = b"".join(transport.written)
    assert b"not for the client" not in sent
    assert sent.startswith(b"HTTP/1.1 500 ") == (raises and not began)


def spoken(asked: bytes, *calls: tuple[Any, ...]) -> Transport:
    """Give what leaves for calls of the hot path's own interface."""

    async def handler(scope: Any, _receive: Any, _send: Any) -> None:
        wire = scope["extensions"][WIRE]()
        for name, *given in calls:
            waiting = getattr(wire, name)(*given)
            if waiting is not None:
                await waiting

    async def main() -> Transport:
        protocol, transport = connected(handler)
        protocol.data_received(asked)
        await turns()
        return transport

    return asyncio.run(main())


ANSWER = ("answer", 404, b"x-a: b\r\n", b"ok")
STREAM = (("begin", b"x-a: b\r\n"), ("piece", b"one"), ("piece", b""), ("piece", b"two"), ("end",))


def test_the_hot_path_answers_in_one_write() -> None:
    head = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nx-a: b\r\n"
    assert spoken(ASK % b"GET", ANSWER).written == [head + b"\r\nok"]
    assert spoken(ASK % b"HEAD", ANSWER).written == [head + b"\r\n"]
    closing = spoken(b"GET /x HTTP/1.1\r\nconnection: close\r\n\r\n", ANSWER)
    assert (closing.written, closing.closed) == ([head + b"connection: close\r\n\r\nok"], True)


HEAD = b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n"


def test_what_the_hot_path_says_in_one_turn_leaves_together() -> None:
    assert spoken(ASK % b"GET", *STREAM).written == [HEAD + b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"]


def test_a_piece_at_once_leaves_at_once_behind_what_is_kept() -> None:
    first, second, end = spoken(
        ASK % b"GET", STREAM[0], ("at_once", b"one"), ("at_once", b"two"), ("piece", b"three"), ("end",)
    ).written
    assert first == HEAD + b"3\r\none\r\n"
    assert (second, end) == (b"3\r\ntwo\r\n", b"5\r\nthree\r\n0\r\n\r\n")


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection() -> None:
    old = spoken(b"GET /x HTTP/1.0\r\n\r\n", *STREAM)
    assert b"".join(old.written) == b"HTTP/1.1 200 OK\r\nx-a: b\r\nconnection: close\r\n\r\nonetwo"
    assert old.closed


POST = b"POST /x HTTP/1.1\r\n"


def read(*pieces: bytes, limit_bytes: int = 10) -> tuple[bytes | Exception, Transport]:
    """Give the body, or why there is none, of a request that comes in pieces and may break off."""
    found: list[bytes | Exception] = []

    async def handler(scope: Any, _receive: Any, _send: Any) -> None:
        wire = scope["extensions"][WIRE]()
        try:
            found.append(await wire.read(limit_bytes))
        except (ClientGone, RequestTooLarge) as error:
            found.append(error)
        await wire.answer(200, b"", b"")

    async def main() -> Transport:
        protocol, transport = connected(handler)
        for one in pieces:
            protocol.data_received(one)
            await turns()
        if not found:
            protocol.connection_lost(None)
            await turns()
        return transport

    transport = asyncio.run(main())
    return found[0], transport


def test_a_body_is_read_up_to_its_limit() -> None:
    assert read(POST + b"content-length: 10\r\n\r\n12345", b"678", b"90")[0] == b"1234567890"
    assert read(POST + b"content-length: 0\r\n\r\n")[0] == b""
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n"
    assert read(chunked, b"5\r\n12345\r\n", b"5\r\n67890\r\n", b"0\r\n\r\n")[0] == b"1234567890"
    assert isinstance(read(chunked, b"5\r\n12345\r\n", b"6\r\n678901\r\n")[0], RequestTooLarge)
    assert isinstance(read(POST + b"content-length: 11\r\n\r\n")[0], RequestTooLarge)
    assert isinstance(read(POST + b"content-length: 9\r\n\r\n12")[0], ClientGone)


def test_a_client_that_waits_for_it_is_told_to_go_on() -> None:
    body, transport = read(POST + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n", b"ok")
    assert (body, transport.written[0]) == (b"ok", b"HTTP/1.1 100 Continue\r\n\r\n")


def test_who_leaves_before_the_end_is_told_of_and_who_leaves_after_it_is_not() -> None:
    async def leavers(whole: bool) -> list[str]:
        told: list[str] = []

        async def handler(scope: Any, _receive: Any, send: Any) -> None:
            scope["extensions"][WIRE]().on_leave(lambda: told.append("left"))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": not whole})
            await asyncio.sleep(3600 if not whole else 0)

        protocol, _ = connected(handler)
        protocol.data_received(ASK % b"GET")
        await turns()
        protocol.connection_lost(None)
        await turns()
        return told

    assert asyncio.run(leavers(whole=False)) == ["left"]
    assert asyncio.run(leavers(whole=True)) == []


def test_a_client_that_reads_nothing_is_let_go() -> None:
    """After a minute, and what it asked for with it."""

    async def main() -> None:
        told: list[float] = []
        loop = asyncio.get_running_loop()

        async def handler(scope: Any, _receive: Any, _send: Any) -> None:
            wire = scope["extensions"][WIRE]()
            wire.on_leave(lambda: told.append(loop.time()))
            await wire.begin(b"")
            protocol.pause_writing()
            await wire.piece(b"x")

        protocol, transport = connected(handler)
        protocol.data_received(ASK % b"GET")
        began_s = loop.time()
        await asyncio.sleep(59)
        before = transport.closed
        await asyncio.sleep(2)
        assert (before, transport.closed) == (False, True)
        protocol.connection_lost(None)  # as a transport does that was aborted
        await turns()
        assert told
        assert loop.time() - began_s < 62
        assert transport.written == [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"]

    run(main())


def test_who_has_left_already_is_told_of_at_once() -> None:
    async def main() -> None:
        told: list[str] = []

        async def handler(scope: Any, _receive: Any, _send: Any) -> None:
            scope["extensions"][WIRE]().on_leave(lambda: told.append("left"))

        protocol, _ = connected(handler)
        protocol.data_received(ASK % b"GET")
        protocol.connection_lost(None)
        await turns()
        assert told == ["left"]

    asyncio.run(main())


@pytest.mark.parametrize("leaves", [False, True], ids=["answered", "left"])
def test_a_request_leaves_nothing_to_the_garbage_collector(leaves: bool) -> None:
    """What is tied in a circle stays until the collector's last generation is looked at: for hours."""

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.Event()
        scope["extensions"][WIRE]().on_leave(gone.set)
        if leaves:
            await gone.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": False})

    async def main() -> list[Cycle]:
        protocol, _ = connected(handler)
        protocol.data_received(ASK % b"GET")
        await turns()
        protocol.connection_lost(None)
        await turns()
        del protocol
        return [one for one in gc.get_objects() if isinstance(one, Cycle)]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main()) == []
    finally:
        gc.enable()


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def handler(_scope: Any, _receive: Any, send: Any) -> None:
            await done.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        protocol, transport = connected(handler)
        protocol.close_if_idle(3600.0)
        assert not transport.closed
        protocol.data_received(ASK % b"GET")
        await turns()
        protocol.close_if_idle(0.0)
        assert not transport.closed
        done.set()
        await turns()
        protocol.close_if_idle(3600.0)
        assert not transport.closed
        protocol.close_if_idle(0.0)
        assert transport.closed

    asyncio.run(main())


def test_who_never_asks_is_closed_too() -> None:
    async def handler(_scope: Any, _receive: Any, _send: Any) -> None: ...

    async def main() -> None:
        protocol, transport = connected(handler)
        protocol.close_if_idle(0.0)
        assert transport.closed

    asyncio.run(main())


def test_a_client_that_does_not_send_its_body_is_let_go() -> None:
    ends: list[str] = []

    async def handler(scope: Any, _receive: Any, _send: Any) -> None:
        try:
            await scope["extensions"][WIRE]().read(1000)
        except ClientGone:
            ends.append("gone")

    async def main() -> Transport:
        protocol, transport = connected(handler)
        protocol.data_received(b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc")
        await asyncio.sleep(59)
        protocol.data_received(b"d")
        await asyncio.sleep(59)
        assert not transport.closed  # each piece counts anew
        await asyncio.sleep(2)
        return transport

    assert run(main()).closed
    assert ends == ["gone"]


@pytest.mark.parametrize("sent", [b"", b"POST /x HTTP/1.1\r\nho"])
def test_a_client_that_does_not_send_its_head_is_let_go(sent: bytes) -> None:
    async def handler(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("never called")

    async def main() -> None:
        protocol, transport = connected(handler)
        await asyncio.sleep(50)
        if sent:
            protocol.data_received(sent)
        await asyncio.sleep(30)
        protocol.close_if_idle(75.0)
        assert transport.closed == (not sent)  # a head that has begun is given its own time
        await asyncio.sleep(50)
        protocol.close_if_idle(75.0)
        assert transport.closed

    run(main())
