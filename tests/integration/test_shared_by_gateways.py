"""Two gateway processes on one Redis: one upstream call, one recording, and a leader that is killed."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.crowd import content, crowd_over, parsed
from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.gateway import (
    KEY,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_all,
    read_until,
    running,
    unique,
)
from tests.integration.redis_server import RedisServer

CLOSE = "connection: close"


def open_two(directory: Path, stack: ExitStack) -> tuple[Gateway, Gateway, Upstreams]:
    """Two processes on one Redis and one database, one upstream behind them."""
    server = RedisServer(directory)
    stack.callback(server.close)
    upstreams = Upstreams(1)
    found = []
    for name in ("a", "b"):
        (directory / name).mkdir()
        more = f'[redis]\nurl = "{server.url}"\ntimeout_ms = 5000\n[coalescing]\nlease_s = 0.5\n'
        said = config(
            model("m", upstreams.ports, max_concurrency=500), directory=directory / name, more=more
        ).replace(f"{directory / name / 'gateway.db'}", f"{directory / 'shared.db'}")
        gateway = Gateway(directory / name, said)
        stack.enter_context(running(gateway, upstreams))
        until(gateway.ready)
        found.append(gateway)
    return found[0], found[1], upstreams


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Gateway, Upstreams]]:
    with ExitStack() as stack:
        yield open_two(tmp_path_factory.mktemp("two"), stack)


def request(prompt: str, *more: str, **fields: Any) -> bytes:
    return chat_request("m", prompt, CLOSE, *more, **{"temperature": 0, **fields})


def test_two_processes_share_one_call(two: tuple[Gateway, Gateway, Upstreams]) -> None:
    here, there, upstreams = two
    tag = unique()
    prompt = script(tag=tag, n=8, gap_s=0.1)
    asked = [
        (port, request(prompt, stream=stream)) for port in (here.port, there.port) for stream in (True, False)
    ]
    found = crowd_over(asked * 25)
    assert {got.status for got in found} == {200}
    assert len(upstreams.seen(tag)["requests"]) == 1
    assert Counter(got.headers["x-switchgear-cache"] for got in found) == {"bypass": 1, "joined": 99}
    assert len({got.body for got in found if b"data: " in got.body}) == 1
    assert all(b"w7 " in got.body for got in found)


def test_the_last_reader_of_all_aborts_it(two: tuple[Gateway, Gateway, Upstreams]) -> None:
    here, there, upstreams = two
    tag = unique()
    prompt = script(tag=tag, lockstep=True)
    first, other = here.connect(), there.connect()
    first.sendall(request(prompt, stream=True))
    until(lambda: upstreams.states(tag) == ["running"])
    other.sendall(request(prompt, stream=True))
    upstreams.control(release=tag, times=2)
    read_until(first, b"w0 ")
    assert b"x-switchgear-cache: joined" in read_until(other, b"w0 ")
    first.close()
    upstreams.control(release=tag)
    read_until(other, b"w1 ")
    assert upstreams.states(tag) == ["running"], "for the reader of the other process"
    other.close()
    until(lambda: upstreams.states(tag) == ["aborted"])


def test_an_idempotency_key_and_a_stream_are_known_to_both(two: tuple[Gateway, Gateway, Upstreams]) -> None:
    here, there, upstreams = two
    tag, key = unique(), unique()
    prompt = script(tag=tag, lockstep=True)
    asked = request(
        prompt, f"idempotency-key: {key}", "x-switchgear-resumable: 1", stream=True, temperature=1
    )
    first, second = here.connect(), there.connect()
    first.sendall(asked)
    upstreams.control(release=tag, times=2)
    begun = read_until(first, b"w0 ")
    second.sendall(asked)
    joined = read_until(second, b"w0 ")
    assert b"x-switchgear-replayed: true" in joined
    stream_id = begun.partition(b"x-switchgear-stream-id: ")[2].partition(b"\r\n")[0].decode()
    lines = [f"GET /v1/streams/{stream_id} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", CLOSE]
    third = there.connect()
    third.sendall("\r\n".join([*lines, "last-event-id: 4", "", ""]).encode())
    upstreams.control(release=tag, times=20)
    whole = [begun + read_all(first), joined + read_all(second)]
    assert parsed(whole[0]).body == parsed(whole[1]).body
    rest = parsed(read_all(third)).body
    assert rest.startswith(b"id: 5\n")
    assert parsed(whole[0]).body.endswith(rest)
    assert len(upstreams.seen(tag)["requests"]) == 1
    for one in (first, second, third):
        one.close()


def test_a_killed_gateways_stream_is_read_at_another_as_far_as_it_was_recorded(
    two: tuple[Gateway, Gateway, Upstreams],
) -> None:
    """What was recorded comes, each event once; then an error says why it is no more, never an end."""
    dying, living, upstreams = two
    tag, key = unique(), unique()
    asked = request(
        script(tag=tag, n=6, lockstep=True),
        f"idempotency-key: {key}",
        "x-switchgear-resumable: 1",
        stream=True,
    )
    first = dying.connect()
    first.sendall(asked)
    upstreams.control(release=tag, times=3)
    begun = read_until(first, b"w1 ")
    stream_id = begun.partition(b"x-switchgear-stream-id: ")[2].partition(b"\r\n")[0].decode()
    lines = [f"GET /v1/streams/{stream_id} HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", CLOSE]
    watching = living.connect()
    watching.sendall("\r\n".join([*lines, "last-event-id: 3", "", ""]).encode())
    seen = read_until(watching, b"w1 ")
    dying.stop(signal.SIGKILL)
    back = living.connect()
    back.sendall("\r\n".join([*lines, "last-event-id: 3", "", ""]).encode())
    for rest in (parsed(seen + read_all(watching)), parsed(read_all(back))):
        assert rest.body.startswith(b"id: 4\n")
        assert rest.body.count(b"w1 ") == 1
        assert b"The gateway process that recorded the answer is gone." in rest.body
        assert b"[DONE]" not in rest.body
    for one in (first, watching, back):
        one.close()
    dying.start()
    until(dying.ready)


def test_a_killed_leaders_joiners_notice_and_one_takes_over(two: tuple[Gateway, Gateway, Upstreams]) -> None:
    """Streams that have begun go on behind what was delivered; buffered ones wait a little longer."""
    dying, living, upstreams = two
    tag = unique()
    prompt = script(tag=tag, n=6, lockstep=True)
    first = dying.connect()
    first.sendall(request(prompt, stream=True))
    until(lambda: upstreams.states(tag) == ["running"])
    joined = [living.connect() for _ in range(4)]
    for number, one in enumerate(joined):
        one.sendall(request(prompt, stream=number % 2 == 0))
    upstreams.control(release=tag, times=3)
    begun = [read_until(one, b"w1 ") for one in joined[::2]]
    until(lambda: living.metric("switchgear_shared_readers") == 4)
    dying.stop(signal.SIGKILL)
    until(lambda: upstreams.states(tag) == ["aborted", "running"])
    upstreams.control(release=tag, times=20)
    streams = [parsed(one + read_all(socket)) for one, socket in zip(begun, joined[::2], strict=True)]
    for got in streams:
        assert content(got) == text(6), "each word once"
        assert got.body.endswith(b"data: [DONE]\n\n")
    for socket in joined[1::2]:
        assert text(6).encode() in read_all(socket)
    assert upstreams.states(tag) == ["aborted", "done"]
    for socket in (first, *joined):
        socket.close()
    dying.start()
