"""Bodies of requests: what is refused and how, what is read, and how a body goes on to the upstream."""

import json

import msgspec
import pytest

from gateway.errors import InvalidRequest, error_body
from gateway.openai.schemas import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Endpoint,
    canonical,
    last_turn,
    parse,
    upstream_body,
)
from routing.prefixes import marks

OK = '"model": "m", "messages": [{"role": "user", "content": "hi"}]'


def chat(extra: str = "") -> bytes:
    return ("{" + OK + extra + "}").encode()


def refusal(body: bytes, endpoint: Endpoint = CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(endpoint, body)
    error_body(caught.value)  # can be rendered
    return caught.value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"model": "m",}', "byte 14"),
        (b'{"model": "m" "n": 1}', "byte 14"),
        (b"hello", "byte 0"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"12", "must be a JSON object"),
        (chat() + b"x", "byte"),
        (b"\xff" + chat(), "UTF-8 (byte 0)"),
        (chat(', "unknown": "~"').replace(b"~", b"a\xffb"), "UTF-8 (byte"),
        (chat(', "unknown": ' + "[" * 100_000), "nested too deeply"),
        (chat(', "unknown": ' + '{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
        (b'{"messages": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"model": "\\ud800", "messages": []}', "not valid JSON"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_body_that_is_no_json_object_is_refused_with_the_place(body: bytes, words: str) -> None:
    error = refusal(body)
    assert error.param is None
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"messages": []}', "model"),
        (b'{"model": 1, "messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": "hi"}', "messages"),
        (b'{"model": "m", "messages": ["hi"]}', "messages[0]"),
        (b'{"model": "m", "messages": [{"content": "hi"}]}', "messages[0].role"),
        (b'{"model": "m", "messages": [{"role": "user", "content": 1}]}', "messages[0].content"),
        (b'{"model": "m", "messages": [{"role": "user"}, {"role": 2}]}', "messages[1].role"),
        (chat(', "max_tokens": "many"'), "max_tokens"),
        (chat(', "max_tokens": 1.5'), "max_tokens"),
        (chat(', "max_tokens": ' + "9" * 5000), "max_tokens"),
        (chat(', "temperature": "hot"'), "temperature"),
        (chat(', "temperature": 1e999'), "temperature"),
        (chat(', "n": []'), "n"),
        (chat(', "stream": "yes"'), "stream"),
        (chat(', "stream_options": 3'), "stream_options"),
        (chat(', "stream_options": {"include_usage": "yes"}'), "stream_options.include_usage"),
    ],
    ids=lambda value: repr(value)[-48:],
)
def test_a_wrong_or_missing_member_is_named(body: bytes, param: str) -> None:
    error = refusal(body)
    assert error.param == param
    assert param in error.message
    assert "$" not in error.message
    assert "`" not in error.message


def test_the_other_endpoints_name_their_members_too() -> None:
    assert refusal(b'{"model": "m"}', COMPLETIONS).param == "prompt"
    assert refusal(b'{"model": "m", "prompt": 1}', COMPLETIONS).param == "prompt"
    assert refusal(b'{"model": "m"}', EMBEDDINGS).param == "input"
    wrong = refusal(b'{"model": "m", "input": "a", "encoding_format": "hex"}', EMBEDDINGS)
    assert wrong.param == "encoding_format"


def test_what_the_gateway_reads() -> None:
    request = parse(
        CHAT,
        chat(
            ', "stream": true, "n": 2, "max_tokens": 7, "stream_options": {"include_usage": true},'
            ' "return_token_ids": true'
        ),
    )
    assert (request.model, request.stream, request.include_usage, request.wants_token_ids) == (
        "m", True, True, True,
    )  # fmt: skip
    assert (request.choices, request.output_tokens_estimate) == (2, 14)
    assert not parse(CHAT, chat(', "stream": null, "stream_options": null')).include_usage
    assert parse(CHAT, chat(', "max_tokens": 7, "max_completion_tokens": 9')).output_tokens_estimate == 9
    assert parse(CHAT, chat(', "max_tokens": -7')).output_tokens_estimate == 0
    assert parse(CHAT, chat(', "n": -7')).choices == 1
    assert parse(CHAT, chat(', "max_tokens": ' + "9" * 400)).output_tokens_estimate == int("9" * 400)


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [('"a"', 1), ('["a", "b"]', 2), ("[1, 2, 3]", 1), ("[[1, 2], [3]]", 2), ("[]", 1)],
)
def test_every_prompt_of_a_completion_has_its_choices(prompt: str, choices: int) -> None:
    body = f'{{"model": "m", "prompt": {prompt}, "n": 2}}'.encode()
    assert parse(COMPLETIONS, body).choices == 2 * choices


