"""One completion stream, event by event: what goes on unchanged, what is changed, what breaks it."""

import json

import pytest

from gateway.openai.events import EVENT_LIMIT_BYTES, StreamBroken, StreamReceiver
from gateway.openai.usage import Usage

USAGE = '"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":3}}'
ROLE = '{"id":"c1","model":"up","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'
A = '{"id":"c1","model":"up","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
STOP = '{"id":"c1","model":"up","choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}'
LAST = '{"id":"c1","model":"up","choices":[],' + USAGE + "}"


def receiver(
    *, choices: int = 1, usage: bool = False, token_ids: bool = False, keep_bytes: int = 0
) -> StreamReceiver:
    return StreamReceiver(
        "small",
        choices=choices,
        include_usage=usage,
        token_ids=token_ids,
        keep_bytes=keep_bytes,
        cost_usd=lambda used: used.completion_tokens / 8,
    )


def sse(*payloads: str, end: str = "\n\n") -> bytes:
    return "".join(f"data: {one}{end}" for one in payloads).encode()


def renamed(*payloads: str) -> bytes:
    return sse(*payloads).replace(b'"up"', b'"small"')


def test_a_stream_goes_on_as_it_came_but_for_the_model() -> None:
    one = receiver()
    assert one.feed(sse(ROLE, A)) == renamed(ROLE, A)
    assert one.usage(9) == (Usage(9, 1), True)
    assert one.feed(sse(STOP)) == renamed(STOP)
    assert (one.complete, one.done) == (True, False)
    assert one.feed(sse("[DONE]")) == b""
    assert (one.complete, one.done) == (True, True)
    assert one.finish() == b"data: [DONE]\n\n"
    assert one.finish_reasons == ["stop"]


def test_usage_that_was_not_asked_for_is_metered_and_taken_out() -> None:
    one = receiver()
    nulls = A[:-1] + ',"usage":null}'
    assert one.feed(sse(nulls, STOP, LAST, "[DONE]")) == renamed(A, STOP)
    assert one.finish() == b"data: [DONE]\n\n"
    assert one.usage(9) == (Usage(5, 2, 3), False)


def test_usage_that_was_asked_for_carries_the_cost() -> None:
    one = receiver(usage=True)
    nulls = A[:-1] + ',"usage":null}'
    out = one.feed(sse(nulls, STOP, LAST, "[DONE]"))
    assert out.startswith(renamed(nulls, STOP))
    last = json.loads(out.split(b"\n\n")[2][6:])
    assert last["usage"] == {**json.loads("{" + USAGE + "}")["usage"], "cost": 0.25}
    assert last["choices"] == []


def test_usage_in_a_last_chunk_that_still_has_choices_is_read() -> None:
    """litellm#36168: the finish chunk itself carries the usage."""
    both = STOP[:-1] + "," + USAGE + "}"
    unasked = receiver()
    assert unasked.feed(sse(both)) == renamed(STOP)
    assert unasked.usage(9) == (Usage(5, 2, 3), False)
    asked = receiver(usage=True)
    assert json.loads(asked.feed(sse(both))[6:])["usage"]["cost"] == 0.25


def test_token_ids_are_counted_and_taken_out_unless_asked_for() -> None:
    chunk = (
        '{"model":"up","choices":[{"index":0,"delta":{"content":"abc"},"token_ids":[1, 2,3]}],'
        '"prompt_token_ids":[7,8]}'
    )
    one = receiver()
    out = one.feed(sse(chunk))
    assert b"[1, 2,3]" not in out
    assert b"[7,8]" not in out
    assert one.usage(99) == (Usage(2, 3), False)
    assert receiver(token_ids=True).feed(sse(chunk)) == renamed(chunk)


@pytest.mark.parametrize(
    "text",
    [
        '"token_ids":[1]',
        ',"token_ids":[1],',
        '"model":"x"',
        '"usage":{"a":1}',
        "data: [DONE]\n\n",
        "\r\n\r\n",
    ],
)
def test_text_that_looks_like_a_member_is_not_touched(text: str) -> None:
    chunk = '{"model":"up","choices":[{"index":0,"delta":{"content":' + json.dumps(text) + "}}]}"
    out = receiver().feed(sse(chunk))
    assert out == renamed(chunk)
    first = chunk.replace('{"model":"up",', "{")[:-1] + ',"model":"up"}'
    assert receiver().feed(sse(first)) == renamed(first)


@pytest.mark.parametrize("tail", [b"", sse("[DONE]"), sse(LAST, "[DONE]")], ids=["end", "done", "usage-done"])
def test_a_stream_without_its_finish_reason_never_ends_cleanly(tail: bytes) -> None:
    one = receiver()
    one.feed(sse(ROLE, A))
    with pytest.raises(StreamBroken, match="before the answer was complete"):
        one.feed(tail) + one.finish()


def test_every_choice_must_finish() -> None:
    one = receiver(choices=2)
    one.feed(sse(STOP))
    assert not one.complete
    with pytest.raises(StreamBroken):
        one.finish()
    one.feed(sse(STOP.replace('"index":0', '"index":1')))
    assert one.finish() == b"data: [DONE]\n\n"


def test_a_missing_done_is_added() -> None:
    one = receiver()
    one.feed(sse(A, STOP))
    assert one.finish() == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "event",
    ['{"error":{"message":"EngineCore died","code":500}}', '{"error":"died"}', "{", "<html>", '{"choices":1}',
     "[1]", '{"choices":[{"delta":' + "[" * 100_000, '{"choices":[],"usage":{"prompt_tokens":"x"}}'],
    ids=lambda event: event[:20],
)  # fmt: skip
def test_an_error_or_a_malformed_event_breaks_the_stream(event: str) -> None:
    one = receiver()
    one.feed(sse(A))
    with pytest.raises(StreamBroken):
        one.feed(sse(event, "[DONE]"))
    assert one.usage(9) == (Usage(9, 1), True)


