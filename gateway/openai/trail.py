"""What an upstream has said so far in a stream, so that another one can go on from there. Pure.

Only whole events go on, and only those count: what was held of one when the stream broke never was. The bytes
are kept as they came, and read when a stream breaks or many are held; nothing is decoded for it on the way.
"""

from array import array
from typing import Any

import msgspec
from msgspec import Raw

from gateway.openai.events import EVENT_LIMIT_BYTES, Chunk, ChunkChoice, Splitter, StreamBroken, data_of

SAME = ("id", "object", "created", "model", "system_fingerprint")
HELD_BYTES = 64 * 1024
TEXTS = ("content", "reasoning", "reasoning_content")

_decode = msgspec.json.Decoder(Chunk).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


_decode_call = msgspec.json.Decoder(_ToolCall).decode


class Said(msgspec.Struct, eq=False):
    """One choice so far.

    ``texts`` by their names; a tool call's arguments are one, named by ``arguments_of``. ``numbered``: all of
    it came with token ids. ``pieces`` are the chunks that had anything, ``scored`` the tokens with logprobs.
    """

    ids: "array[int]"
    texts: dict[str, list[str]]
    tools: dict[int, str]
    prompt: list[int] | None = None
    numbered: bool = True
    pieces: int = 0
    scored: int = 0
    finished: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens it has; where they are not numbered, a piece counts as one."""
        return len(self.ids) if self.numbered else self.pieces

    def add(self, name: str, text: str) -> None:
        """Note more of a text."""
        self.texts.setdefault(name, []).append(text)

    def number(self, ids: list[int]) -> None:
        """Note more token ids."""
        try:
            self.ids.extend(ids)
        except OverflowError:  # no token of any model
            self.numbered = False

    def text(self, name: str) -> str:
        """Give a text as it stands."""
        return "".join(self.texts.get(name, ()))


class Trail:
    """One stream of so many choices; ``shows_ids``: its client has asked for token ids."""

    def __init__(self, choices: int, *, shows_ids: bool = False) -> None:
        self.expected = choices
        self.shows_ids = shows_ids
        self.begin()

    def begin(self) -> None:
        """Reset for an attempt."""
        self.pending = b""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._broken = False
        self.prompt: list[int] | None = None
        self.same: dict[str, Raw] = {}
        self.choices: dict[int, Said] = {}

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come, give the events that are whole now. Raises StreamBroken."""
        if self.pending or data[-2:] != b"\n\n":
            data = self.pending + data
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n")
            end = data.rfind(b"\n\n") + 2
            if end < 2:
                end = 0
            data, self.pending = data[:end], data[end:]
            if len(self.pending) > EVENT_LIMIT_BYTES:
                raise StreamBroken(f"an event is over {EVENT_LIMIT_BYTES} bytes")
        self.hold(data)
        return data

    def hold(self, data: bytes) -> None:
        """Take whole events, where none is pending."""
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES:
            self.read()
            self._held_bytes = len(data)
        self._held.append(data)

    def read(self) -> None:
        """Read what is held, up to the event that broke the stream, if one did."""
        held, self._held = b"".join(self._held), []
        for event in Splitter().feed(held):
            payload = data_of(event)
            if not payload or payload == b"[DONE]" or self._broken:
                continue
            try:
                chunk = _decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._broken = True
                continue
            if chunk.error:
                self._broken = True
                continue
            self._note(chunk, payload)

    @property
    def complete(self) -> bool:
        """Whether every choice is finished, by what was read."""
        return len(self.choices) >= self.expected and all(one.finished for one in self.choices.values())

    @property
    def unfinished(self) -> int:
        """The first choice that is not finished."""
        return next(
            index for index in range(self.expected) if not ((one := self.choices.get(index)) and one.finished)
        )

    def said(self, index: int) -> Said:
        """Give a choice, also one of which nothing came."""
        found = self.choices.get(index)
        if found is None:
            found = self.choices[index] = Said(array("q"), {}, {})
        return found

    def _note(self, chunk: Chunk, payload: bytes) -> None:
        if not self.same:
            self.same = {name: raw for name, raw in _decode_fields(payload).items() if name in SAME}
        if chunk.prompt_token_ids is not None:
            self.prompt = chunk.prompt_token_ids
        for choice in chunk.choices:
            said = self.said(choice.index)
            if choice.prompt_token_ids is not None:
                said.prompt = choice.prompt_token_ids
            _note_texts(said, choice)
            if choice.logprobs is not None:
                said.scored += scored(msgspec.convert(choice.logprobs, dict[str, Any]))
            said.finished = said.finished or choice.finish_reason is not None


def _note_texts(said: Said, choice: ChunkChoice) -> None:
    delta = choice.delta
    found = False
    if delta is None:
        if choice.text:
            said.add("text", choice.text)
            found = True
    else:
        for name in TEXTS:
            if text := getattr(delta, name):
                said.add(name, text)
                found = True
        for raw in delta.tool_calls or ():
            _note_call(said, _decode_call(raw))
            found = True
    if choice.token_ids is not None:
        said.number(choice.token_ids)
        found = found or bool(choice.token_ids)
    elif found:
        said.numbered = False
    said.pieces += found


def _note_call(said: Said, call: _ToolCall) -> None:
    function = call.function or _Function()
    said.tools[call.index] = said.tools.get(call.index, "") + (function.name or "")
    said.add(arguments_of(call.index), function.arguments or "")


def arguments_of(call: int) -> str:
    """Name the text of a tool call's arguments."""
    return f"arguments {call}"


def scored(logprobs: dict[str, Any]) -> int:
    """Give how many tokens have logprobs in a chunk of a chat, or of a text completion."""
    found = logprobs.get("content") or logprobs.get("tokens") or ()
    return len(found)