def test_embeddings_have_no_choices_and_no_output() -> None:
    request = parse(EMBEDDINGS, b'{"model": "m", "input": ["a", "b"], "stream": true}')
    assert (request.choices, request.output_tokens_estimate, request.stream) == (0, 0, False)


def test_of_members_named_twice_the_last_counts_here_and_upstream() -> None:
    request = parse(CHAT, chat(', "max_tokens": 1, "model": "other", "max_tokens": 2'))
    assert request.model == "other"
    assert request.output_tokens_estimate == 2
    sent = upstream_body(request, "up", token_ids=False)
    assert sent.count(b'"max_tokens"') == 1
    assert json.loads(sent)["max_tokens"] == 2


def test_a_body_goes_on_as_it_came_but_for_the_model() -> None:
    extra = ', "seed": 1.50, "x":  {"b" : 1e3 , "a":"\\u00e9"}, "big": 123456789012345678901234567890'
    sent = upstream_body(parse(CHAT, chat(extra)), "served name", token_ids=True)
    assert sent == (
        b'{"model":"served name","messages":[{"role": "user", "content": "hi"}],"seed":1.50,'
        b'"x":{"b" : 1e3 , "a":"\\u00e9"},"big":123456789012345678901234567890}'
    )


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("", b'{"include_usage":true}'),
        (', "stream_options": null', b'{"include_usage":true}'),
        (', "stream_options": {"include_usage": false}', b'{"include_usage":true}'),
        (', "stream_options": {"continuous_usage_stats": true, "x": 1e999}',
         b'{"continuous_usage_stats":true,"x":1e999,"include_usage":true}'),
    ],
)  # fmt: skip
def test_a_stream_always_asks_for_usage_and_keeps_the_other_options(asked: str, sent: bytes) -> None:
    request = parse(CHAT, chat(', "stream": true' + asked))
    fields = msgspec.json.decode(upstream_body(request, "up", token_ids=False), type=dict[str, msgspec.Raw])
    assert bytes(fields["stream_options"]) == sent
    assert "return_token_ids" not in fields
    assert b'"return_token_ids":true' in upstream_body(request, "up", token_ids=True)


def test_a_buffered_request_gets_nothing_added() -> None:
    assert b"stream_options" not in upstream_body(parse(CHAT, chat()), "up", token_ids=True)


# ---------------------------------------------------------------- the canonical form
BASE = chat(', "temperature": 0.5, "stop": ["a", "b"], "x": {"a": 1, "b": [1, 2]}')


