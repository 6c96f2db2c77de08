"""A shared stream, cut anywhere: whole for all, in each form; and continued from a second run."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.answers import WholeReceiver
from gateway.openai.continuation import Replay
from gateway.openai.events import StreamBroken, StreamReceiver
from gateway.openai.forms import Assembled, StreamTap, Unfolded
from gateway.openai.trail import Trail

WORDS = st.lists(st.text(st.sampled_from("aé \n"), min_size=1, max_size=4), min_size=1, max_size=8)
CUTS = st.lists(st.integers(0, 4000), max_size=6)


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def trail_of(got: bytes, choices: int = 1) -> Trail:
    trail = Trail(choices)
    trail.feed(got)
    trail.read()
    return trail


def stream(words: list[str], identity: str = "chatcmpl-1", choices: int = 1) -> bytes:
    base = {"id": identity, "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
    events = []
    for index in range(choices):
        first = {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        events.append({**base, "choices": [first]})
    for word in words:
        events += [
            {**base, "choices": [{"index": index, "delta": {"content": word}, "finish_reason": None}]}
            for index in range(choices)
        ]
    events += [
        {**base, "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
        for index in range(choices)
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": len(words) * choices}
    return b"".join(map(event, [*events, {**base, "choices": [], "usage": usage}])) + b"data: [DONE]\n\n"


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(place, len(data)) for place in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def receiver(choices: int = 1, usage: bool = True) -> StreamReceiver:
    return StreamReceiver(
        "ours", choices=choices, include_usage=usage, token_ids=True, keep_bytes=0, cost_usd=lambda _: 0.5
    )


@given(WORDS, CUTS, st.integers(1, 3))
def test_the_tap_lets_everything_through_and_knows_the_end(
    words: list[str], cuts: list[int], choices: int
) -> None:
    tap, whole = StreamTap(choices), stream(words, choices=choices)
    out = b"".join(tap.feed(piece) for piece in cut(whole, cuts))
    assert out == whole
    assert tap.done
    assert tap.finish() == b""


@given(WORDS, CUTS, st.data())
def test_the_tap_sees_that_a_stream_broke_off(words: list[str], cuts: list[int], data: st.DataObject) -> None:
    whole = stream(words)
    end = whole.index(b'"finish_reason": "stop"')
    tap = StreamTap(1)
    for piece in cut(whole[: data.draw(st.integers(0, end))], cuts):
        tap.feed(piece)
    with pytest.raises(StreamBroken):
        tap.finish()
    with pytest.raises(StreamBroken):
        tap.feed(b"\n\n" + event({"error": {"message": "engine died"}}))


@given(WORDS, CUTS)
def test_a_stream_assembled_and_an_answer_unfolded_say_the_same(words: list[str], cuts: list[int]) -> None:
    assembled = Assembled(receiver())
    assert b"".join(assembled.feed(piece) for piece in cut(stream(words), cuts)) == b""
    body = assembled.finish()
    answer = json.loads(body)
    assert answer["choices"][0]["message"]["content"] == "".join(words)
    assert (answer["model"], answer["usage"]["prompt_tokens"]) == ("ours", 3)
    assert assembled.usage(1)[0].completion_tokens == len(words)
    unfolded = Unfolded(WholeReceiver("ours", limit_bytes=10**6), include_usage=True, cost_usd=lambda _: 0.5)
    for piece in cut(body, cuts):
        assert unfolded.feed(piece) == b""
    again = Assembled(receiver())
    again.feed(unfolded.finish())
    assert json.loads(again.finish())["choices"] == [{"logprobs": None, **one} for one in answer["choices"]]
    assert unfolded.usage(1) == assembled.usage(1)


@given(WORDS, CUTS, CUTS, st.integers(0, 5000), st.integers(1, 2))
def test_a_second_run_goes_on_where_the_first_one_broke(
    words: list[str], cuts: list[int], others: list[int], broke: int, choices: int
) -> None:
    """However both are cut, and however the second run cuts its words into chunks."""
    first = stream(words, choices=choices)
    got = first[: min(broke, first.index(b'"finish_reason": "stop"'))]
    rest = Replay(trail_of(got, choices), {})
    client = receiver(choices)
    out = client.feed(got[: got.rfind(b"\n\n") + 2]) if b"\n\n" in got else b""
    second = stream(list("".join(words)), identity="chatcmpl-2", choices=choices)
    for piece in cut(second, others):
        out += client.feed(rest.feed(piece))
    out += client.finish()
    said = [json.loads(one[6:]) for one in out.decode().split("\n\n") if one.startswith("data: {")]
    for index in range(choices):
        pieces = [
            choice["delta"].get("content", "")
            for one in said
            for choice in one["choices"]
            if choice["index"] == index
        ]
        assert "".join(pieces) == "".join(words)
    assert {one["id"] for one in said} == ({"chatcmpl-1"} if b"\n\n" in got else {"chatcmpl-2"})


def test_another_answer_or_another_tool_is_not_taken_for_the_same() -> None:
    with pytest.raises(StreamBroken, match="another one"):
        Replay(trail_of(stream(["a", "b", "c"])[:-300]), {}).feed(stream(["a", "x"]))

    def call(name: str) -> bytes:
        calls = [{"index": 0, "id": "1", "function": {"name": name, "arguments": "{"}}]
        return event({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})

    assert Replay(trail_of(call("f")), {}).feed(call("f")) == b""
    with pytest.raises(StreamBroken, match="another tool"):
        Replay(trail_of(call("f")), {}).feed(call("g"))
