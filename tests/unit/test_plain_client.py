"""The plain HTTP client against a server that misbehaves on purpose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import pytest
import uvloop

from backends.clients import connection
from backends.clients.base import (
    ClientError,
    ConnectFailed,
    ConnectionBroken,
    Outgoing,
    ReplyTimeout,
    ReplyTooLarge,
)
from backends.clients.connection import Origin
from backends.clients.plain import PlainClient
from tests.fakes.peer import Peer, peer
from tests.fakes.processes import until_async

DEADLINE_S = 20.0
SWEEP_S = 0.02
Behaviour = Callable[[Peer], Awaitable[None]]


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


@contextlib.asynccontextmanager
async def house(behave: Behaviour, connections: int = 1) -> AsyncIterator[tuple[PlainClient, str]]:
    """Give a client with one connection by default, so that one that is not given back shows at once."""
    async with peer(behave) as url:
        client = PlainClient(sweep_s=SWEEP_S, connections=connections)
        try:
            yield client, url
        finally:
            await client.close()


async def fetch(client: PlainClient, request: Outgoing, limit_bytes: int = 1 << 30) -> tuple[int, bytes]:
    reply = await client.send(request)
    try:
        return reply.status, await reply.read_all(limit_bytes)
    finally:
        reply.close()


async def quick(one: Peer) -> None:
    await one.answer(b"from %d" % one.connection)


def test_a_connection_is_used_again() -> None:
    async def main() -> None:
        async with house(quick) as (client, url):
            assert [await fetch(client, Outgoing(url)) for _ in range(3)] == [(200, b"from 0")] * 3

    run(main())


def test_a_reply_tells_its_end_once_it_was_read() -> None:
    said = asyncio.Event()

    async def in_two(one: Peer) -> None:
        await one.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await said.wait()
        await one.say(b"b")

    async def main() -> None:
        async with house(in_two) as (client, url):
            reply = await client.send(Outgoing(url))
            found = [(reply.ended, await reply.read(), reply.ended)]
            said.set()
            found.append((reply.ended, await reply.read(), reply.ended))
            assert found == [(False, b"a", False), (False, b"b", True)]
            assert await reply.read() == b""
            reply.close()

    run(main())


def test_what_is_sent() -> None:
    got: list[bytes] = []

    async def note(one: Peer) -> None:
        got.append(one.request)
        await one.answer()

    async def main() -> None:
        async with house(note) as (client, url):
            await fetch(client, Outgoing(url + "?q=1", b"{}", [(b"x-a", b"1")]))

    run(main())
    head, _, body = got[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"POST /x?q=1 HTTP/1.1", b"{}")
    assert {b"x-a: 1", b"content-length: 2", b"content-type: application/json"} < set(lines)


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_connection_that_died_while_idle_is_replaced(way: str) -> None:
    """Closed behind an answer, or upon the next request: nobody notices; but only once."""
    requests: list[int] = []

    async def behave(one: Peer) -> None:
        requests.append(one.connection)
        if len(requests) == 2 and one.connection == 0:
            one.close() if way == "close" else one.reset()
        else:
            await quick(one)

    async def main() -> None:
        async with house(behave) as (client, url):
            assert await fetch(client, Outgoing(url)) == (200, b"from 0")
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")
            assert requests == [0, 0, 1]

    run(main())


def test_a_connection_that_goes_before_the_request_is_written_is_replaced() -> None:
    async def main() -> None:
        said: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        async with house(quick) as (client, url):
            reply = await client.send(Outgoing(url))
            await reply.read_all(100)
            reply.close()
            again = asyncio.create_task(client.send(Outgoing(url)))
            transport = reply._connection.transport
            assert transport is not None
            transport.abort()  # it takes the connection in this turn, and would write in the next one
            second = await again
            assert await second.read_all(100) == b"from 1"
            second.close()
        assert said == []

    uvloop.run(asyncio.wait_for(main(), DEADLINE_S))


def test_a_request_that_kills_connections_is_not_sent_to_all_of_them() -> None:
    seen: list[int] = []
    gate = asyncio.Event()

    async def behave(one: Peer) -> None:
        if b"poison" in one.request:
            seen.append(one.connection)
            one.close()
            return
        await gate.wait()
        await one.answer()

    async def main() -> None:
        async with house(behave, connections=8) as (client, url):
            warm = [asyncio.create_task(fetch(client, Outgoing(url))) for _ in range(5)]
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(*warm)
            with pytest.raises(ConnectionBroken):
                await fetch(client, Outgoing(url, b"poison"))
            assert len(seen) == 2

    run(main())


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", ConnectionBroken),
        (b"HTTP/1.1 200", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\ncontent-length: ten\r\n\r\n", ConnectionBroken),
        (b"nonsense\r\n\r\n", ConnectionBroken),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionBroken),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ConnectionBroken),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * connection.HEADERS_LIMIT_BYTES + b"\r\n\r\n", ReplyTooLarge),
    ],
)
def test_a_bad_answer_is_an_error_and_costs_no_permit(said: bytes, error: type[ClientError]) -> None:
    async def behave(one: Peer) -> None:
        if one.connection == 0:
            await one.say(said)
            one.close()
        else:
            await quick(one)

    async def main() -> None:
        async with house(behave) as (client, url):
            with pytest.raises(error):
                await fetch(client, Outgoing(url))
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")

    run(main())


def test_a_head_without_end_is_cut_off() -> None:
    async def behave(one: Peer) -> None:
        with contextlib.suppress(OSError):
            await one.say(b"HTTP/1.1 200 OK\r\n")
            while True:
                await one.say(b"x" * 8192)

    async def main() -> None:
        async with house(behave) as (client, url):
            with pytest.raises(ReplyTooLarge):
                await fetch(client, Outgoing(url))

    run(main())


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nup to the end", b"up to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more", b"ok"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nbad",
            b"ok",
        ),
    ],
)
def test_a_connection_that_cannot_go_on_is_not_used_again(said: bytes, body: bytes) -> None:
    async def behave(one: Peer) -> None:
        if one.connection:
            await quick(one)
            return
        await one.say(said)
        if b"close" in said or b"content-length" not in said:
            one.close()

    async def main() -> None:
        async with house(behave) as (client, url):
            assert await fetch(client, Outgoing(url)) == (200, body)
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")

    run(main())


def test_interim_answers_are_passed_over() -> None:
    async def behave(one: Peer) -> None:
        await one.say(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        await quick(one)

    async def main() -> None:
        async with house(behave) as (client, url):
            for _ in range(2):
                reply = await client.send(Outgoing(url))
                assert (reply.status, "link" in reply.headers) == (200, False)
                assert await reply.read_all(100) == b"from 0"
                reply.close()

    run(main())


def test_what_comes_unasked_belongs_to_no_request() -> None:
    """Half an answer comes while the connection lies idle: the next request must not get its body."""
    unasked = asyncio.Event()

    async def behave(one: Peer) -> None:
        await quick(one)
        if one.connection == 0:
            await one.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfor")
            unasked.set()
            await one.left()

    async def main() -> None:
        async with house(behave) as (client, url):
            assert await fetch(client, Outgoing(url)) == (200, b"from 0")
            await unasked.wait()
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")

    run(main())


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        (b"", {"first_byte_s": 0.05}),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", {"first_byte_s": 0.05}),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", {"idle_s": 0.05}),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", {"deadline_s": 0.05}),
        (b"", {"deadline_s": 0.05}),
    ],
)
def test_silence_has_a_limit(said: bytes, wish: dict[str, float]) -> None:
    left = asyncio.Event()

    async def behave(one: Peer) -> None:
        if one.connection:
            await quick(one)
            return
        await one.say(said)
        await one.left()
        left.set()

    async def main() -> None:
        async with house(behave) as (client, url):
            request = msgspec.structs.replace(Outgoing(url), **wish)
            if "deadline_s" in wish:
                now_s = asyncio.get_running_loop().time()
                request = msgspec.structs.replace(request, deadline_s=now_s + wish["deadline_s"])
            with pytest.raises(ReplyTimeout):
                await fetch(client, request)
            await left.wait()
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")

    run(main())


def test_the_first_byte_may_take_longer_than_a_pause_within() -> None:
    """A server that sends its head at once and then computes is not silent within the answer."""
    later = asyncio.Event()

    async def behave(one: Peer) -> None:
        await one.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await later.wait()
        await one.say(b"ok")

    async def main() -> None:
        async with house(behave) as (client, url):
            reply = await client.send(Outgoing(url, idle_s=0.001))
            asyncio.get_running_loop().call_later(SWEEP_S * 10, later.set)
            assert await reply.read() == b"ok"
            reply.close()

    run(main())


def test_a_closed_port_is_a_failed_connection() -> None:
    async def main() -> None:
        async with peer(quick) as url:
            pass
        client = PlainClient(sweep_s=SWEEP_S, connections=1)
        for _ in range(2):
            with pytest.raises(ConnectFailed):
                await client.send(Outgoing(url))
        with pytest.raises(ConnectFailed):
            await client.send(Outgoing("https://127.0.0.1/x"))
        await client.close()

    run(main())


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
def test_cancelling_aborts_and_frees(said: bytes) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    async def behave(one: Peer) -> None:
        if one.connection:
            await quick(one)
            return
        await one.say(said)
        came.set()
        await one.left()
        left.set()

    async def main() -> None:
        async with house(behave) as (client, url):
            task = asyncio.create_task(fetch(client, Outgoing(url)))
            await came.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await left.wait()
            assert await fetch(client, Outgoing(url)) == (200, b"from 1")

    run(main())


def test_no_more_connections_than_allowed() -> None:
    inside = most = 0
    gate = asyncio.Event()

    async def behave(one: Peer) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await gate.wait()
        inside -= 1
        await one.answer()

    async def main() -> None:
        async with house(behave, connections=3) as (client, url):
            tasks = [asyncio.create_task(fetch(client, Outgoing(url))) for _ in range(12)]
            waiting = tasks.pop()
            await until_async(lambda: inside == 3)
            waiting.cancel()
            gate.set()
            assert await asyncio.gather(*tasks) == [(200, b"ok")] * 11

    run(main())
    assert most == 3


@pytest.mark.parametrize("returned_first", [True, False])
def test_a_permit_outlives_a_waiter_that_is_cancelled(returned_first: bool) -> None:
    """The waiter's cancellation and the permit's return cross in one turn of the loop, in either order."""

    async def main() -> None:
        origin = Origin("127.0.0.1", 1, 0)
        leaving, staying = (asyncio.create_task(origin.permit()) for _ in range(2))
        await asyncio.sleep(0)
        for step in (
            (origin.give_back, leaving.cancel) if returned_first else (leaving.cancel, origin.give_back)
        ):
            step()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await staying
        assert (origin.free, len(origin.waiting)) == (0, 0)
        origin.give_back()
        assert origin.free == 1

    asyncio.run(main())


def test_a_reader_that_lags_holds_up_the_server() -> None:
    size, sent, end = 64 * 1024, 0, asyncio.Event()

    async def behave(one: Peer) -> None:
        nonlocal sent
        await one.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1024 * size))
        for _ in range(1024):
            await one.say(b"x" * size)
            sent += 1
        end.set()

    async def main() -> None:
        async with house(behave) as (client, url):
            reply = await client.send(Outgoing(url, idle_s=SWEEP_S * 4, first_byte_s=5.0))
            before = -1
            while sent != before:  # until the server stands still
                before = sent
                await asyncio.sleep(SWEEP_S * 5)
            assert sent < 512
            total = 0
            while data := await reply.read():
                total += len(data)
            reply.close()
            assert total == 1024 * size
            await end.wait()

    # A pause of the reader is no silence of the server, however short the limit.
    run(main())


EVENT = b"data: {%d}\n\n"


async def tell(one: Peer) -> None:
    await one.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(300):
        event = EVENT % number
        await one.say(b"%x\r\n%b\r\n" % (len(event), event))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await one.say(b"0\r\n\r\n")


@pytest.mark.parametrize("refused", [0, 1, 3])
def test_what_a_taker_leaves_is_read_in_order(refused: int) -> None:
    """All that was taken and all that was read, in turn, is the body; its end wakes the reader."""
    told = b"".join(EVENT % number for number in range(300))

    async def main() -> None:
        async with house(tell) as (client, url):
            reply = await client.send(Outgoing(url, events=True))
            found, offers = [await reply.read()], 0

            def take(data: bytes) -> bool:
                nonlocal offers
                offers += 1
                if refused and offers % refused == 0:
                    return False
                found.append(data)
                return True

            reply.offer(take)
            while data := await reply.read():
                found.append(data)
            reply.close()
            assert b"".join(found) == told
            assert offers
            _, again = await fetch(
                client, Outgoing(url)
            )  # over the same connection, and nobody takes any more
            assert (again, b"".join(found)) == (told, told)

    run(main())


def test_what_a_taker_raises_the_reader_raises() -> None:
    async def main() -> None:
        async with house(tell) as (client, url):
            reply = await client.send(Outgoing(url, events=True))

            def take(data: bytes) -> bool:
                raise KeyError(data[:1])

            reply.offer(take)
            with pytest.raises(KeyError):
                await reply.read_all(1 << 20)
            reply.close()
            assert await fetch(client, Outgoing(url)) == (
                200,
                b"".join(EVENT % number for number in range(300)),
            )

    run(main())


def test_a_body_over_the_limit_is_refused() -> None:
    async def behave(one: Peer) -> None:
        await one.answer(b"x" * 1000) if one.connection == 0 else await quick(one)

    async def main() -> None:
        async with house(behave) as (client, url):
            with pytest.raises(ReplyTooLarge):
                await fetch(client, Outgoing(url), limit_bytes=999)
        async with house(behave) as (client, url):
            assert (await fetch(client, Outgoing(url), limit_bytes=1000))[0] == 200

    run(main())


def test_closing_the_client_ends_what_runs() -> None:
    came = asyncio.Event()

    async def behave(one: Peer) -> None:
        came.set()
        await one.left()

    async def main() -> None:
        async with house(behave) as (client, url):
            task = asyncio.create_task(fetch(client, Outgoing(url)))
            await came.wait()
            await client.close()
            with pytest.raises(ConnectionBroken):
                await task

    run(main())
