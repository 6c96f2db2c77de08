"""Whatever JSON a client sends beside what the gateway reads, it reaches the upstream unchanged."""

import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.openai.schemas import CHAT, Common, canonical, parse, upstream_body

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4)
)
READ = {*Common.__struct_fields__, "messages", "max_completion_tokens"}
extras = st.dictionaries(text.filter(lambda name: name not in READ), values, max_size=6)
MESSAGES = [{"role": "user", "content": "hi"}]


@settings(max_examples=50)
@given(extras, st.booleans(), st.booleans(), st.sampled_from([None, 2]))
def test_other_members_reach_the_upstream_byte_for_byte(
    extra: dict[str, object], ascii_only: bool, stream: bool, indent: int | None
) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": stream, **extra}
    sent = json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode()
    before = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
    onward = upstream_body(parse(CHAT, sent), "up", token_ids=stream)
    after = msgspec.json.decode(onward, type=dict[str, msgspec.Raw])
    for name in extra:
        assert bytes(after[name]) == bytes(before[name])
    added = {"stream_options", "return_token_ids"} if stream else set()
    assert set(after) == set(before) | added


@settings(max_examples=50)
@given(extras)
def test_the_key_knows_no_order_and_no_white_space(extra: dict[str, object]) -> None:
    body = {"model": "m", "messages": MESSAGES, **extra}
    turned = dict(reversed(body.items()))
    one = canonical(parse(CHAT, json.dumps(body).encode()))
    other = canonical(parse(CHAT, json.dumps(turned, indent=3, ensure_ascii=False).encode()))
    assert one == other


@settings(max_examples=50)
@given(extras, extras)
def test_different_requests_have_different_keys(one: dict[str, object], other: dict[str, object]) -> None:
    def key(extra: dict[str, object]) -> bytes:
        known = (
            "user",
            "metadata",
            "safety_identifier",
            "service_tier",
            "prompt_cache_key",
            "store",
            "priority",
        )
        content = {name: value for name, value in extra.items() if name not in (*known, "request_id")}
        return canonical(parse(CHAT, json.dumps({"model": "m", "messages": MESSAGES, **content}).encode()))

    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key(one) == key(other)) == same


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        request = parse(CHAT, body)
    except InvalidRequest:
        return
    assert isinstance(request.model, str)
