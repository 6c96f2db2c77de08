"""Identical requests in flight, through the real door: one upstream call for each distinct one."""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.crowd import Got, content, crowd, parsed
from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.gateway import (
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

CLOSE = "connection: close"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("coalescing")
    upstreams = Upstreams(2)
    models = model("m", upstreams.ports, max_concurrency=500, engine="vllm") + model(
        "one", upstreams.ports[:1], max_attempts=1
    )
    gateway = Gateway(directory, config(models, directory=directory))
    with running(gateway, upstreams) as both:
        until(gateway.ready)
        yield both


def request(prompt: str, *more: str, name: str = "m", **fields: Any) -> bytes:
    return chat_request(name, prompt, CLOSE, *more, **{"temperature": 0, **fields})


def row_sources(gateway: Gateway, found: list[Got]) -> list[dict[str, Any]]:
    wanted = {got.headers["x-request-id"] for got in found}
    rows: list[dict[str, Any]] = []

    def there() -> bool:
        rows[:] = [row for row in gateway.rows() if row["request_id"] in wanted]
        return len(rows) == len(wanted)

    until(there)
    return rows


def test_hundreds_of_requests_at_once_make_one_call_for_each_distinct_one(
    served: tuple[Gateway, Upstreams],
) -> None:
    """Streamed and buffered mixed; what differs by one token, or in one parameter, is another request."""
    gateway, upstreams = served
    tag = unique()
    prompts = [script(tag=tag, n=5 + number, gap_s=0.6) for number in range(3)]
    kinds = [(prompt, seed, stream) for prompt in prompts for seed in (None, 7) for stream in (False, True)]
    asked = [kind for kind in kinds for _ in range(20)]
    random.Random(6).shuffle(asked)
    bodies = [request(prompt, stream=stream, seed=seed) for prompt, seed, stream in asked]
    saved_before = gateway.metric("switchgear_saved_nanousd_total", by="joined")
    found = crowd(gateway.port, bodies)
    assert {got.status for got in found} == {200}
    assert len(upstreams.seen(tag)["requests"]) == 6
    by_kind: dict[Any, set[bytes]] = {}
    for kind, got in zip(asked, found, strict=True):
        by_kind.setdefault(kind, set()).add(got.body)
        assert content(got) == text(5 + prompts.index(kind[0]))
    assert {len(bodies) for bodies in by_kind.values()} == {1}, "each client's bytes are equal"
    assert Counter(got.headers["x-switchgear-cache"] for got in found) == {"bypass": 6, "joined": 234}
    rows = row_sources(gateway, found)
    assert Counter(row["source"] for row in rows) == {"upstream": 6, "joined": 234}
    for row in rows:
        full = 4 * 1000 + 3 * 500 + row["completion_tokens"] * 2000
        assert row["amount_nanousd"] == (full if row["source"] == "upstream" else round(full / 10))
    assert gateway.metric("switchgear_requests_total", cache="joined") >= 234
    saved = gateway.metric("switchgear_saved_nanousd_total", by="joined") - saved_before
    paid = sum(row["amount_nanousd"] for row in rows if row["source"] == "joined")
    assert saved == 9 * paid


def test_a_late_joiner_first_gets_what_was_produced(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=4, lockstep=True)
    first, late = gateway.connect(), gateway.connect()
    first.sendall(request(prompt, stream=True))
    upstreams.control(release=tag, times=3)
    begun = read_until(first, b"w1 ")
    late.sendall(request(prompt, stream=True))
    caught_up = read_until(late, b"w1 ")
    assert b"x-switchgear-cache: joined" in caught_up
    assert upstreams.states(tag) == ["running"]
    upstreams.control(release=tag, times=20)
    ends = [begun + read_all(first), caught_up + read_all(late)]
    assert ends[0].endswith(b"0\r\n\r\n")
    assert ends[0].count(b"data: ") == ends[1].count(b"data: ") == 7
    assert upstreams.states(tag) == ["done"]
    for one in (first, late):
        one.close()


def test_the_call_goes_on_for_the_others_when_its_first_client_leaves(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=4, lockstep=True)
    first, other = gateway.connect(), gateway.connect()
    first.sendall(request(prompt, stream=True))
    until(lambda: upstreams.states(tag) == ["running"])
    other.sendall(request(prompt))
    upstreams.control(release=tag, times=2)
    read_until(first, b"w0 ")
    until(lambda: len(gateway_members(gateway)) == 2)
    first.close()
    until(lambda: len(gateway_members(gateway)) == 1)
    upstreams.control(release=tag, times=20)
    answer = read_all(other)
    assert text(4).encode() in answer
    assert upstreams.states(tag) == ["done"]
    request_id = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    row = gateway.row(request_id)
    assert (row["source"], row["completion_tokens"]) == ("upstream", 4), "the full price, once"
    other.close()


def gateway_members(gateway: Gateway) -> range:
    """Give as many as there are requests under way."""
    return range(int(gateway.metric("switchgear_shared_readers")))


def test_the_call_is_aborted_when_the_last_client_leaves(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=4, lockstep=True)
    both = [gateway.connect(), gateway.connect()]
    for one in both:
        one.sendall(request(prompt, stream=True))
    upstreams.control(release=tag, times=2)
    for one in both:
        read_until(one, b"w0 ")
    both[0].close()
    assert upstreams.states(tag) == ["running"]
    both[1].close()
    until(lambda: upstreams.states(tag) == ["aborted"])
    until(gateway.idle)
    assert gateway.metric("switchgear_shared_calls") == 0


def test_joiners_fail_over_with_the_call(served: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = served
    tag = unique()
    found = crowd(gateway.port, [request(script("500", "ok", tag=tag, gap_s=0.05))] * 30)
    assert {got.status for got in found} == {200}
    assert len(upstreams.seen(tag)["requests"]) == 2


def test_joiners_of_a_failed_call_ask_once_more(served: tuple[Gateway, Upstreams]) -> None:
    """Who led is told; the others share one call more."""
    gateway, upstreams = served
    tag = unique()
    prompt = script("fin:0", tag=tag, lockstep=True)
    all_of_them = [gateway.connect() for _ in range(10)]
    for one in all_of_them:
        one.sendall(request(prompt, name="one", stream=True))
    for count in (1, 2):
        until(lambda count=count: len(upstreams.states(tag)) == count)  # type: ignore[misc]  # a default
        until(lambda count=count: gateway.metric("switchgear_shared_readers") == 11 - count)  # type: ignore[misc]  # a default
        upstreams.control(release=tag)
    found = [parsed(read_all(one)) for one in all_of_them]
    assert {got.status for got in found} == {502}
    assert len(upstreams.states(tag)) == 2
    for one in all_of_them:
        one.close()


def test_a_refusal_is_everybodys(served: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = served
    tag = unique()
    found = crowd(gateway.port, [request(script("400", tag=tag))] * 20)
    assert {got.status for got in found} == {400}
    assert {json.loads(got.body)["error"]["message"] for got in found} == {"upstream says 400"}


@pytest.mark.parametrize(
    ("more", "fields", "calls"),
    [
        ((), {"temperature": 0.5}, 10),
        ((), {"temperature": None}, 10),
        (("x-switchgear-coalesce: on",), {"temperature": 0.5}, 1),
        (("x-switchgear-coalesce: off",), {}, 10),
        (("x-switchgear-cache: bypass",), {}, 10),
        ((), {"temperature": 0.5, "seed": 3}, 1),
    ],
)
def test_only_what_is_deterministic_or_asked_for_is_shared(
    served: tuple[Gateway, Upstreams], more: tuple[str, ...], fields: dict[str, Any], calls: int
) -> None:
    gateway, upstreams = served
    tag = unique()
    found = crowd(gateway.port, [request(script(tag=tag, gap_s=0.1), *more, **fields)] * 10)
    assert {got.status for got in found} == {200}
    assert len(upstreams.seen(tag)["requests"]) == calls


def test_a_buffered_answer_made_of_a_stream_shows_no_token_ids_that_nobody_asked_for(
    served: tuple[Gateway, Upstreams],
) -> None:
    """The gateway asks a vLLM for them, to go on with a stream that breaks."""
    gateway, upstreams = served
    tag = unique()
    prompt = script(tag=tag, n=4, lockstep=True)
    first, other = gateway.connect(), gateway.connect()
    first.sendall(request(prompt, stream=True))
    until(lambda: upstreams.states(tag) == ["running"])
    other.sendall(request(prompt))
    until(lambda: len(gateway_members(gateway)) == 2)
    upstreams.control(release=tag, times=20)
    read_all(first)
    whole = json.loads(parsed(read_all(other)).body)
    assert upstreams.seen(tag)["requests"][0]["body"]["return_token_ids"] is True
    assert (whole.get("prompt_token_ids"), whole["choices"][0].get("token_ids")) == (None, None)
    assert whole["choices"][0]["message"]["content"] == text(4)
    for one in (first, other):
        one.close()


def test_live_a_stream_that_joins_a_buffered_request_gets_what_was_produced(
    served: tuple[Gateway, Upstreams],
) -> None:
    gateway, upstreams = served
    said = gateway.config.read_text()
    gateway.write(said + "[coalescing]\nlive = true\n")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.logged().count("configuration read again") == 1)
    tag = unique()
    prompt = script(tag=tag, n=4, lockstep=True)
    first, late = gateway.connect(), gateway.connect()
    first.sendall(request(prompt))
    upstreams.control(release=tag, times=3)
    until(lambda: upstreams.states(tag) == ["running"])
    late.sendall(request(prompt, stream=True))
    caught_up = read_until(late, b"w1 ")
    assert b"x-switchgear-cache: joined" in caught_up
    assert upstreams.states(tag) == ["running"]
    upstreams.control(release=tag, times=20)
    whole, rest = parsed(read_all(first)), read_all(late)
    assert rest.endswith(b"0\r\n\r\n")
    answer = json.loads(whole.body)
    assert (answer["object"], answer["choices"][0]["message"]["content"]) == ("chat.completion", text(4))
    assert (answer["usage"]["completion_tokens"], whole.headers["x-switchgear-cache"]) == (4, "bypass")
    assert gateway.row(whole.headers["x-request-id"])["source"] == "upstream"
    assert upstreams.states(tag) == ["done"]
    gateway.write(said)
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.logged().count("configuration read again") == 2)
    for one in (first, late):
        one.close()
