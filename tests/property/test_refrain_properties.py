"""A stream whose chunks are alike is handed on and counted as if each of them had been read."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.events import StreamReceiver
from gateway.openai.refrain import Refrain

plain = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), min_size=1)
odd = st.sampled_from(
    ["", '"', "\\", "\n", "é", "😀", "\x7f", '"content":"', '"token_ids":[7]', "[DONE]", '"usage"', "data: "]
)
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up"}


@st.composite
def chunks(draw: st.DrawFn) -> list[bytes]:
    """Give events of one stream, most of them like the ones before."""
    chat, ids = draw(st.booleans()), draw(st.booleans())
    return [draw(chunk(chat, ids)) for _ in range(draw(st.integers(1, 12)))]


@st.composite
def chunk(draw: st.DrawFn, chat: bool, ids: bool) -> bytes:
    text = draw(st.one_of(plain, plain, plain, odd))
    said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    choice: dict[str, Any] = {"index": 0, **said, "logprobs": None, "finish_reason": None}
    if ids and draw(st.integers(0, 5)):
        choice["token_ids"] = draw(st.sampled_from([[5], [5], [12345], [], [1, 2]]))
    body: dict[str, Any] = {**HEAD, "choices": [choice]}
    match draw(st.integers(0, 12)):
        case 0:
            choice["index"] = 1
        case 1:
            choice["logprobs"] = {"content": []}
        case 2:
            choice["finish_reason"] = "stop"
        case 3:
            body["created"] = 2
        case 4:
            body["prompt_token_ids"] = [1, 2, 3]
        case 5:
            body["choices"] = [choice, {**choice, "index": 1}]
        case 6:
            said.setdefault("delta", {})["reasoning"] = "hm"
        case _:
            pass
    event = "data: " + json.dumps(body, ensure_ascii=draw(st.booleans()), separators=(",", ":")) + "\n\n"
    return event.encode()


def receiver(shows_ids: bool) -> StreamReceiver:
    return StreamReceiver(
        "ours", choices=2, include_usage=True, token_ids=shows_ids, keep_bytes=0, cost_usd=lambda _: 0.0
    )


@given(chunks(), st.booleans())
def test_events_one_by_one_and_in_two_pieces_each(events: list[bytes], shows_ids: bool) -> None:
    quick, slow = receiver(shows_ids), receiver(shows_ids)
    for event in events:
        given_quickly = quick.feed(event)
        given_slowly = slow.feed(event[:9]) + slow.feed(event[9:])  # what was held back is always read
        assert given_quickly == given_slowly
        assert quick.usage(4) == slow.usage(4)
    assert quick.complete == slow.complete
    assert quick.finish_reasons == slow.finish_reasons


def like(text: str, token: int | None = None, **rest: Any) -> bytes:
    ids = {} if token is None else {"token_ids": [token]}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None, **ids, **rest}
    return ("data: " + json.dumps({**HEAD, "choices": [choice]}, separators=(",", ":")) + "\n\n").encode()


def learned(first: bytes) -> Refrain:
    stream = receiver(False)
    stream.feed(first)
    assert stream._refrain is not None
    return stream._refrain


def test_what_is_like_it_and_what_is_not() -> None:
    sung = learned(like("one", 1)).sung
    again = sung(like("two and more", 23))
    assert again == (like("two and more", 23).replace(b'"up"', b'"ours"').replace(b"[23]", b"null"), 12)
    for other in (
        like("é", 2),
        like('a"b', 2),
        like("a\\b", 2),
        like("", 2),
        like("two"),
        like("two", 2).replace(b"[2]", b"[2,3]"),
        like("two", 2).replace(b"[2]", b"[]"),
        like("two", 2, finish_reason="stop"),
        like("two", 2)[:-1],
        like("two", 2) + like("three", 3),
    ):
        assert sung(other) is None, other


def test_a_server_that_gives_ids_now_and_then() -> None:
    stream = receiver(False)
    for event in (like("é", 1), like("two"), like("three"), like("four", 4)):
        assert stream.feed(event)
    assert stream.usage(4)[0].completion_tokens == 4
