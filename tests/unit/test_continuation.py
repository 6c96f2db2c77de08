"""Which streams can be carried on, which way, and which cannot; what a way makes of the rest."""

import json
from typing import Any, ClassVar

import pytest

from backends.clients.base import Pulse
from gateway.carrying import Leg
from gateway.openai.continuation import ByIds, Mismatch, Replay
from gateway.openai.trail import Trail
from gateway.openai.ways import AGAIN, IDS, MESSAGE, Able, CannotContinue, ways
from tests.fakes.loop import now

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "model": "m"}
TEXT: dict[str, Any] = {"prompt": "hi", "model": "m"}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
VLLM, PLAIN = Able(ids=True, messages=True), Able()


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"id": "1", "object": "chat.completion.chunk", **chunk}).encode() + b"\n\n"


def trail(*words: str, ids: bool = True, choices: int = 1, **delta: Any) -> Trail:
    """Give what was delivered: some words, each a token."""
    made = Trail(choices)
    made.feed(event({"choices": [], **({"prompt_token_ids": [1, 2, 3]} if ids else {})}))
    for index in range(choices):
        for number, word in enumerate(words):
            said = {"index": index, "delta": {"content": word, **delta}, "finish_reason": None}
            made.feed(event({"choices": [{**said, **({"token_ids": [100 + number]} if ids else {})}]}))
    made.read()
    return made


@pytest.mark.parametrize(
    ("fields", "able", "expected"),
    [
        (CHAT, VLLM, [IDS, MESSAGE]),
        ({**CHAT, "temperature": 0}, VLLM, [IDS, MESSAGE, AGAIN]),
        ({**CHAT, "seed": 1, "stop": ["x"], "top_p": 0.5}, VLLM, [IDS, MESSAGE, AGAIN]),
        (TEXT, PLAIN, [MESSAGE]),
        ({**CHAT, "temperature": 0}, PLAIN, [AGAIN]),
        ({**CHAT, "response_format": SCHEMA, "temperature": 0}, VLLM, [AGAIN]),
        ({**CHAT, "response_format": SCHEMA, "seed": 4}, VLLM, [AGAIN]),
        ({**CHAT, "frequency_penalty": 0.5, "temperature": 0}, VLLM, [AGAIN]),
        ({**CHAT, "tools": [{"type": "function"}], "temperature": 0}, VLLM, [AGAIN]),
        ({**CHAT, "response_format": SCHEMA}, VLLM, None),
        ({**CHAT, "structured_outputs": {"regex": "a"}}, VLLM, None),
        ({**CHAT, "tools": [{"type": "function"}]}, VLLM, None),
        ({**CHAT, "repetition_penalty": 1.2}, VLLM, None),
        ({**CHAT, "logits_processors": []}, VLLM, None),
        ({**CHAT, "a_field_of_next_year": 1}, VLLM, None),
        (CHAT, PLAIN, None),
    ],
)
def test_the_ways_of_each_kind(fields: dict[str, Any], able: Able, expected: list[str] | None) -> None:
    said = trail("a ", "b ")
    if expected is None:
        with pytest.raises(CannotContinue):
            ways(fields, said, able)
    else:
        assert ways(fields, said, able) == expected


def test_images_and_text_without_ids_go_by_the_message() -> None:
    assert ways({**CHAT, "messages": IMAGE}, trail("a "), VLLM) == [MESSAGE]
    assert ways(CHAT, trail("a ", ids=False), VLLM) == [MESSAGE]


def test_where_nothing_was_said_everything_is_asked_again() -> None:
    assert ways({**CHAT, "response_format": SCHEMA}, trail(), VLLM) == [AGAIN]


def test_what_a_parser_has_taken_apart_is_not_plain_text() -> None:
    with pytest.raises(CannotContinue):
        ways(CHAT, trail("", reasoning="let me see"), VLLM)


def test_several_choices_go_on_by_ids_only() -> None:
    assert ways(CHAT, trail("a ", choices=2), VLLM) == [IDS]


def piece(text: str, *ids: int, reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "token_ids": ids, "finish_reason": reason}]})


