"""However the network cuts a stream, the client and the meter get the same."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.openai.answers import from_stream
from gateway.openai.events import DONE, StreamBroken, StreamReceiver, payloads

NASTY = [
    '"token_ids":[1],',
    '"model":"x"',
    '\\"model\\":\\"x\\"',
    '"usage":null',
    "\n\n",
    "\r\n",
    "data: [DONE]",
    "é",
    "😀",
    "\u2028",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.sampled_from(NASTY)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, int, list[str]]:
    """Give a well-formed stream, its number of choices and each choice's text."""
    count = draw(st.integers(1, 3))
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n"]))
    head = {"id": "c", "object": "chat.completion.chunk", "model": "up"}
    events: list[str] = []
    said = [""] * count
    with_ids = draw(st.booleans())

    def chunk(**rest: Any) -> None:
        if draw(st.booleans()):
            events.append(": ping")
        null = {"usage": None} if draw(st.booleans()) else {}
        compact = draw(st.booleans())
        separators = (",", ":") if compact else (", ", ": ")
        body = json.dumps({**head, **rest, **null, **rest}, ensure_ascii=compact, separators=separators)
        events.append(f"data:{'' if compact else ' '}{body}")

    for piece in draw(st.lists(st.tuples(st.integers(0, count - 1), texts), max_size=6)):
        index, text = piece
        said[index] += text
        ids = {"token_ids": [1, 2]} if with_ids else {}
        chunk(choices=[{"index": index, "delta": {"content": text}, "finish_reason": None, **ids}])
    for index in range(count):
        chunk(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}])
    if draw(st.booleans()):
        chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4})
    if draw(st.booleans()):
        events.append("data: [DONE]")
    return "".join(event + end for event in events).encode(), count, said


def received(
    pieces: list[bytes], count: int, *, usage: bool, token_ids: bool
) -> tuple[bytes, StreamReceiver]:
    one = StreamReceiver(
        "small", choices=count, include_usage=usage, token_ids=token_ids, keep_bytes=0, cost_usd=lambda _: 0.5
    )
    out = b"".join(one.feed(piece) for piece in pieces)
    return out + one.finish(), one


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(edges)]


@settings(max_examples=60)
@given(streams(), st.lists(st.integers(0, 10_000), max_size=12), st.booleans(), st.booleans())
def test_any_cutting_gives_the_same_bytes_and_the_same_metering(
    made: tuple[bytes, int, list[str]], places: list[int], usage: bool, token_ids: bool
) -> None:
    stream, count, said = made
    out, one = received([stream], count, usage=usage, token_ids=token_ids)
    single = [stream[place : place + 1] for place in range(len(stream))]
    for pieces in (cut(stream, places), single):
        again, other = received(pieces, count, usage=usage, token_ids=token_ids)
        assert again == out
        assert other.usage(7) == one.usage(7)
        assert other.finish_reasons == one.finish_reasons
    assert out.endswith(DONE)
    assert out.count(DONE) == 1
    chunks = payloads(out)
    assert {chunk["model"] for chunk in chunks} == {"small"}
    if not usage:
        assert not any("usage" in chunk for chunk in chunks)
    if not token_ids:
        assert not any(choice.get("token_ids") for chunk in chunks for choice in chunk["choices"])
    whole = json.loads(from_stream(out))
    assert [choice["message"]["content"] or "" for choice in whole["choices"]] == said


@settings(max_examples=60)
@given(streams(), st.integers(0, 10_000))
def test_a_cut_stream_ends_cleanly_only_where_every_choice_was_finished(
    made: tuple[bytes, int, list[str]], place: int
) -> None:
    stream, count, _ = made
    short = stream[: place % (len(stream) + 1)]
    finished = short.replace(b"\r\n", b"\n").rpartition(b"\n\n")[0]
    stops = finished.replace(b'": "', b'":"').count(b'"finish_reason":"stop"')
    try:
        out, _ = received([short], count, usage=True, token_ids=False)
    except StreamBroken:
        assert stops < count
    else:
        assert stops == count
        assert out.endswith(DONE)