def test_what_comes_together_with_the_break_and_before_it_is_not_lost() -> None:
    one = receiver()
    one.feed(sse(A))
    with pytest.raises(StreamBroken) as broken:
        one.feed(sse(A, '{"error":{"message":"died"}}', A))
    assert broken.value.before == renamed(A)
    assert one.usage(9) == (Usage(9, 2), True)


def test_bad_utf8_breaks_the_stream() -> None:
    with pytest.raises(StreamBroken):
        receiver().feed(sse(A).replace(b'"a"', b'"\xff"'))


def test_an_error_of_null_is_none() -> None:
    chunk = A[:-1] + ',"error":null}'
    assert receiver().feed(sse(chunk)) == renamed(chunk)


def test_null_tool_calls_are_no_token() -> None:
    one = receiver()
    one.feed(sse(ROLE.replace('"content":""', '"content":null,"tool_calls":null')))
    one.feed(sse(ROLE.replace('"content":""', '"content":"","tool_calls":[]')))
    assert one.delivered_tokens == 0
    one.feed(sse(ROLE.replace('"content":""', '"tool_calls":[{"index":0,"function":{"arguments":"{"}}]')))
    one.feed(sse(ROLE.replace('"content":""', '"reasoning_content":"hm"')))
    assert one.delivered_tokens == 2


def test_a_huge_event_breaks_the_stream_before_it_is_whole() -> None:
    one = receiver()
    piece = b"data: " + b"x" * (1024 * 1024)
    for _ in range(EVENT_LIMIT_BYTES // len(piece)):
        assert one.feed(piece) == b""
    with pytest.raises(StreamBroken, match="over"):
        one.feed(piece)


def test_comments_go_on_and_other_fields_are_left_behind() -> None:
    one = receiver()
    assert one.feed(b": ping\n\n") == b""  # no answer yet: another replica may still be tried
    assert one.feed(b"event: message\nid: 7\ndata: " + A.encode() + b"\n\n") == renamed(A)
    assert one.feed(b": ping\n\n") == b": ping\n\n"
    assert one.feed(b": ping\ndata: " + STOP.encode() + b"\n\n") == renamed(STOP)
    assert one.feed(b"event: end\ndata: [DONE]\n\n") == b""
    assert one.done
    assert one.feed(b"retry: 100\n\n") == b""
    assert one.feed(b"\n\n\n") == b""
    assert one.usage(1) == (Usage(1, 1), True)


def test_data_over_several_lines_is_one_event() -> None:
    lines = A.replace(',"choices"', ',\ndata: "choices"')
    out = receiver().feed(f"data:{lines}\n\n".encode())
    assert json.loads(out[6:]) == json.loads(A.replace('"up"', '"small"'))
    assert out.count(b"\n") == 2


def test_crlf_is_taken() -> None:
    assert receiver().feed(sse(A, STOP, end="\r\n\r\n")) == renamed(A, STOP)


@pytest.mark.parametrize(
    ("numbers", "usage"),
    [
        ('"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}',
         Usage(5, 2, 5)),
        ('"prompt_tokens":-5,"completion_tokens":-2', Usage(0, 0, 0)),
        ('"prompt_tokens":5,"completion_tokens":null,"prompt_tokens_details":null', Usage(5, 0, 0)),
        (f'"prompt_tokens":{10**30},"completion_tokens":{10**30}', Usage(10**9, 10**9, 0)),
    ],
    ids=["more cached than sent", "negative", "null", "huge"],
)  # fmt: skip
def test_impossible_usage_cannot_spoil_the_books(numbers: str, usage: Usage) -> None:
    one = receiver()
    one.feed(sse(STOP, '{"choices":[],"usage":{' + numbers + "}}"))
    assert one.usage(1) == (usage, False)


def test_the_answer_is_kept_up_to_the_limit() -> None:
    one = receiver(keep_bytes=10)
    kept = []
    for piece in (b"12345", b"12345", b"1", b"1"):
        one.keep(piece)
        kept.append(one.kept and list(one.kept))
    assert kept == [[b"12345"], [b"12345"] * 2, None, None]
    assert receiver().kept is None


def test_an_attempt_begins_anew() -> None:
    one = receiver()
    one.feed(sse(A, STOP, LAST) + b"data: half")
    one.begin()
    assert one.usage(1) == (Usage(), False)
    assert not one.complete
    assert one.feed(sse(A)) == renamed(A)


def test_a_chunk_that_is_there_for_its_token_ids_only_goes_to_those_who_asked_for_them() -> None:
    """vLLM sends nothing for a token whose text is held back, unless ids or logprobs are asked for."""
    hollow = (
        '{"model":"up","choices":[{"index":0,"delta":{},"logprobs":%s,"finish_reason":%s,"token_ids":[5]}]}'
    )
    one = receiver()
    assert one.feed(sse(hollow % ("null", "null"))) == b""
    assert one.usage(9) == (Usage(9, 1), True)
    assert receiver(token_ids=True).feed(sse(hollow % ("null", "null"))) == renamed(hollow % ("null", "null"))
    for said in (hollow % ('{"content":[]}', "null"), hollow % ("null", '"stop"')):
        assert receiver().feed(sse(said)) == renamed(said.replace("[5]", "null"))
