"""Whole answers: received, made of a stream, turned into one, renewed."""

import json
from typing import Any

import msgspec
import pytest

from gateway.openai.answers import WholeReceiver, from_stream, renewed, to_events, to_stream
from gateway.openai.events import DONE, StreamBroken, StreamReceiver, payloads
from gateway.openai.usage import Usage

USAGE = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "up"}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def choice(index: int = 0, **message: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "Hé\n", **message},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }


ANSWERS: dict[str, dict[str, Any]] = {
    "content": {**HEAD, "choices": [choice()], "usage": USAGE},
    "empty": {**HEAD, "choices": [choice(content="")], "usage": USAGE},
    "reasoning": {**HEAD, "choices": [choice(reasoning_content="hm")], "usage": USAGE},
    "tools": {**HEAD, "choices": [{**choice(content=None, tool_calls=CALLS), "finish_reason": "tool_calls"}],
              "usage": USAGE},
    "logprobs": {**HEAD, "choices": [{**choice(), "logprobs": LOGPROBS}], "usage": USAGE},
    "n": {**HEAD, "choices": [choice(), choice(1, content="second")], "usage": USAGE},
    "token ids": {**HEAD, "choices": [{**choice(), "token_ids": [1, 2]}], "usage": USAGE,
                  "prompt_token_ids": [3, 4]},
    "text": {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": "up", "usage": USAGE,
             "choices": [{"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"},
                         {"index": 1, "text": "d", "logprobs": {"tokens": ["d"], "token_logprobs": [-1.5]},
                          "finish_reason": "stop"}]},
}  # fmt: skip


def encoded(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_survives_its_way_through_a_stream(name: str) -> None:
    answer = ANSWERS[name]
    stream = to_stream(encoded(answer), include_usage=True, cost_usd=lambda _: 0.5)
    assert json.loads(from_stream(stream)) == answer


@pytest.mark.parametrize("name", ANSWERS)
def test_the_stream_of_an_answer_is_a_whole_stream(name: str) -> None:
    answer = ANSWERS[name]
    stream = to_stream(encoded(answer), include_usage=True, cost_usd=lambda used: used.completion_tokens / 8)
    one = StreamReceiver(
        "m", choices=len(answer["choices"]), include_usage=True, token_ids=True, keep_bytes=0,
        cost_usd=lambda _: 0.0,
    )  # fmt: skip
    out = one.feed(stream) + one.finish()
    assert one.usage(1) == (Usage(5, 4), False)
    assert out.endswith(DONE)
    last = payloads(stream)[-1]
    assert (last["choices"], last["usage"]) == ([], {**USAGE, "cost": 0.5})
    objects = {chunk["object"] for chunk in payloads(stream)}
    assert objects == {"text_completion" if name == "text" else "chat.completion.chunk"}


def test_a_stream_without_asked_usage_has_none() -> None:
    stream = to_stream(encoded(ANSWERS["content"]), include_usage=False, cost_usd=lambda _: 0.5)
    assert b"usage" not in stream
    assert stream.endswith(DONE)


def test_the_answer_of_a_stream_in_many_pieces() -> None:
    def chunk(delta: dict[str, Any], **rest: Any) -> bytes:
        body = {**HEAD, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **rest}]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    stream = b"".join(
        [
            chunk({"role": "assistant", "content": ""}, logprobs=None, finish_reason=None),
            chunk({"content": "a"}, logprobs={"content": [1]}, token_ids=[1], stop_reason=None),
            chunk({"content": "b"}, logprobs={"content": [2, 3]}, token_ids=[2, 3]),
            chunk({"tool_calls": [call]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
            chunk({}, logprobs=None, finish_reason="stop"),
            b'data: {"choices": [], "usage": {"prompt_tokens": 1, "cost": 0.5}}\n\n',
            DONE,
        ]
    )
    whole = json.loads(from_stream(stream))
    call["function"] = {"name": "f", "arguments": '{"x": 1}'}
    del call["index"]
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "ab", "tool_calls": [call]},
            "logprobs": {"content": [1, 2, 3]},
            "finish_reason": "stop",
            "token_ids": [1, 2, 3],
            "stop_reason": None,
        }
    ]
    assert whole["usage"] == {"prompt_tokens": 1}
    assert whole["object"] == "chat.completion"


def test_token_ids_that_were_taken_out_stay_null() -> None:
    stream = b'data: {"choices": [{"index": 0, "text": "a", "token_ids": null}]}\n\n'
    whole = json.loads(from_stream(stream + stream))
    assert whole["choices"] == [{"index": 0, "text": "aa", "token_ids": None}]


