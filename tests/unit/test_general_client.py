"""The general HTTP client against a server that misbehaves on purpose: the same errors as the plain one's."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from backends.clients.base import (
    ClientError,
    ConnectFailed,
    ConnectionBroken,
    Outgoing,
    ReplyTimeout,
    ReplyTooLarge,
    Withdrawn,
)
from backends.clients.general import GeneralClient
from tests.fakes.peer import Peer, peer

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def house(behave: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[tuple[GeneralClient, str]]:
    async with peer(behave) as url:
        client = GeneralClient()
        try:
            yield client, url
        finally:
            await client.close()


async def fetched(client: GeneralClient, request: Outgoing) -> bytes:
    reply = await client.send(request)
    try:
        return await reply.read_all(4)
    finally:
        reply.close()


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20.0))


def test_a_body_comes_in_its_pieces_and_tells_its_end() -> None:
    said = asyncio.Event()

    async def in_two(one: Peer) -> None:
        await one.say(CHUNKED + b"1\r\na\r\n")
        await said.wait()
        await one.say(b"1\r\nb\r\n0\r\n\r\n")

    async def main() -> None:
        async with house(in_two) as (client, url):
            reply = await client.send(Outgoing(url, b"{}", [(b"authorization", b"Bearer one")]))
            found = [(reply.status, reply.ended, await reply.read(), reply.ended)]
            said.set()
            found.append((reply.status, reply.ended, await reply.read(), reply.ended))
            assert found == [(200, False, b"a", False), (200, False, b"b", True)]
            assert await reply.read() == b""
            reply.close()

    run(main())


@pytest.mark.parametrize(
    ("said", "wish", "error"),
    [
        (b"", {"first_byte_s": 0.05}, ReplyTimeout),
        (CHUNKED + b"1\r\na\r\n", {"idle_s": 0.05}, ReplyTimeout),
        (CHUNKED + b": alive\n\n", {}, ConnectionBroken),
        (CHUNKED + b"5\r\naaaaa\r\n0\r\n\r\n", {}, ReplyTooLarge),
        (b"no HTTP\r\n\r\n", {}, ConnectionBroken),
    ],
)
def test_what_goes_wrong_is_an_error_of_the_house(
    said: bytes, wish: dict[str, Any], error: type[ClientError]
) -> None:
    async def misbehave(one: Peer) -> None:
        if said:
            await one.say(said)
        await one.left()

    async def main() -> None:
        async with house(misbehave) as (client, url):
            request = Outgoing(url, **wish)
            with pytest.raises(error):
                await fetched(client, request)

    run(main())


def test_comments_are_silence_and_who_waits_for_a_withdrawn_answer_is_told() -> None:
    async def comment(one: Peer) -> None:
        await one.say(CHUNKED + b"c\r\n: still on\n\n\r\n")
        await one.left()

    async def main() -> None:
        async with house(comment) as (client, url):
            reply = await client.send(Outgoing(url, idle_s=0.05, first_byte_s=0.05, events=True))
            with pytest.raises(ReplyTimeout):
                await reply.read_all(1000)
            reply.close()
            reply = await client.send(Outgoing(url))
            assert await reply.read() == b": still on\n\n"
            client.withdraw("http://127.0.0.1:9/v1")
            waits = asyncio.create_task(reply.read())
            await asyncio.sleep(0)
            assert not waits.done()
            client.withdraw(url)
            with pytest.raises(Withdrawn):
                await waits
            reply.close()

    run(main())


def test_a_closed_port_is_a_failed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def main() -> None:
        client = GeneralClient()
        with pytest.raises(ConnectFailed):
            await client.send(Outgoing(f"http://127.0.0.1:{port}/v1"))
        await client.close()

    run(main())
