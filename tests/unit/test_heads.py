"""Requests whose head came before go past the parser, and nobody can tell."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.exchange import WIRE
from gateway.heads import MOST_BYTES, MOST_HEADS, Head, Heads
from tests.unit.test_wire import Transport, connected, turns

Seen = tuple[dict[str, Any], bytes]


def post(body: bytes, path: bytes = b"/v1/x?a=1", more: bytes = b"Authorization: Bearer k\r\n") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (path, more, len(body), body)


async def talk(*pieces: bytes) -> tuple[list[Seen], Transport]:
    """Give what a handler sees of what comes over one connection, piece by piece."""
    seen: list[Seen] = []

    async def handler(scope: Any, _receive: Any, _send: Any) -> None:
        wire = scope["extensions"][WIRE]()
        body = await wire.read(1000)
        told = {name: value for name, value in scope.items() if name != "extensions"}
        seen.append((told, body))
        await wire.answer(200, b"", b"%d" % len(body))

    protocol, transport = connected(handler)
    for piece in pieces:
        protocol.data_received(piece)
        await turns()
    return seen, transport


def test_the_third_time_the_handler_sees_what_it_saw_the_first_time() -> None:
    one = post(b"abc", b"/first%20time?b=2")
    seen, transport = asyncio.run(talk(one, one, one, one))
    assert len(seen) == 4
    assert all(told == seen[0] for told in seen)
    assert seen[0][0]["path"] == "/first time"
    assert seen[0][1] == b"abc"
    assert b"".join(transport.written).count(b"content-length: 1\r\n\r\n3") == 4


def test_a_handler_that_speaks_asgi_gets_the_body_too() -> None:
    async def main() -> list[Any]:
        seen: list[Any] = []

        async def handler(_scope: Any, receive: Any, send: Any) -> None:
            seen.append(await receive())
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        protocol, _ = connected(handler)
        for _ in range(3):
            protocol.data_received(post(b"abc", b"/asgi"))
            await turns()
        return seen

    assert asyncio.run(main()) == [{"type": "http.request", "body": b"abc", "more_body": False}] * 3


def test_a_handler_cannot_change_what_the_next_one_sees() -> None:
    one = post(b"abc", b"/changed")
    first, _ = asyncio.run(talk(one, one, one))
    first[2][0]["headers"].append((b"x", b"y"))
    again, _ = asyncio.run(talk(one))
    assert (b"x", b"y") not in again[0][0]["headers"]


@pytest.mark.parametrize(
    "last",
    [
        [post(b"abc", b"/odd") + post(b"abcd", b"/odd")],
        [post(b"abc", b"/odd") + b"\r\n"],
        [post(b"abc", b"/odd")[:-2], b"bc"],
        [post(b"abc", b"/odd")[:20], post(b"abc", b"/odd")[20:]],
        [post(b"abc", b"/odd") + post(b"abc", b"/odd")[:30], post(b"abc", b"/odd")[30:]],
    ],
    ids=["two at once", "an end too many", "a body in two", "a head in two", "one and a half"],
)
def test_what_is_not_just_one_message_goes_through_the_parser(last: list[bytes]) -> None:
    one = post(b"abc", b"/odd")
    seen, transport = asyncio.run(talk(one, one, one, *last, one))
    expected = 4 + b"".join(last).count(b"POST")
    assert [body for _, body in seen[:4]] == [b"abc"] * 4
    assert len(seen) == expected
    assert not transport.closed


def test_after_a_request_that_was_answered_unread_the_rest_of_it_is_no_request() -> None:
    one = post(b"abc", b"/known")
    long = post(b"x" * 2000, b"/long")

    async def main() -> tuple[list[bytes], Transport]:
        paths: list[bytes] = []

        async def handler(scope: Any, _receive: Any, _send: Any) -> None:
            paths.append(scope["raw_path"])
            await scope["extensions"][WIRE]().answer(413, b"", b"")

        protocol, transport = connected(handler)
        # What follows is a known message, byte by byte, and yet the middle of a body.
        for piece in (one, one, one, long[: len(long) - 2000], one, b"x" * (2000 - len(one)), one):
            protocol.data_received(piece)
            await turns()
        return paths, transport

    paths, _ = asyncio.run(main())
    assert paths == [b"/known"] * 3 + [b"/long", b"/known"]


@pytest.mark.parametrize(
    "more",
    [b"Expect: 100-continue\r\n", b"Connection: close\r\n",
     b"Upgrade: h2c\r\n", b"x: %b\r\n" % (b"y" * MOST_BYTES)],
    ids=["expect", "close", "upgrade", "long"],
)  # fmt: skip
def test_what_is_not_plain_is_never_kept(more: bytes) -> None:
    heads, data = Heads(), post(b"abc", more=more)
    for _ in range(3):
        named = [line.split(b": ", 1) for line in data.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        heads.keep(data, Head("/", b"/", b"", tuple((name.lower(), value) for name, value in named), {}, 3))
    assert heads.find(data) is None


def test_only_what_comes_a_second_time_comes_again() -> None:
    heads = Heads()
    assert [heads.again(post(b"abc")), heads.again(post(b"xyz")), heads.again(post(b"abc", b"/else"))] == [
        False,
        True,
        False,
    ]
    long = post(b"abc", more=b"x: %b\r\n" % (b"y" * MOST_BYTES))
    assert not any(heads.again(long) for _ in range(3))


def test_there_are_never_more_than_so_many() -> None:
    heads = Heads()
    for number in range(2 * MOST_HEADS + 1):
        data = post(b"abc", b"/%d" % number)
        for _ in range(2):
            heads.keep(data, Head("/", b"/", b"", ((b"content-length", b"3"),), {}, 3))
        assert heads.find(data) is not None
    assert sum(heads.find(post(b"abc", b"/%d" % number)) is not None for number in range(1200)) <= MOST_HEADS


messages = st.builds(
    post,
    st.binary(max_size=6),
    st.sampled_from([b"/a", b"/b?c", b"/a%20b"]),
    st.sampled_from([b"", b"X: 1\r\n", b"Connection: keep-alive\r\n", b"Content-Type: a\r\n"]),
)


@given(st.lists(messages, min_size=1, max_size=8), st.lists(st.integers(1, 60), max_size=30))
@settings(max_examples=150, deadline=None)
def test_however_it_is_cut_the_same_requests_come(sent: list[bytes], cuts: list[int]) -> None:
    data, pieces = b"".join(sent), []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    whole, _ = asyncio.run(talk(*sent, *sent, *sent))
    cut, _ = asyncio.run(talk(*[piece for piece in pieces if piece], *([data] if data else [])))
    assert whole[: len(sent)] == whole[len(sent) : 2 * len(sent)] == whole[2 * len(sent) :] == cut
