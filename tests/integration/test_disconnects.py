"""A client that leaves, at any point of the way: the upstream stops, the slot is free, the bill is right."""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import PROMPT_TOKENS, script
from tests.integration.gateway import (
    KEY,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)

RESET = struct.pack("ii", 1, 0)
HOLD = {"lockstep": True}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("disconnects")
    upstreams = Upstreams(3)
    models = model("tight", upstreams.ports[:1], max_concurrency=1)
    models += model("pair", upstreams.ports[1:], max_concurrency=1)
    models += model("vectors", upstreams.ports[:1], kind="embedding", max_concurrency=1)
    with running(Gateway(directory, config(models, directory=directory)), upstreams) as house:
        until(house[0].ready)
        yield house
    assert "draining:" not in house[0].logged(), "an exchange outlived its client"


@pytest.fixture(autouse=True)
def nothing_is_left(house: tuple[Gateway, Upstreams]) -> Iterator[None]:
    """After each test: nothing runs anywhere, and the next request is served."""
    gateway, upstreams = house
    yield
    until(lambda: upstreams.seen()["running"] == 0)
    until(gateway.idle)
    assert gateway.chat("tight", script("ok"))[0] == 200


def settled(gateway: Gateway, before: int) -> dict[str, object]:
    """Wait for the one row that came on top of the earlier ones."""
    until(lambda: len(gateway.rows()) > before)
    rows = gateway.rows()
    assert len(rows) == before + 1
    return rows[-1]


def settled_rows(gateway: Gateway) -> int:
    """Wait until every answered request is in the ledger; gives the number of rows."""
    until(lambda: len(gateway.rows()) == gateway.metric("switchgear_requests_total"))
    return len(gateway.rows())


@pytest.mark.parametrize("stream", [True, False])
def test_while_queued(house: tuple[Gateway, Upstreams], stream: bool) -> None:
    gateway, upstreams = house
    before = settled_rows(gateway)
    first, second = unique(), unique()
    with gateway.connect() as holder:
        holder.sendall(chat_request("tight", script("ok", tag=first, **HOLD)))
        until(lambda: upstreams.states(first) == ["running"])
        with gateway.connect() as leaver:
            leaver.sendall(chat_request("tight", script("ok", tag=second), stream=stream))
            until(lambda: gateway.metric("switchgear_queue_depth", model="tight") == 1)
        until(lambda: gateway.metric("switchgear_queue_depth", model="tight") == 0)
        row = settled(gateway, before)
        assert (row["status"], row["attempts"], row["amount_nanousd"]) == ("cancelled", 0, 0)
        upstreams.control(release=first)
        assert b'"total_tokens"' in read_until(holder, b'"total_tokens"')
    assert upstreams.seen(second)["requests"] == []


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "text streamed": ("completions", {"model": "tight", "prompt": "SCRIPT", "stream": True}),
    "text": ("completions", {"model": "tight", "prompt": "SCRIPT"}),
    "embeddings": ("embeddings", {"model": "vectors", "input": "SCRIPT"}),
}


def asking(name: str, fault: str, tag: str) -> bytes:
    path, fields = ASKED[name]
    body = json.dumps({k: script(fault, tag=tag) if v == "SCRIPT" else v for k, v in fields.items()}).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("name", ASKED)
def test_every_endpoint_hangs_up_for_a_client_that_left(house: tuple[Gateway, Upstreams], name: str) -> None:
    """One that is served, and one that waits behind it."""
    gateway, upstreams = house
    before, tag, queued = settled_rows(gateway), unique(), unique()
    wanted = ASKED[name][1]["model"]
    with gateway.connect() as leaver:
        leaver.sendall(asking(name, "hang", tag))
        until(lambda: upstreams.states(tag) == ["running"])
        with gateway.connect() as waiter:
            waiter.sendall(asking(name, "ok", queued))
            until(lambda: gateway.metric("switchgear_queue_depth", model=wanted) == 1)
        until(lambda: gateway.metric("switchgear_queue_depth", model=wanted) == 0)
        assert upstreams.states(tag) == ["running"]
    until(lambda: upstreams.states(tag) == ["aborted"])
    until(lambda: len(gateway.rows()) == before + 2)
    rows = [(row["status"], row["attempts"], row["amount_nanousd"]) for row in gateway.rows()[before:]]
    assert sorted(rows) == [("cancelled", 0, 0), ("cancelled", 1, 0)]
    assert upstreams.seen(queued)["requests"] == []


@pytest.mark.parametrize("fault", ["hang", "hang-head", "stall:0"])
@pytest.mark.parametrize("stream", [True, False])
def test_before_the_first_byte(house: tuple[Gateway, Upstreams], fault: str, stream: bool) -> None:
    gateway, upstreams = house
    before = settled_rows(gateway)
    tag = unique()
    with gateway.connect() as leaver:
        leaver.sendall(chat_request("tight", script(fault, tag=tag), stream=stream))
        until(lambda: upstreams.states(tag) == ["running"])
    until(lambda: upstreams.states(tag) == ["aborted"])
    row = settled(gateway, before)
    assert (row["status"], row["attempts"], row["amount_nanousd"]) == ("cancelled", 1, 0)


