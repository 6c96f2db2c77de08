"""Whole answers in OpenAI's dialect: received from an upstream, made of a stream, turned into one."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from gateway.openai.events import DONE, StreamBroken, payloads
from gateway.openai.usage import Usage, UsageFields, estimated_tokens, usage_fields

_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_encode = msgspec.json.Encoder().encode


class AnswerMessage(msgspec.Struct):
    """``message`` of a chat choice."""

    content: str | None = None
    refusal: Any = None


class AnswerChoice(msgspec.Struct):
    """One choice, as far as the gateway reads it."""

    finish_reason: str | None = None
    message: AnswerMessage | None = None
    text: str = ""

    @property
    def content(self) -> str:
        """The text of the choice."""
        return (self.message.content or "") if self.message else self.text


class AnswerFields(msgspec.Struct):
    """A buffered answer, as far as the gateway reads it."""

    usage: UsageFields | None = None
    choices: list[AnswerChoice] = []
    error: Any = None


# The id and the time of making, where they come first and no other object is in between.
MEMO_BYTES = 8192
_BEGINNING = re.compile(rb'\{"id":"(\w+)-[\w.-]*"([^{}]*?)"created":\d+(?=[,}])')

_decode = msgspec.json.Decoder(AnswerFields).decode


def text_of(body: bytes) -> str:
    """Give the words of a kept answer's first choice."""
    choices = _decode(body).choices
    return choices[0].content if choices else ""


def refused(body: bytes) -> bool:
    """Tell whether a model refused to answer, in any choice."""
    return any(choice.message is not None and choice.message.refusal for choice in _decode(body).choices)


_WORD = re.compile(r"\s*\S+|\s+$")
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def _read(body: bytes) -> AnswerFields:
    """Read an answer; one whose usage is nonsense is one without usage. Raises msgspec.DecodeError."""
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        if "$.usage" not in str(error):
            raise
    members = _decode_members(body)
    del members["usage"]
    return _decode(_encode(members))


class WholeReceiver:
    """Receives one buffered answer; the same seam as ``StreamReceiver``."""

    done = False  # only the end of the body says so

    def __init__(self, model: str, *, limit_bytes: int) -> None:
        self._model = b'"model":' + _encode(model).replace(b"\\", b"\\\\")
        self._limit_bytes = limit_bytes
        self.begin()

    def begin(self) -> None:
        """Reset for an attempt."""
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self.complete = False
        self.final: Usage | None = None
        self.delivered_tokens = 0
        self.finish_reasons: list[str] = []
        self.kept: list[bytes] | None = []

    def usage(self, prompt_estimate: int) -> tuple[Usage, bool]:
        """Give the tokens of the answer, and whether they are estimated; none before its end."""
        if self.final is not None:
            return self.final, False
        if not self.complete:
            return Usage(), False
        return Usage(prompt_estimate, self.delivered_tokens), True

    def feed(self, data: bytes) -> bytes:
        """Collect; raises StreamBroken over the limit."""
        self._size_bytes += len(data)
        if self._size_bytes > self._limit_bytes:
            raise StreamBroken(f"the answer is over {self._limit_bytes} bytes")
        self._pieces.append(data)
        return b""

    def finish(self) -> bytes:
        """Give the answer for the client. Raises StreamBroken where it is not an answer."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            answer = _read(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamBroken(f"the answer is not valid JSON ({error})") from None
        if answer.error:
            raise StreamBroken(f"the server reported {_encode(answer.error)[:300].decode(errors='replace')}")
        self.complete = True
        self.finish_reasons = [choice.finish_reason or "" for choice in answer.choices]
        if answer.usage is not None:
            self.final = answer.usage.usage()
        else:
            self.delivered_tokens = sum(estimated_tokens(len(choice.content)) for choice in answer.choices)
        return _MODEL.sub(self._model, body, 1)

    def keep(self, out: bytes) -> None:
        """Keep the answer for the cache."""
        if self.kept is not None:
            self.kept.append(out)


def from_stream(stream: bytes, usage: Usage | None = None) -> bytes:
    """Make the buffered answer that a complete stream amounts to; ``usage`` is for one that tells none."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in payloads(stream):
        for name, value in chunk.items():
            if name != "choices" and (name not in whole or value is not None):
                whole[name] = value
        for piece in chunk.get("choices", ()):
            _merge_choice(choices.setdefault(piece["index"], {"index": piece["index"]}), piece)
    whole["object"] = (
        "chat.completion" if whole.get("object") == "chat.completion.chunk" else whole.get("object")
    )
    if isinstance(whole.get("usage"), dict):
        whole["usage"].pop("cost", None)
    elif usage is not None:
        whole["usage"] = usage_fields(usage)
    for choice in choices.values():
        message = choice.get("message") or {}
        if message.get("tool_calls") and not message["content"]:
            message["content"] = None  # a stream says "" first, before it knows that only calls will come
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return _encode(whole)


def to_stream(body: bytes, *, include_usage: bool, cost_usd: Callable[[Usage], float]) -> bytes:
    """Make the stream that a buffered answer amounts to: role, content, finish, usage, ``[DONE]``."""
    return b"".join(to_events(body, include_usage=include_usage, cost_usd=cost_usd))


