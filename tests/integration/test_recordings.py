"""``Idempotency-Key`` and resumable streams, through the real door."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.crowd import Got, crowd, parsed
from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.gateway import (
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    chat_body,
    chat_request,
    config,
    model,
    read_all,
    read_until,
    running,
    unique,
)

CLOSE = "connection: close"
MORE = '[[keys]]\nname = "other"\nkey_env = "TEST_LIMITED_KEY"\nproject = "other"\nresumable = true\n'
SERVER = "heartbeat_after_s = 5\n[streams]\norphan_s = 1\nmax_bytes = 262144\n[idempotency]\nretention_s = 60"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("recordings")
    upstreams = Upstreams(1)
    models = model("m", upstreams.ports, max_concurrency=500)
    text_of = config(models, directory=directory, server=SERVER, more=MORE)
    gateway = Gateway(directory, text_of)
    with running(gateway, upstreams) as both:
        until(gateway.ready)
        yield both


@pytest.fixture(scope="module")
def ended(served: tuple[Gateway, Upstreams]) -> tuple[Gateway, str]:
    """A stream that can be read and has ended."""
    asked = request(script(tag=unique()), "x-switchgear-resumable: true", stream=True)
    (made,) = crowd(served[0].port, [asked])
    return served[0], made.headers["x-switchgear-stream-id"]


def request(prompt: str, *more: str, **fields: Any) -> bytes:
    return chat_request("m", prompt, CLOSE, *more, **fields)


def ask(gateway: Gateway, prompt: str, key: str, **fields: Any) -> tuple[int, dict[str, str], bytes]:
    return gateway.chat("m", prompt, headers={"idempotency-key": key}, **fields)


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


# ---------------------------------------------------------------- idempotency
@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_and_body_give_the_same_answer_once(
    served: tuple[Gateway, Upstreams], stream: bool
) -> None:
    gateway, upstreams = served
    tag, key = unique(), unique()
    first = ask(gateway, script(tag=tag), key, stream=stream)
    again = ask(gateway, script(tag=tag), key, stream=stream)
    assert first[0] == again[0] == 200
    assert first[2] == again[2]
    assert first[1]["x-request-id"] == again[1]["x-request-id"]
    assert "x-switchgear-replayed" not in first[1]
    assert again[1]["x-switchgear-replayed"] == "true"
    assert len(upstreams.seen(tag)["requests"]) == 1
    gateway.row(first[1]["x-request-id"])


def test_another_body_is_a_conflict_and_another_projects_key_is_another_key(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = served
    tag, key = unique(), unique()
    assert ask(gateway, script(tag=tag), key)[0] == 200
    status, headers, body = ask(gateway, script(tag=tag, n=6), key)
    assert (status, code(body), headers["x-should-retry"]) == (409, "idempotency_conflict", "false")
    headers = {"idempotency-key": key, "authorization": f"Bearer {LIMITED}"}
    assert gateway.chat("m", script(tag=tag), headers=headers)[0] == 200
    assert len(upstreams.seen(tag)["requests"]) == 2
    spelled = json.dumps(json.loads(chat_body("m", script(tag=tag))), indent=3).encode()
    found = gateway.call("POST", "/v1/chat/completions", spelled, {"idempotency-key": key})
    assert found[0] == 200, "the same body in another spelling"
    assert found[1]["x-switchgear-replayed"] == "true"


def test_also_while_the_first_still_runs(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag, key = unique(), unique()
    prompt = script(tag=tag, gap_s=0.2)
    asked = [request(prompt, f"idempotency-key: {key}", stream=True)] * 50
    found = crowd(gateway.port, [*asked, request(prompt, f"idempotency-key: {key}")])
    assert [got.status for got in found] == [*[200] * 50, 409], "streamed and buffered are two bodies"
    assert len({got.body for got in found[:50]}) == 1
    assert len(upstreams.seen(tag)["requests"]) == 1


def test_it_runs_to_its_end_although_its_client_left(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag, key = unique(), unique()
    prompt = script(tag=tag, lockstep=True)
    left = gateway.connect()
    left.sendall(request(prompt, f"idempotency-key: {key}", stream=True))
    upstreams.control(release=tag, times=2)
    read_until(left, b"w0 ")
    left.close()
    upstreams.control(release=tag, times=20)
    until(lambda: upstreams.states(tag) == ["done"])
    status, _, body = ask(gateway, prompt, key, stream=True)
    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")
    assert b"w4 " in body
    assert len(upstreams.seen(tag)["requests"]) == 1


def test_a_failure_frees_the_key(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag, key = unique(), unique()
    assert ask(gateway, script("400", tag=tag), key)[0] == 400
    assert ask(gateway, script("400", tag=tag), key)[0] == 400
    assert len(upstreams.seen(tag)["requests"]) == 2
    assert code(ask(gateway, "x", "k" * 256)[2]) == "invalid_value"


def test_it_survives_a_restart_and_a_process_that_was_killed(tmp_path: Path) -> None:
    """A key whose process died is free when the lease is over: it is answered then, once."""
    upstreams = Upstreams(1)
    gateway = Gateway(tmp_path, config(model("m", upstreams.ports), directory=tmp_path))
    with running(gateway, upstreams):
        until(gateway.ready)
        tag, key, dying = unique(), unique(), unique()
        first = ask(gateway, script(tag=tag), key, stream=True)
        gateway.stop()
        gateway.start()
        until(gateway.ready)
        again = ask(gateway, script(tag=tag), key, stream=True)
        assert again[2] == first[2]
        assert len(upstreams.seen(tag)["requests"]) == 1
        assert code(ask(gateway, script(tag=tag, n=9), key)[2]) == "idempotency_conflict"
        left = gateway.connect()
        left.sendall(request(script(tag=tag + "d", lockstep=True), f"idempotency-key: {dying}"))
        until(lambda: upstreams.states(tag + "d") == ["running"])
        gateway.stop(signal.SIGKILL)
        left.close()
        gateway.start()
        until(gateway.ready)
        upstreams.control(release=tag + "d", times=10)
        assert ask(gateway, script(tag=tag + "d", lockstep=True), dying)[0] == 200
        assert upstreams.states(tag + "d") == ["aborted", "done"]


# ---------------------------------------------------------------- resumable streams
def events(got: Got) -> list[tuple[int, str]]:
    return [
        (int(number), data) for number, data in re.findall(r"id: (\d+)\ndata: (.*)\n\n", got.body.decode())
    ]


def begun_with(data: bytes) -> Got:
    """Read an answer that broke off behind a whole chunk."""
    return parsed(data)


def resume(gateway: Gateway, stream_id: str, *more: str, key: str = KEY) -> bytes:
    lines = [f"GET /v1/streams/{stream_id} HTTP/1.1", "host: x", f"authorization: Bearer {key}", CLOSE, *more]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_dropped_stream_is_resumed_where_it_was_and_goes_on_live(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=6, lockstep=True)
    dropped = gateway.connect()
    dropped.sendall(request(prompt, "x-switchgear-resumable: true", stream=True))
    upstreams.control(release=tag, times=3)
    begun = begun_with(read_until(dropped, b"w1 ", b"}]}\n\n\r\n"))
    stream_id = begun.headers["x-switchgear-stream-id"]
    assert stream_id == begun.headers["x-request-id"]
    last = events(begun)[-1]
    dropped.close()
    upstreams.control(release=tag, times=2)
    back = gateway.connect()
    back.sendall(resume(gateway, stream_id, f"last-event-id: {last[0]}"))
    live = read_until(back, b"w3 ")
    assert upstreams.states(tag) == ["running"]
    upstreams.control(release=tag, times=20)
    rest = parsed(live + read_all(back))
    back.close()
    seen = events(begun) + events(rest)
    assert [number for number, _ in seen] == list(range(seen[0][0], seen[0][0] + len(seen)))
    words = [json.loads(data)["choices"][0]["delta"].get("content", "") for _, data in seen[:-2]]
    assert "".join(words) == text(6)
    assert seen[-1][1] == "[DONE]"
    (whole,) = crowd(gateway.port, [resume(gateway, stream_id)])
    assert events(whole) == seen, "from the beginning, after the end"
    assert upstreams.states(tag) == ["done"]


def test_only_the_key_that_began_it_may_read(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    (made,) = crowd(
        gateway.port, [request(script(tag=unique()), "x-switchgear-resumable: true", stream=True)]
    )
    stream_id = made.headers["x-switchgear-stream-id"]
    asked = [
        resume(gateway, stream_id, key=LIMITED),
        resume(gateway, stream_id, key="sk-wrong"),
        resume(gateway, "req_unknown"),
        resume(gateway, stream_id, "last-event-id: x"),
        resume(gateway, stream_id).replace(b"GET", b"POST"),
    ]
    found = crowd(gateway.port, asked)
    assert [got.status for got in found] == [404, 401, 404, 400, 405]


@pytest.mark.parametrize("value", ["-1", "x", "", "1.5", "0x1", "9" * 16, "99999", "\u0663"])
def test_what_is_no_event_of_the_stream_is_refused_by_name(ended: tuple[Gateway, str], value: str) -> None:
    gateway, stream_id = ended
    (found,) = crowd(gateway.port, [resume(gateway, stream_id, f"last-event-id: {value}")])
    assert found.status == 400
    assert json.loads(found.body)["error"]["param"] == "last-event-id"


def test_another_keys_stream_and_none_are_told_alike(ended: tuple[Gateway, str]) -> None:
    gateway, theirs = ended
    nobodys = "req_" + unique()
    for last in ("0", "3", "99999"):
        found = crowd(
            gateway.port,
            [resume(gateway, one, f"last-event-id: {last}", key=LIMITED) for one in (theirs, nobodys)],
        )
        assert [got.status for got in found] == [404, 404]
        one, other = (
            json.loads(got.body)["error"]["message"].replace(name, "")
            for got, name in zip(found, (theirs, nobodys), strict=True)
        )
        assert one == other


def test_by_the_keys_own_setting(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    plain = request(script(tag=unique()), stream=True)
    theirs = plain.replace(KEY.encode(), LIMITED.encode())
    refused = theirs.replace(b"host: x", b"host: x\r\nx-switchgear-resumable: false")
    found = crowd(gateway.port, [plain, theirs, refused])
    assert [bool(events(got)) for got in found] == [False, True, False]
    assert {
        got.status
        for got in crowd(
            gateway.port, [resume(gateway, found[1].headers["x-switchgear-stream-id"], key=LIMITED)]
        )
    } == {200}


def test_a_stream_is_bounded_in_bytes_and_without_a_reader_in_time(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=1500, size=300)
    (made,) = crowd(gateway.port, [request(prompt, "x-switchgear-resumable: true", stream=True)])
    assert made.body.endswith(b"data: [DONE]\n\n")
    stream_id, last = made.headers["x-switchgear-stream-id"], events(made)[-1][0]
    found = crowd(
        gateway.port,
        [resume(gateway, stream_id, f"last-event-id: {after}") for after in (10, last - 3, last)],
    )
    assert [(got.status, len(events(got))) for got in found] == [(404, 0), (200, 3), (200, 0)]
    tag = unique()
    left = gateway.connect()
    left.sendall(request(script(tag=tag, lockstep=True), "x-switchgear-resumable: true", stream=True))
    upstreams.control(release=tag, times=2)
    read_until(left, b"w0 ")
    left.close()
    until(lambda: upstreams.states(tag) == ["aborted"])