def test_within_a_retry(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    before = settled_rows(gateway)
    tag = unique()
    with gateway.connect() as leaver:
        leaver.sendall(chat_request("pair", script("500", "hang", tag=tag), stream=True))
        until(lambda: upstreams.states(tag) == ["done", "running"])
    until(lambda: upstreams.states(tag) == ["done", "aborted"])
    row = settled(gateway, before)
    assert (row["status"], row["attempts"], row["amount_nanousd"]) == ("cancelled", 2, 0)


@pytest.mark.parametrize("reset", [True, False])
def test_in_mid_stream(house: tuple[Gateway, Upstreams], reset: bool) -> None:
    """What was delivered is paid: neither nothing nor the whole reservation."""
    gateway, upstreams = house
    before = settled_rows(gateway)
    tag = unique()
    with gateway.connect() as leaver:
        leaver.sendall(chat_request("tight", script("ok", tag=tag, **HOLD), stream=True))
        upstreams.control(release=tag, times=2)
        read_until(leaver, b'"w0 ')
        upstreams.control(release=tag)  # apart from the first, so that it goes out in the moment it comes
        read_until(leaver, b'"w1 ')
        if reset:
            leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    until(lambda: upstreams.states(tag) == ["aborted"])
    row = settled(gateway, before)
    tokens = (row["prompt_tokens"], row["completion_tokens"])
    assert (row["status"], tokens) == ("cancelled", (PROMPT_TOKENS, 2))
    assert row["amount_nanousd"] == PROMPT_TOKENS * 1000 + 2 * 2000


def test_upon_done_is_no_abort(house: tuple[Gateway, Upstreams]) -> None:
    """As openai-python does: it closes as soon as it has read ``[DONE]``."""
    gateway, _ = house
    before = settled_rows(gateway)
    for _ in range(30):
        with gateway.connect() as connection:
            connection.sendall(chat_request("tight", script("ok"), stream=True))
            read_until(connection, b"[DONE]\n\n")
    until(lambda: len(gateway.rows()) == before + 30)
    assert {row["status"] for row in gateway.rows()[before:]} == {"ok"}


@pytest.mark.parametrize("stream", [True, False])
def test_while_a_write_is_blocked(house: tuple[Gateway, Upstreams], stream: bool) -> None:
    """A client that reads nothing holds up its own upstream: the gateway keeps no answer in memory."""
    gateway, upstreams = house
    before = settled_rows(gateway)
    tag = unique()
    size = 10_000
    n = 8_000 if stream else 3_000
    with gateway.connect(receive_bytes=4096) as leaver:
        leaver.sendall(chat_request("tight", script("ok", tag=tag, n=n, size=size), stream=stream))
        if stream:
            wait_until_it_stands_still(upstreams, tag, limit_bytes=n * size // 2)
            assert upstreams.states(tag) == ["running"]
        else:
            until(lambda: upstreams.states(tag) == ["done"])
    until(lambda: upstreams.states(tag) != ["running"])
    row = settled(gateway, before)
    delivered = row["completion_tokens"]
    assert isinstance(delivered, int)
    if stream:
        assert row["status"] == "cancelled"
        assert 0 < delivered <= n // 2
    else:
        assert (row["status"], delivered) in [("cancelled", 0), ("cancelled", n), ("ok", n)]


def wait_until_it_stands_still(upstreams: Upstreams, tag: str, limit_bytes: int) -> None:
    """Wait until an upstream's stream is held up, by back-pressure all the way; it may not get far."""
    readings: list[int] = []

    def still() -> bool:
        (seen,) = upstreams.seen(tag)["requests"] or ({"sent_bytes": 0},)
        readings.append(seen["sent_bytes"])
        assert readings[-1] < limit_bytes, "the gateway takes what nobody reads"
        return len(readings) > 50 and readings[-1] == readings[-50] > 0

    until(still)


def test_with_another_request_behind_on_the_same_connection(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    with gateway.connect() as leaver:
        leaver.sendall(chat_request("tight", script("ok", tag=tag, **HOLD), stream=True))
        upstreams.control(release=tag, times=2)
        read_until(leaver, b'"w0 ')
        leaver.sendall(chat_request("tight", script("ok")))
        until(lambda: gateway.call("GET", "/livez")[0] == 200)
    until(lambda: upstreams.states(tag) == ["aborted"], deadline_s=10.0)


def test_many_leave_at_once(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    before = settled_rows(gateway)
    tags = [unique() for _ in range(40)]
    open_ = [gateway.connect() for _ in tags]
    for number, (connection, tag) in enumerate(zip(open_, tags, strict=True)):
        prompt = script("ok", tag=tag, **HOLD)
        connection.sendall(chat_request("pair", prompt, stream=bool(number % 2)))
    until(lambda: gateway.metric("switchgear_queue_depth", model="pair") == len(tags) - 2)
    for connection in open_:
        connection.close()
    until(lambda: len(gateway.rows()) == before + len(tags))
    assert {row["status"] for row in gateway.rows()[-len(tags) :]} == {"cancelled"}
