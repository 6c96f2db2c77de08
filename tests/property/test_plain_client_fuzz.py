"""Whatever bytes a server sends, in whatever pieces: the same answer, or a ClientError, and never a hang."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.clients.base import ClientError, Outgoing
from backends.clients.plain import PlainClient
from tests.fakes.peer import Peer, peer

DEADLINE_S = 20.0
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"

pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
cuts = st.lists(st.integers(min_value=1, max_value=30), max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes; the rest is the last piece."""
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [piece for piece in (*found, data) if piece]


async def ask(said: list[bytes], close: bool) -> tuple[int, bytes] | None:
    """Get one answer, None for a ClientError; afterwards the client's only connection must still serve."""

    async def behave(one: Peer) -> None:
        if b"after" in one.request:
            await one.say(GOOD)
            return
        await one.say(*said)
        if close:
            one.close()

    async with peer(behave) as url:
        client = PlainClient(sweep_s=0.02, connections=1)
        try:
            found = None
            try:
                reply = await client.send(Outgoing(url, first_byte_s=0.1, idle_s=0.1))
                try:
                    found = reply.status, await reply.read_all(1 << 20)
                finally:
                    reply.close()
            except ClientError:
                pass
            after = await client.send(Outgoing(url, b"after"))
            assert (after.status, await after.read_all(100)) == (200, b"good")
            after.close()
            return found
        finally:
            await client.close()


def outcome(said: list[bytes], close: bool) -> tuple[int, bytes] | None:
    return asyncio.run(asyncio.wait_for(ask(said, close), DEADLINE_S))


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 400, 503]),
    body=pieces,
    sizes=cuts,
    framing=st.sampled_from(["length", "chunked", "end"]),
)
def test_a_good_answer_is_the_same_however_it_is_cut(
    status: int, body: list[bytes], sizes: list[int], framing: str
) -> None:
    whole = b"".join(body)
    head = b"HTTP/1.1 %d X\r\nX-Some: thing\r\n" % status
    if framing == "length":
        said = head + b"content-length: %d\r\n\r\n" % len(whole) + whole
    elif framing == "chunked":
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in body)
        said = head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    else:
        said = head + b"\r\n" + whole
    assert outcome(cut(said, sizes), close=framing == "end") == (status, whole)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(min_size=1, max_size=60), sizes=cuts, lost=st.integers(min_value=1, max_value=60))
def test_an_answer_that_is_cut_short_is_never_taken_for_whole(
    body: bytes, sizes: list[int], lost: int
) -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    assert outcome(cut(said[:-lost], sizes), close=True) is None


@settings(max_examples=80, deadline=None)
@given(
    said=st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([GOOD, GOOD[:20], b"\r\n", b"0\r\n\r\n"])),
        max_size=4,
    )
)
def test_garbage_is_an_error_or_an_answer_but_never_a_hang(said: list[bytes]) -> None:
    found = outcome([piece for piece in said if piece], close=True)
    assert found is None or 200 <= found[0] <= 999


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_one_wrong_byte(place: int) -> None:
    wrong = bytes([GOOD[place] ^ 0x80])
    found = outcome([GOOD[:place] + wrong + GOOD[place + 1 :]], close=True)
    assert found is None or found[0] == 200
