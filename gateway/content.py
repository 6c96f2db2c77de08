"""What of prompts and answers goes into the trace of a tenant that wants it there: redacted, and cut to size.

Rules: nothing is noted of anybody else. The event loop only keeps references to bytes, and no more than
``RAW_FACTOR`` times what may be shown; they are read off it. Redaction comes before cutting, and where
something was cut off unread, the end of what was read is dropped too: no secret is shown by half. What cannot
be read, or takes too long to be redacted, is left out. Shapes: ``gen_ai.input.messages`` and
``gen_ai.output.messages`` of the conventions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import regex

from gateway import semconv as names
from gateway.outlet import Lane, Outlet
from gateway.settings import ContentSettings

RAW_FACTOR = 64  # a streamed token has some 200 bytes of JSON about it
REDACT_S = 0.05  # for each pattern: one of an operator's may take for ever on a text made for it
OVERLAP_CHARS = 512  # read beyond what is shown; the longest secret that a cut may meet
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_PATTERNS = (
    ("key", r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)"),
    ("key", r"(?<![A-Za-z0-9])(?:sk|pk|rk|xox[abprs])[-_][\w-]{8,}"),
    ("key", r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_|glpat-|hf_|AKIA|ASIA|AIza)[\w-]{12,}"),
    ("key", r"(?<![A-Za-z0-9])eyJ[\w-]{4,}(?:\.[\w-]*)*"),
    ("key", r"(?i)\bbearer\s{1,4}[\w.~+/=-]{8,}"),
    (
        "key",
        r"(?i)(?:password|passwd|secret|token|api[_-]?key)[\\\"']{0,3}\s{0,4}[:=]\s{0,4}[\\\"']{0,3}"
        r"[^\s\\\"',]{3,}",
    ),
    ("key", r"://[^\s:/@]{0,64}:[^\s/@]{1,128}@"),
    ("key", r"(?<![0-9A-Za-z])[0-9a-fA-F]{32,}(?![0-9A-Za-z])"),
    ("email", r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"),
    ("iban", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    ("card", r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"),
    ("phone", r"(?<!\w)(?:\+|00)\d(?:[ ()/.-]{0,2}\d){6,14}(?!\d)"),
    ("phone", r"(?<!\w)\(?\d(?:[ ()/.-]{0,2}\d){8,14}(?!\d)"),
)  # fmt: skip
_COMPILED = tuple([(f"[{name}]", regex.compile(pattern)) for name, pattern in _PATTERNS])


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Asked(msgspec.Struct):
    messages: list[_Message] = []
    prompt: str | list[Any] = ""


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


_asked = msgspec.json.Decoder(_Asked).decode
_event = msgspec.json.Decoder(_Event).decode
_encode = msgspec.json.Encoder().encode


class Rules:
    """Whose content is noted, what is taken out of it, and how much of it is shown."""

    def __init__(self, settings: ContentSettings) -> None:
        self._tenants = frozenset(settings.tenants)
        own = [("[redacted]", regex.compile(one)) for one in settings.redact]
        self._patterns = (*own, *_COMPILED)
        self.max_chars = settings.max_chars

    def wanted(self, org: str, project: str) -> bool:
        """Tell whether a tenant has its content in traces."""
        return org in self._tenants or f"{org}/{project}" in self._tenants

    def redacted(self, text: str) -> str:
        """Give a text with a mark in the place of each secret. Raises TimeoutError."""
        for mark, pattern in self._patterns:
            by = _checked if mark == "[card]" else mark
            # Concurrent: the interpreter is free for the requests meanwhile.
            text = pattern.sub(by, text, concurrent=True, timeout=REDACT_S)
        return text

    def shown(self, text: str, room_chars: int) -> tuple[str, bool]:
        """Give as much of a redacted text as fits, and whether that is all. Raises TimeoutError."""
        window = max(room_chars, 0) + OVERLAP_CHARS
        clean = self.redacted(text[:window])
        if len(text) > window:
            clean = clean[:-OVERLAP_CHARS]
        return clean[: max(room_chars, 0)], len(text) <= window and len(clean) <= room_chars


def _checked(found: regex.Match[str]) -> str:
    """Give the mark of a card for what has the check digit of one (Luhn), else the digits."""
    digits = [int(one) for one in found[0] if one.isdigit()]
    doubled = [sum(divmod(2 * one, 10)) for one in digits[-2::-2]]
    return "[card]" if not (sum(digits[-1::-2]) + sum(doubled)) % 10 else found[0]


class Content:
    """One request's prompt and answer, as bytes until somebody asks for the attributes."""

    def __init__(self, rules: Rules, body: bytes) -> None:
        self._rules = rules
        self._most_bytes = RAW_FACTOR * rules.max_chars
        self._whole = len(body) <= self._most_bytes
        self._body = body if self._whole else b""
        self._pieces: list[bytes] = []
        self._room_bytes = self._most_bytes

    @property
    def size_bytes(self) -> int:
        """How much is held."""
        return len(self._body) + self._most_bytes - self._room_bytes

    def note(self, data: bytes) -> None:
        """Note a piece of the answer, as far as there is room."""
        if len(data) > self._room_bytes:
            self._whole = False
            data = data[: self._room_bytes]
        if data:
            self._pieces.append(data)
            self._room_bytes -= len(data)

    def attributes(self) -> list[tuple[str, str | bool]]:
        """Give the attributes of the request's span; slow, for a thread."""
        found: list[tuple[str, str | bool]] = []
        whole = self._whole
        for name, messages in (
            (names.INPUT_MESSAGES, self._input()),
            (names.OUTPUT_MESSAGES, self._output()),
        ):
            if messages:
                shown, complete = self._fitted(messages)
                whole = whole and complete
                found.append((name, _encode(shown).decode()))
        return found if whole else [*found, (names.CONTENT_CUT, True)]

    def _input(self) -> list[dict[str, Any]]:
        try:
            asked = _asked(self._body)
        except msgspec.DecodeError:
            return []
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        plain = [_Message("user", one) for one in prompts if isinstance(one, str) and one]
        return [_message(one) for one in asked.messages or plain]

    def _output(self) -> list[dict[str, Any]]:
        said: dict[int, _Message] = {}
        ends: dict[int, str] = {}
        for event in _events(b"".join(self._pieces)):
            for choice in event.choices:
                one = said.setdefault(choice.index, _Message("assistant", ""))
                _add(one, choice.message or choice.delta or _Message(content=choice.text))
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
        return [{**_message(said[at]), "finish_reason": ends.get(at, "")} for at in sorted(said)]

    def _fitted(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
        """Redact messages and cut them to size, the oldest first; tells whether they are whole."""
        kept: list[dict[str, Any]] = []
        room, whole = self._rules.max_chars, True
        for message in reversed(messages):
            if room <= 0:
                return kept[::-1], False
            try:
                used, complete = self._redacted(message, room)
            except TimeoutError:  # nor are those before it tried: they may take as long
                return kept[::-1], False
            room, whole = room - used, whole and complete
            kept.append(message)
        return kept[::-1], whole

    def _redacted(self, message: dict[str, Any], room: int) -> tuple[int, bool]:
        """Redact a message in its place; gives the characters used, and whether all of it is shown."""
        used, whole = 0, True
        for part in message["parts"]:
            for field in ("content", "arguments", "response", "name", "id"):
                if text := part.get(field):
                    part[field], complete = self._rules.shown(text, room - used)
                    used += len(part[field])
                    whole = whole and complete
        return used, whole


class Noting:
    """Hands an answer on, and notes it."""

    def __init__(self, content: Content, out: Outlet) -> None:
        self._content, self._out = content, out
        self.accept, self.begin = out.accept, out.begin

    async def whole(self, head: bytes, body: bytes) -> None:
        """Hand on a complete answer."""
        self._content.note(body)
        await self._out.whole(head, body)

    async def piece(self, data: bytes) -> None:
        """Hand on a piece of a stream."""
        self._content.note(data)
        await self._out.piece(data)

    @property
    def lane(self) -> Lane | None:
        """See ``outlet.Outlet.lane``."""
        lane = self._out.lane
        return None if lane is None else _NotingLane(self._content, lane)


class _NotingLane:
    """Hands pieces on, and notes them."""

    def __init__(self, content: Content, lane: Lane) -> None:
        self._content, self._lane = content, lane

    @property
    def clear(self) -> bool:
        """See ``outlet.Lane.clear``."""
        return self._lane.clear

    def at_once(self, data: bytes) -> None:
        """See ``outlet.Lane.at_once``."""
        self._content.note(data)
        self._lane.at_once(data)


def _events(data: bytes) -> Iterable[_Event]:
    """Give what a stream or a complete answer says; what is not whole is left out."""
    lines = [data] if data[:1] == b"{" else [line[5:] for line in data.splitlines() if line[:5] == b"data:"]
    for line in lines:
        try:
            yield _event(line)
        except msgspec.DecodeError:
            continue


def _add(said: _Message, more: _Message) -> None:
    """Add what an event says to what was said before it."""
    said.content = _text(said.content) + _text(more.content)
    said.reasoning_content = (said.reasoning_content or "") + (more.reasoning_content or "")
    calls = said.tool_calls = said.tool_calls or []
    for at, call in enumerate(more.tool_calls or []):
        number = max(call.index, at)
        known = next((one for one in calls if one.index == number), None)
        if known is None:
            known = _Call(number, call.id, _Function("", ""))
            calls.append(known)
        if known.function is not None and call.function is not None:
            known.function.name = (known.function.name or "") + (call.function.name or "")
            known.function.arguments = (known.function.arguments or "") + (call.function.arguments or "")


def _text(content: str | Sequence[_Part] | None) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join([part.text for part in content if part.text])


def _message(said: _Message) -> dict[str, Any]:
    """Give a message in the shape of the conventions; of images and sound only that they were there."""
    parts: list[dict[str, Any]] = []
    if said.reasoning_content:
        parts.append({"type": "reasoning", "content": said.reasoning_content})
    if said.role == "tool":
        response = _text(said.content)
        parts.append({"type": "tool_call_response", "id": said.tool_call_id or "", "response": response})
    elif text := _text(said.content):
        parts.append({"type": "text", "content": text})
    if isinstance(said.content, list):
        parts += [{"type": "blob", "modality": "other"} for part in said.content if part.type != "text"]
    for call in said.tool_calls or []:
        asked = call.function or _Function()
        parts.append(
            {
                "type": "tool_call",
                "id": call.id or "",
                "name": asked.name or "",
                "arguments": asked.arguments or "",
            }
        )
    return {"role": said.role if said.role in ROLES else "other", "parts": parts}