def test_a_stored_answer_becomes_a_response_of_its_own() -> None:
    whole = json.loads(renewed(encoded(ANSWERS["content"]), "req_9", 99))
    assert (whole["id"], whole["created"]) == ("chatcmpl-req_9", 99)
    assert {**whole, "id": "chatcmpl-1", "created": 7} == ANSWERS["content"]
    odd = {"id": 'chat"cmpl-1', "nested": {"created": 3}, "created": 7.5, "choices": []}
    assert json.loads(renewed(encoded(odd), "req_9", 99)) == {**odd, "id": 'chat"cmpl-req_9', "created": 99}
    embeddings = {"object": "list", "data": [], "model": "embed"}
    assert json.loads(renewed(encoded(embeddings), "req_9", 99)) == embeddings


# ---------------------------------------------------------------- received from an upstream
def test_a_buffered_answer_goes_on_as_it_came_but_for_the_model() -> None:
    one = WholeReceiver("small", limit_bytes=10_000)
    body = encoded(ANSWERS["content"])
    assert one.feed(body[:30]) == b""
    assert one.usage(9) == (Usage(), False)
    assert one.feed(body[30:]) == b""
    assert one.finish() == body.replace(b'"model": "up"', b'"model":"small"')
    assert one.usage(9) == (Usage(5, 4), False)
    assert one.finish_reasons == ["stop"]


def test_text_that_looks_like_a_model_is_not_touched() -> None:
    answer = {"choices": [choice(content='"model":"x"')], **HEAD}
    one = WholeReceiver("small", limit_bytes=10_000)
    one.feed(encoded(answer))
    assert json.loads(one.finish()) == {**answer, "model": "small"}


def test_tokens_are_estimated_where_an_upstream_gives_no_usage() -> None:
    one = WholeReceiver("small", limit_bytes=10_000)
    one.feed(encoded({**HEAD, "choices": [choice(content="12345678")]}))
    one.finish()
    assert one.usage(9) == (Usage(9, 3), True)
    one.begin()
    assert one.usage(9) == (Usage(), False)
    one.feed(encoded({"choices": [{"index": 0, "text": "1234", "finish_reason": None}]}))
    one.finish()
    assert one.usage(9) == (Usage(9, 2), True)
    assert one.finish_reasons == [""]


@pytest.mark.parametrize("usage", [7, [], {"prompt_tokens": "x"}, {"prompt_tokens_details": 1}], ids=str)
def test_nonsense_for_usage_is_none(usage: object) -> None:
    one = WholeReceiver("small", limit_bytes=10_000)
    one.feed(encoded({**HEAD, "choices": [choice(content="12345678")], "usage": usage}))
    one.finish()
    assert one.usage(9) == (Usage(9, 3), True)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[1]", b"null", b"{", b'{"choices": 1}', b'{"choices": 1, "usage": 7}',
             b'{"error": {"message": "died", "code": 500}}',
             b'{"choices": [{"message": {"content": "\xff"}}]}',
             b"[" * 100_000],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_what_is_no_answer_breaks(body: bytes) -> None:
    one = WholeReceiver("small", limit_bytes=1_000_000)
    one.feed(body)
    with pytest.raises(StreamBroken):
        one.finish()
    assert one.usage(9) == (Usage(), False)


def test_an_answer_over_the_limit_breaks_while_it_comes() -> None:
    one = WholeReceiver("small", limit_bytes=10)
    one.feed(b"1234567890")
    with pytest.raises(StreamBroken, match="over 10 bytes"):
        one.feed(b"1")


def test_a_models_name_with_a_backslash_is_taken_literally() -> None:
    one = WholeReceiver("a\\1b", limit_bytes=10_000)
    one.feed(b'{"model": "up", "choices": []}')
    assert msgspec.json.decode(one.finish())["model"] == "a\\1b"


def test_a_paced_answer_comes_by_words_or_by_its_tokens() -> None:
    message = {"role": "assistant", "content": "Two words here. "}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole: dict[str, Any] = {"id": "x-1", "object": "chat.completion", "created": 1, "model": "m"}

    def contents(answer: dict[str, Any]) -> list[str]:
        events = to_events(encoded(answer), include_usage=False, cost_usd=lambda _: 0.0, by_words=True)
        assert events[-1] == b"data: [DONE]\n\n"
        chunks = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events[:-1]]
        deltas = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
        return [one for one in deltas if one]

    assert contents({**whole, "choices": [choice]}) == ["Two", " words", " here.", " "]
    tokens = [{"token": one, "logprob": -0.1} for one in ("Two w", "ords here", ". ")]
    told = {**choice, "logprobs": {"content": tokens}}
    assert contents({**whole, "choices": [told]}) == ["Two w", "ords here", ". "]