def to_events(
    body: bytes, *, include_usage: bool, cost_usd: Callable[[Usage], float], by_words: bool = False
) -> list[bytes]:
    """Give its events; ``by_words``: the content in pieces as a model writes it, about a token each."""
    whole = msgspec.json.decode(body)
    usage = whole.pop("usage", None)
    choices = whole.pop("choices", [])
    chat = whole.get("object") == "chat.completion"
    if chat:
        whole["object"] = "chat.completion.chunk"
    events = []
    for choice in choices:
        pieces = _split_chat(choice) if chat else [choice]
        if by_words and chat:
            pieces = [part for piece in pieces for part in _by_words(piece)]
        events += [_event({**whole, "choices": [piece]}) for piece in pieces]
    if include_usage and usage is not None:
        usage["cost"] = cost_usd(msgspec.convert(usage, UsageFields).usage())
        events.append(_event({**whole, "choices": [], "usage": usage}))
    return [*events, DONE]


def renewed(body: bytes, new_id: str, created_s: int) -> bytes:
    """Give a stored answer a new id and a new time of making, so that it is a response of its own."""
    plain = (_begins_of_small if len(body) <= MEMO_BYTES else _begins)(body)
    if plain is not None:  # as every engine writes it: no need to take it apart
        kind, between, end = plain
        return b'{"id":"%b-%b"%b"created":%d%b' % (kind, new_id.encode(), between, created_s, body[end:])
    whole = _decode_members(body)
    if "id" in whole:
        kind = bytes(whole["id"]).partition(b"-")[0].strip(b'"')
        whole["id"] = Raw(b'"%b-%b"' % (kind, new_id.encode()))
    if "created" in whole:
        whole["created"] = Raw(_encode(created_s))
    return _encode(whole)


def _begins(body: bytes) -> tuple[bytes, bytes, int] | None:
    """Give the kind of an answer's id, what stands between id and time, and where the time ends."""
    found = _BEGINNING.match(body)
    return None if found is None else (found[1], found[2], found.end())


_begins_of_small = lru_cache(256)(_begins)  # it is kept with its body


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


def _split_chat(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a chat choice into its first chunk (role), its content and its end."""
    message = {name: value for name, value in choice["message"].items() if value is not None}
    index = choice["index"]
    tools = [{"index": number, **call} for number, call in enumerate(message.pop("tool_calls", None) or ())]
    role = {"role": message.pop("role", "assistant"), "content": ""}
    first = {"index": index, "delta": role, "logprobs": None, "finish_reason": None}
    delta = {**message, **({"tool_calls": tools} if tools else {})}
    middle = {**first, "delta": delta, "logprobs": choice.get("logprobs")}
    rest = {name: value for name, value in choice.items() if name not in ("message", "logprobs")}
    return [first, middle, {**rest, "delta": {}, "logprobs": None}]


def _by_words(piece: dict[str, Any]) -> list[dict[str, Any]]:
    """Split the content of a chunk: by its logprobs where it has some, else by its words."""
    delta = piece["delta"]
    content = delta.get("content")
    if not content:
        return [piece]
    logprobs = piece.get("logprobs") or {}
    tokens = logprobs.get("content") or []
    words = [one["token"] for one in tokens]
    if "".join(words) != content:
        words, tokens = _WORD.findall(content), []
    rest = {name: value for name, value in delta.items() if name != "content"}
    pieces = [
        {
            **piece,
            "delta": {"content": word},
            "logprobs": {**logprobs, "content": [tokens[n]]} if tokens else None,
        }
        for n, word in enumerate(words)
    ]
    last = {**piece, "delta": rest, "logprobs": None if tokens else piece.get("logprobs")}
    return [*pieces, last] if rest or last["logprobs"] else pieces


def _merge_choice(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    for name, value in piece.items():
        if name == "delta":
            _merge_delta(choice.setdefault("message", {"role": "assistant", "content": None}), value)
        elif name == "text":
            choice["text"] = choice.get("text", "") + value
        elif name == "token_ids" and value:
            choice["token_ids"] = [*(choice.get("token_ids") or ()), *value]
        elif name == "logprobs" and isinstance(value, dict):
            _merge_lists(choice.setdefault("logprobs", {}) or {}, value, choice)
        elif name != "index" and (name not in choice or value is not None):
            choice[name] = value


def _merge_lists(into: dict[str, Any], piece: dict[str, Any], choice: dict[str, Any]) -> None:
    for name, value in piece.items():
        if isinstance(value, list) and isinstance(into.get(name), list):
            into[name] += value
        elif value is not None or name not in into:
            into[name] = value
    choice["logprobs"] = into


def _merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value or ():
                _merge_call(message.setdefault("tool_calls", []), call)
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None or name not in message:
            message[name] = value


def _merge_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    """Merge a piece of a tool call: arguments grow, everything else is said once."""
    index = piece.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    for name in ("id", "type"):
        if piece.get(name):
            call[name] = piece[name]
    function = piece.get("function") or {}
    if function.get("name"):
        call["function"]["name"] = function["name"]
    call["function"]["arguments"] += function.get("arguments") or ""