def test_the_seam_is_checked() -> None:
    """Two of three ids are kept: what the third said comes again, and must be the same."""
    rest = ByIds(trail("a ", "b ", "c "), 0, 2, "c ", told=False)
    assert rest.feed(piece("c", 102)) == b""
    (said,) = [json.loads(one[6:]) for one in rest.feed(piece(" d ", 103)).split(b"\n\n") if one]
    assert said["choices"][0]["delta"] == {"content": "d "}
    with pytest.raises(Mismatch):
        ByIds(trail("a ", "b ", "c "), 0, 2, "c ", told=False).feed(piece("x ", 102))


class Spelt:
    """A reply that reads tokens as UTF-8 bytes, as the tokenizers of emoji and CJK do."""

    status = 200
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, body: bytes) -> None:
        tokens = json.loads(body)["tokens"]
        self._text = bytes(tokens).decode(errors="replace")

    async def read(self) -> bytes:
        raise NotImplementedError

    async def read_all(self, limit_bytes: int) -> bytes:
        return json.dumps({"prompt": self._text}).encode()

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("said", "delivered", "kept", "again"),
    [
        ("ok 🙂 et", "ok 🙂 et", "ok 🙂 et", ""),
        ("ok 🙂", "ok ", "ok ", ""),  # half of the character's tokens have come, none of its text
        ("ok 🙂", "ok \ufffd", "ok ", "\ufffd"),  # told as it stood, at a length
        ("漢字", "漢", "漢", ""),
        ("end STO", "end ", "end ", ""),  # held back: it may become a stop string
        ("a", "ab", "a", "b"),
    ],
)
def test_what_runs_ahead_of_the_text_is_cut_back_to_whole_characters(
    said: str, delivered: str, kept: str, again: str
) -> None:
    """A prompt that ends within a character would have vLLM tell the whole of it."""
    ids = list(said.encode())
    made = Trail(1)
    made.feed(event({"choices": [], "prompt_token_ids": list(b"hi:")}))
    ids = ids[:-1] if not said.startswith(("ok 🙂 et", "a", "end")) else ids
    delta = {"index": 0, "delta": {"content": delivered}, "finish_reason": None, "token_ids": ids}
    made.feed(event({"choices": [delta]}))
    made.read()
    asked: list[dict[str, Any]] = []

    async def ask(path: str, body: bytes, *, root: bool = False) -> Any:
        if root:
            return Spelt(body)
        asked.append(json.loads(body))
        return None

    leg = Leg("/chat/completions", json.dumps({**CHAT, "max_tokens": 50}).encode(), made, VLLM)
    now(leg.open(ask))
    (body,) = asked
    assert bytes(body["prompt"]) == b"hi:" + kept.encode()
    assert body["max_tokens"] == 50 - len(kept.encode())
    if again:
        with pytest.raises(Mismatch):
            leg.feed(piece("x", 120))


def test_what_comes_again_must_be_what_was_delivered() -> None:
    def said(text: str, number: int) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"content": text}, "token_ids": [number]}]})

    rest = Replay(trail("a ", "b "), CHAT)
    assert rest.feed(said("a ", 100)) == b""
    assert b'"content":"c"' in rest.feed(said("b c", 101))
    with pytest.raises(Mismatch):
        Replay(trail("a ", "b "), CHAT).feed(said("a x", 100))


def test_usage_is_that_of_one_answer() -> None:
    rest = ByIds(trail("a ", "b "), 0, 2, "", told=False)
    rest.feed(piece("c ", 102) + piece("", 2, reason="stop"))
    ended = rest.feed(b"data: [DONE]\n\n")
    usage = json.loads(ended.split(b"\n\n")[0][6:])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_comments_are_no_sign_of_life_however_they_are_cut(size: int) -> None:
    def beats(stream: bytes) -> bool:
        pulse = Pulse()
        return any(pulse.beats(stream[at : at + size]) for at in range(0, len(stream), size))

    assert not beats(b": keep-alive\n\n: data: no\r\n\r\n" * 5)
    assert beats(b": keep-alive\n\ndata: {}\n\n: more\n\n")
