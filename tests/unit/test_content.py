"""What a trace shows of prompts and answers: the messages as they were, without secrets, cut to size."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import semconv as names
from gateway.config_file import parse
from gateway.content import OVERLAP_CHARS, RAW_FACTOR, Content, Rules
from gateway.passage import Passage
from gateway.settings import ConfigError, ContentSettings
from gateway.telemetry import Telemetry
from gateway.tracecontext import sampler_from
from gateway.tracing import CONTENT_BYTES, Tracing

SECRETS = (
    "jane.doe+x@mail.example.co.uk",
    "4111 1111 1111 1111",
    "+49 (0)151 2345-6789",
    "555-123-4567",
    "DE89 3704 0044 0532 0130 00",
    "sk-sg-abcdefghijklm1234",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_aaaaaaaaaaaaaaaaaaaa",
    "eyJhbGciOiJI.eyJzdWIiOiI.abc_d-e",
    "Bearer abcdefgh.ijk",
    "password = hunter22",
    '"api_key": "zzz123456"',
    "0123456789abcdef0123456789abcdef",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    "ACME-4711",
)


def rules(max_chars: int = 8192) -> Rules:
    return Rules(ContentSettings(tenants=("acme", "beta/web"), max_chars=max_chars, redact=(r"ACME-\d+",)))


def shown(asked: object, *pieces: bytes, max_chars: int = 8192) -> dict[str, Any]:
    content = Content(rules(max_chars), json.dumps(asked).encode())
    for piece in pieces:
        content.note(piece)
    return {
        name: json.loads(value) if isinstance(value, str) else value for name, value in content.attributes()
    }


def _plain(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}


def chunk(index: int = 0, finish: str | None = None, **delta: object) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_nowhere_to_be_seen(secret: str) -> None:
    half = len(secret) // 2
    asked = {"messages": [{"role": "user", "content": f"Note this, {secret}, and no more"}]}
    pieces = [chunk(content=f"You said, {secret[:half]}"), chunk(content=f"{secret[half:]}, I think")]
    said = json.dumps(shown(asked, *pieces))
    assert secret not in said
    for number in secret.split()[-1:]:
        assert number.strip('"') not in said
    assert "Note this" in said
    assert "I think" in said


def test_what_is_no_secret_is_left_alone() -> None:
    plain = "On 2026-11-23 we sold 12,345 of 1000000 at 3.14 each: 4 tokens; see section 12.4.1."
    assert rules().redacted(plain) == plain


@given(st.text(max_size=200), st.sampled_from(SECRETS), st.integers(1, 300))
def test_a_cut_leaves_no_half_of_a_secret(before: str, secret: str, room: int) -> None:
    """What stands before and behind it may make it longer, never shorter."""
    text = f"{before} {secret} " + "x " * OVERLAP_CHARS
    said, whole = rules().shown(text, room)
    assert len(said) <= room
    assert not whole
    assert secret not in said


def test_messages_have_the_shape_of_the_conventions() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    asked = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "22 C"},
        ]
    }  # fmt: skip
    message = {"role": "assistant", "content": "Warm."}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    said = shown(asked, json.dumps(answer).encode())
    shape = {"type": "tool_call", "id": "c1"}
    assert said == {
        names.INPUT_MESSAGES: [
            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
            {"role": "user", "parts": [_plain("Look"), {"type": "blob", "modality": "other"}]},
            {"role": "assistant", "parts": [{**shape, "name": "weather", "arguments": '{"city":"Rome"}'}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "22 C"}]},
        ],
        names.OUTPUT_MESSAGES: [
            {"role": "assistant", "parts": [{"type": "text", "content": "Warm."}], "finish_reason": "stop"}
        ],
    }  # fmt: skip


def test_a_stream_is_put_together_whatever_its_pieces() -> None:
    tool = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    stream = b"".join([
        chunk(content="He"), chunk(1, content="Other"), chunk(content="llo"), chunk(1, tool_calls=[tool]),
        chunk(1, tool_calls=[more]), chunk(finish="stop"), chunk(1, finish="tool_calls"), b"data: [DONE]\n\n",
    ])  # fmt: skip
    asked = {"prompt": "Once"}
    whole = shown(asked, stream)
    assert whole == shown(asked, *[stream[at : at + 7] for at in range(0, len(stream), 7)])
    first, second = whole[names.OUTPUT_MESSAGES]
    assert first == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Hello"}],
        "finish_reason": "stop",
    }
    assert second["parts"][1] == {"type": "tool_call", "id": "c1", "name": "f", "arguments": '{"a":1}'}
    assert whole[names.INPUT_MESSAGES] == [{"role": "user", "parts": [{"type": "text", "content": "Once"}]}]


def test_the_newest_is_kept_where_there_is_no_room_for_all() -> None:
    asked = {"messages": [{"role": "user", "content": f"word{n} " * 9} for n in range(40)]}
    said = shown(asked, max_chars=100)
    assert said[names.CONTENT_CUT] is True
    texts = [one["parts"][0]["content"] for one in said[names.INPUT_MESSAGES]]
    assert [text.split()[0] for text in texts] == ["word38", "word39"]


def test_what_is_too_long_or_no_json_is_left_out() -> None:
    assert shown({"messages": [{"role": "user", "content": "x" * 11 * RAW_FACTOR}]}, max_chars=10) == {
        names.CONTENT_CUT: True
    }
    content = Content(rules(10), b"\xff{")
    for _ in range(100):
        content.note(b"y" * RAW_FACTOR)
    assert content.size_bytes <= 20 * RAW_FACTOR
    assert content.attributes() == [(names.CONTENT_CUT, True)]


def test_only_tenants_that_are_named_are_noted() -> None:
    wanted = rules().wanted
    asked = [("acme", "any"), ("beta", "web"), ("beta", "shop"), ("gamma", "web")]
    assert [wanted(*one) for one in asked] == [True, True, False, False]


@pytest.mark.parametrize(
    ("pattern", "said"), [("(", "no regular expression"), ("x*", "matches nothing at all")]
)
def test_a_rule_that_cannot_be_meant_is_refused_at_the_start(pattern: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(f"[tracing.content]\ntenants = ['acme']\nredact = ['{pattern}']\n", "t.toml")


def test_what_takes_too_long_to_redact_is_left_out() -> None:
    """An operator's pattern, and a text made for it: minutes, if nobody looked at the clock."""
    slow = Rules(ContentSettings(tenants=("acme",), redact=(r"(?:a|aa)+[XY]",)))
    asked = [{"role": "user", "content": text} for text in ("b", "a" * 200, "c", "d")]
    content = Content(slow, json.dumps({"messages": asked}).encode())
    (name, said), cut = content.attributes()
    assert cut == (names.CONTENT_CUT, True)
    texts = [one["parts"][0]["content"] for one in json.loads(str(said))]
    assert (name, texts) == (names.INPUT_MESSAGES, ["c", "d"]), "neither it, nor what came before it"


class Nowhere:
    """An exporter that takes everything."""

    def send(self, data: bytes) -> bool:
        return bool(data)

    def shutdown(self) -> None:
        return


def test_content_that_waits_for_its_export_is_bounded() -> None:
    clocks = (lambda: 1.0, lambda: 1.0)
    tracing = Tracing(Nowhere(), {}, sampler_from({}), Telemetry(), clocks)
    settings = ContentSettings(tenants=("acme",), max_chars=65536)
    body = b"x" * RAW_FACTOR * settings.max_chars
    passages = []
    for number in range(CONTENT_BYTES // len(body) + 3):
        passage = Passage(f"r{number}", "chat", 1.0, trace=tracing.begin({}))
        passage.content = Content(Rules(settings), body)
        tracing.offer([passage])
        passages.append(passage)
    kept = [passage.content is not None for passage in passages]
    assert kept == [True] * (CONTENT_BYTES // len(body)) + [False] * 3