@pytest.mark.parametrize(
    "body",
    [
        b'{ "x" : {"b":[1,2], "a":1}, "stop":["a","b"],"temperature":0.5,'
        b'"messages":[{"content":"h\\u0069","role":"user"}],"model":"m"}',
        BASE[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}',
        BASE[:-1] + b', "user": "me", "metadata": {"a": "b"}, "safety_identifier": "s"}',
        BASE.replace(b'"m"', b'"another"'),
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_key(body: bytes) -> None:
    assert canonical(parse(CHAT, body)) == canonical(parse(CHAT, BASE))


@pytest.mark.parametrize(
    "body",
    [
        BASE.replace(b"hi", b"Hi"),
        BASE.replace(b"0.5", b"0.6"),
        BASE.replace(b'["a", "b"]', b'["b", "a"]'),
        BASE.replace(b"[1, 2]", b"[2, 1]"),
        BASE.replace(b'"user"', b'"system"'),
        BASE[:-1] + b', "seed": 1}',
        BASE[:-1] + b', "n": 2}',
        BASE[:-1] + b', "max_tokens": 5}',
        BASE[:-1] + b', "return_token_ids": true}',
        BASE[:-1] + b', "y": 1e999}',
        BASE[:-1] + b', "y": 1e998}',
        BASE[:-1] + b', "y": null}',
    ],
)
def test_what_may_change_the_answer_changes_the_key(body: bytes) -> None:
    assert body != BASE
    assert canonical(parse(CHAT, body)) != canonical(parse(CHAT, BASE))


def test_numbers_that_only_the_upstream_can_judge_are_told_apart() -> None:
    bodies = [b"1e999", b"1e998", b"9" * 5000, b"9" * 5001]
    keys = {canonical(parse(CHAT, chat(', "y": ' + one.decode()))) for one in bodies}
    assert len(keys) == len(bodies)


def test_the_endpoint_is_part_of_the_key() -> None:
    body = b'{"model": "m", "prompt": "a", "messages": [{"role": "user"}], "input": "a"}'
    assert len({canonical(parse(one, body)) for one in (CHAT, COMPLETIONS, EMBEDDINGS)}) == 3


def test_whatever_depth_is_taken_can_also_be_keyed() -> None:
    """No depth of nesting passes the parser and then breaks what comes after it."""
    taken = 0
    for depth in range(1, 1100, 3):
        try:
            request = parse(CHAT, chat(', "x": ' + "[" * depth + "]" * depth))
            canonical(request)
            upstream_body(request, "up", token_ids=True)
        except InvalidRequest:
            continue
        taken = depth
    assert taken > 100


def test_token_ids_are_not_asked_for_where_an_echo_would_be_lost() -> None:
    request = parse(COMPLETIONS, b'{"model": "m", "prompt": "a", "stream": true, "echo": true}')
    assert b"return_token_ids" not in upstream_body(request, "up", token_ids=True)
    plain = parse(COMPLETIONS, b'{"model": "m", "prompt": "a", "stream": true, "echo": false}')
    assert b'"return_token_ids":true' in upstream_body(plain, "up", token_ids=True)


@pytest.mark.parametrize(("asked", "sent"), [(-5, 0), (0, 0), (7, 7), (None, None)])
def test_a_client_cannot_push_itself_forward(asked: int | None, sent: int | None) -> None:
    body = upstream_body(parse(CHAT, chat(f', "priority": {json.dumps(asked)}')), "up", token_ids=True)
    assert json.loads(body)["priority"] == sent
    assert refusal(chat(', "priority": "-5"')).param == "priority"


def test_an_engine_that_takes_a_priority_gets_the_gateways() -> None:
    for asked in (', "priority": -5', ""):
        body = upstream_body(parse(CHAT, chat(asked)), "up", token_ids=False, priority=107)
        assert json.loads(body)["priority"] == 107


def test_a_tenants_prefixes_are_salted_and_nobody_can_take_anothers_salt() -> None:
    def salt(tenant: str | None, own: str = "") -> object:
        sent = upstream_body(parse(CHAT, chat(own)), "up", token_ids=False, tenant=tenant)
        return json.loads(sent).get("cache_salt")

    assert salt(None) is None
    assert salt(None, ', "cache_salt": "x"') == "x"
    first = salt("a/b")
    assert first == salt("a/b") == salt("a/b", ', "cache_salt": null')
    taken = salt("a/c", f', "cache_salt": "{first}"')
    assert len({first, taken, salt("a/c"), salt("a/b", ', "cache_salt": "x"'), "x"}) == 5
    for wrong in ('""', "5", "[]"):  # the engine refuses it, as it would without a gateway
        assert salt("a/b", f', "cache_salt": {wrong}') == json.loads(wrong)


def test_a_prompt_is_marked_by_its_bytes_its_tools_and_its_tenant() -> None:
    def marked(body: bytes, tenant: str = "t") -> tuple[bytes, ...]:
        return marks(*parse(CHAT, body).prompt_and_salt(tenant))

    system = "You are helpful. " * 50
    one, two = (
        json.dumps({"model": "m", "messages": [{"role": "system", "content": system + text}]}).encode()
        for text in ("a" * 900, "b" * 900)
    )
    assert 0 < sum(mine == its for mine, its in zip(marked(one), marked(two), strict=True)) < len(marked(one))
    assert not set(marked(one)) & set(marked(one, "u"))
    tools = one[:-1] + b', "tools": [{"type": "function"}]}'
    assert not set(marked(one)) & set(marked(tools))
    text = parse(COMPLETIONS, json.dumps({"model": "m", "prompt": "p" * 300}).encode())
    assert len(marks(*text.prompt_and_salt("t"))) == 1


PARTS = (
    b'[{"type": "text", "text": "the first"}, {"type": "image_url", "image_url": {"url": "x"}}, 1,'
    b' {"type": "text", "text": "the second"}, {"type": "text", "text": 2}]'
)


@pytest.mark.parametrize(
    ("endpoint", "member", "value", "turn"),
    [
        (
            CHAT,
            b"messages",
            b'[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]',
            "a",
        ),
        (CHAT, b"messages", b'[{"role": "user", "content": %s}]' % PARTS, "the first the second"),
        (CHAT, b"messages", b'[{"role": "user"}]', ""),
        (CHAT, b"messages", b'[{"role": "system", "content": "a"}]', ""),
        (COMPLETIONS, b"prompt", b'"the words"', "the words"),
        (COMPLETIONS, b"prompt", b'["the words", "and more"]', "the words and more"),
        (COMPLETIONS, b"prompt", b"[1, 2, 3]", ""),
        (EMBEDDINGS, b"input", b'"the words"', ""),
    ],
)
def test_the_last_turn_is_read_from_every_shape(
    endpoint: Endpoint, member: bytes, value: bytes, turn: str
) -> None:
    assert last_turn(parse(endpoint, b'{"model": "m", "%s": %s}' % (member, value))) == turn
