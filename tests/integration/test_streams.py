"""Streams: every event as it came and when it came, changed only where the contract says so."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import CACHED_TOKENS, PROMPT_TOKENS, script, text
from tests.integration.gateway import (
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)

BEAT_S = 0.2
BEAT = b": keep-alive\n\n"
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": 5,
    "total_tokens": PROMPT_TOKENS + 5,
    "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
}
COST_USD = (4 * 1000 + 3 * 500 + 5 * 2000) / 1e9


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("streams")
    upstreams = Upstreams(2)
    models = model("small", upstreams.ports[:1], max_attempts=1)
    models += model("pair", upstreams.ports)
    settings = config(models, directory=directory, server=f"heartbeat_after_s = {BEAT_S}")
    with running(Gateway(directory, settings), upstreams) as house:
        until(house[0].ready)
        yield house


@pytest.fixture(scope="module")
def gateway(house: tuple[Gateway, Upstreams]) -> Gateway:
    return house[0]


def events(body: bytes) -> list[Any]:
    """Give the JSON of each event; ``[DONE]`` as a string; comments left out."""
    found = [one[6:] for one in body.split(b"\n\n") if one.startswith(b"data: ")]
    return [json.loads(one) if one != b"[DONE]" else "[DONE]" for one in found]


def said(found: list[Any]) -> str:
    chunks = [one for one in found if one != "[DONE]"]
    return "".join(c["delta"].get("content", "") for one in chunks for c in one["choices"])


@pytest.mark.parametrize("path", ["chat", "completion"])
def test_each_event_arrives_before_the_next_one_is_sent(house: tuple[Gateway, Upstreams], path: str) -> None:
    """In lock-step: the upstream sends event k + 1 only after the client has seen event k."""
    gateway, upstreams = house
    tag = unique()
    request = chat_request("small", script("ok", tag=tag, lockstep=True), stream=True)
    marks = [b'"role"', *(b'"w%d ' % k for k in range(5)), b'"stop"']
    if path == "completion":
        body = json.dumps({"model": "small", "prompt": script("ok", tag=tag, lockstep=True), "stream": True})
        head = request.partition(b"content-length")[0].replace(b"/chat/", b"/")
        request = head + f"content-length: {len(body)}\r\n\r\n".encode() + body.encode()
        del marks[0]
    with gateway.connect() as connection:
        connection.sendall(request)
        for number, mark in enumerate(marks):
            upstreams.control(release=tag)
            seen = read_until(connection, mark, b"\n\n")
            assert mark in seen
            assert not any(later in seen for later in marks[number + 1 :])
        upstreams.control(release=tag)  # the usage, which this client did not ask for
        upstreams.control(release=tag)  # [DONE]
        rest = read_until(connection, b"0\r\n\r\n").replace(BEAT, b"")
    assert b"data: [DONE]\n\n" in rest
    assert b"usage" not in rest


@pytest.mark.parametrize(
    "fault",
    [
        "ok",
        "byte-by-byte",
        "at-once",
        "usage-in-choices",
        "usage-null",
        "no-done",
        "done-fin",
        "done-hang",
        "close",
    ],
)
@pytest.mark.parametrize("asked", [True, False])
def test_complaint_6_usage_is_for_those_who_ask(gateway: Gateway, fault: str, asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    status, headers, body = gateway.chat("small", script(fault), stream=True, **options)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = events(body)
    assert found[-1] == "[DONE]"
    assert found.count("[DONE]") == 1
    assert said(found) == text(5)
    assert {one["model"] for one in found[:-1]} == {"small"}
    assert not any("token_ids" in json.dumps(one).replace('token_ids": null', "") for one in found)
    usages = [one["usage"] for one in found[:-1] if one.get("usage")]
    if not asked:
        assert b'"usage"' not in body
        assert all(one["choices"] for one in found[:-1])
        return
    assert len(usages) == 1
    assert usages[0].pop("cost") == pytest.approx(COST_USD)
    assert usages[0] == USAGE


def test_token_ids_go_to_those_who_ask(gateway: Gateway) -> None:
    found = events(gateway.chat("small", script("ok"), stream=True, return_token_ids=True)[2])
    assert found[0]["prompt_token_ids"] == list(range(PROMPT_TOKENS))
    assert [one["choices"][0].get("token_ids") for one in found[1:6]] == [[100 + k] for k in range(5)]


def test_complaint_6_the_upstream_is_always_asked_for_usage_and_by_its_own_name(
    house: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = house
    tag = unique()
    gateway.chat("small", script("ok", tag=tag), stream=True, made_up={"a": [1.50]}, seed=7)
    (seen,) = upstreams.seen(tag)["requests"]
    assert seen["body"]["stream_options"] == {"include_usage": True}
    assert seen["body"]["model"] == "upstream-name"
    assert (seen["body"]["made_up"], seen["body"]["seed"]) == ({"a": [1.50]}, 7)
    assert seen["headers"]["x-request-id"].startswith("req_")
    assert "authorization" not in seen["headers"]


def test_an_end_that_comes_alone_is_the_end(house: tuple[Gateway, Upstreams]) -> None:
    """The server says that all is said, and nothing more for ever."""
    gateway, upstreams = house
    tag, usage = unique(), {"include_usage": True}
    prompt = script("done-hang", tag=tag, n=1, lockstep=True)
    with gateway.connect() as connection:
        connection.sendall(chat_request("small", prompt, stream=True, stream_options=usage))
        for mark in (b'"role"', b'"w0 ', b'"stop"', b'"total_tokens"'):
            upstreams.control(release=tag)
            read_until(connection, mark, b"\n\n")
        upstreams.control(release=tag)
        assert b"data: [DONE]" in read_until(connection, b"0\r\n\r\n")
    until(lambda: upstreams.states(tag) == ["aborted"])


def test_a_huge_event_goes_through_whole(gateway: Gateway) -> None:
    found = events(gateway.chat("small", script("huge"), stream=True)[2])
    assert len(said(found)) > 1_000_000
    assert found[-1] == "[DONE]"


def test_a_waiting_stream_is_kept_alive_and_then_answered(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    with gateway.connect() as connection:
        connection.sendall(chat_request("small", script("ok", tag=tag, lockstep=True), stream=True))
        begun = read_until(connection, BEAT, BEAT)
        assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"x-request-id: req_" in begun
        assert b"data:" not in begun
        upstreams.control(release=tag, times=20)
        rest = read_until(connection, b"0\r\n\r\n")
    assert b"data: [DONE]\n\n" in rest
    assert rest.count(b'"w4 ') == 1


def test_a_failure_after_a_heartbeat_is_told_in_band(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    with gateway.connect() as connection:
        wish = "x-switchgear-timeout-ms: 700"
        connection.sendall(chat_request("small", script("hang"), wish, stream=True))
        answer = read_until(connection, b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert BEAT in answer
    body = answer.partition(b"\r\n\r\n")[2]
    (error,) = [one for one in body.split(b"\r\n") if one.startswith(b"data:")]
    assert json.loads(error[6:])["error"]["code"] == "upstream_timeout"
    assert b"[DONE]" not in answer


def test_another_replica_is_still_tried_after_a_heartbeat(house: tuple[Gateway, Upstreams]) -> None:
    """A heartbeat is no byte of an answer."""
    gateway, upstreams = house
    tag = unique()
    with gateway.connect() as connection:
        prompt = script("malformed:0", "ok", tag=tag, lockstep=True)
        connection.sendall(chat_request("pair", prompt, stream=True))
        assert b"HTTP/1.1 200 OK" in read_until(connection, BEAT)
        upstreams.control(release=tag, times=20)
        answer = read_until(connection, b"0\r\n\r\n")
    assert b"data: [DONE]\n\n" in answer
    assert b"error" not in answer
    assert len(upstreams.seen(tag)["requests"]) == 2


def test_a_buffered_answer_has_no_heartbeat(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    tag = unique()
    with gateway.connect() as connection, gateway.connect() as other:
        connection.sendall(chat_request("small", script("ok", tag=tag, lockstep=True)))
        other.sendall(chat_request("small", script("ok", tag=tag, lockstep=True), stream=True))
        read_until(other, BEAT, BEAT, BEAT)  # as many heartbeats of a neighbour
        upstreams.control(release=tag, times=30)
        answer = read_until(connection, b'"total_tokens"')
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"keep-alive" not in answer
    assert b"content-length: " in answer


def test_comments_of_an_upstream_are_no_answer(house: tuple[Gateway, Upstreams]) -> None:
    """They keep nobody waiting beyond the deadline, and they commit to no replica."""
    gateway, upstreams = house
    tag = unique()
    wish = {"x-switchgear-timeout-ms": "700"}
    body = gateway.chat("small", script("comments", tag=tag), stream=True, headers=wish)[2]
    assert b"ping" not in body
    assert b'"code":"upstream_timeout"' in body
    until(lambda: upstreams.states(tag) == ["aborted"])


def test_streamed_and_buffered_cost_the_same(gateway: Gateway) -> None:
    ids = [gateway.chat("small", script("ok"), stream=stream)[1]["x-request-id"] for stream in (True, False)]
    streamed, buffered = (gateway.row(one) for one in ids)
    for differs in ("request_id", "ts"):
        del streamed[differs], buffered[differs]
    assert streamed == buffered
    assert streamed["amount_nanousd"] == round(COST_USD * 1e9)
