"""The rest of a stream, from a second run of the same deterministic request. Pure.

What was delivered is known by its text, choice by choice. Of the second run the same text is left out,
wherever its chunks are cut; what comes behind it goes on under the id and time of the first. Where the second
run says something else, or tools are called, there is no honest way to go on.
"""

from typing import Any

import msgspec

from gateway.openai.events import Splitter, StreamBroken, payloads

TEXTS = ("content", "reasoning", "reasoning_content")
SAME = ("id", "created", "system_fingerprint")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Continuation:
    """Takes the second run, gives what is new of it."""

    def __init__(self, delivered: bytes) -> None:
        """Begin behind the delivered events; raises StreamBroken where nothing can follow them."""
        self._texts: dict[tuple[int, str], str] = {}
        self._same: dict[str, Any] = {}
        whole = delivered[: delivered.rfind(b"\n\n") + 2]
        for chunk in payloads(whole.replace(b"\r\n", b"\n")):
            self._same = self._same or {name: chunk[name] for name in SAME if name in chunk}
            for index, name, text in _pieces(chunk):
                self._texts[index, name] = self._texts.get((index, name), "") + text
        self.restart()

    def restart(self) -> None:
        """A new run begins."""
        self._splitter = Splitter()
        self._at: dict[tuple[int, str], int] = {}

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the new run, give events. Raises StreamBroken."""
        found = []
        for event in self._splitter.feed(data):
            payload = b" ".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if payload == b"[DONE]":
                found.append(event + b"\n\n")
            elif payload:
                found.append(self._chunk(payload))
        return b"".join(found)

    def _chunk(self, payload: bytes) -> bytes:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            raise StreamBroken(f"an event is not valid JSON ({error})") from None
        choices = chunk.get("choices") or []
        chunk["choices"] = [choice for choice in choices if self._is_new(choice)]
        if choices and not chunk["choices"]:
            return b""
        return b"data: " + _encode({**chunk, **self._same}) + b"\n\n"

    def _is_new(self, choice: dict[str, Any]) -> bool:
        """Take out of a choice what was delivered; tells whether anything is left."""
        index, delta = choice.get("index", 0), choice.get("delta")
        part = choice if delta is None else delta
        if delta is not None:
            delta.pop("role", None)
            if delta.get("tool_calls"):
                raise StreamBroken("a call of a tool cannot be continued elsewhere")
        new = choice.get("finish_reason") is not None
        for name in ("text",) if delta is None else TEXTS:
            text = part.get(name)
            if text:
                part[name] = self._rest(index, name, text)
                new = new or bool(part[name])
        return new

    def _rest(self, index: int, name: str, text: str) -> str:
        key = (index, name)
        known, at = self._texts.get(key, ""), self._at.get(key, 0)
        expected = known[at : at + len(text)]
        if not text.startswith(expected):
            raise StreamBroken("the answer of the second run is another one")
        self._at[key] = at + len(text)
        rest = text[len(expected) :]
        self._texts[key] = known + rest
        return rest


def _pieces(chunk: dict[str, Any]) -> list[tuple[int, str, str]]:
    found = []
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta")
        if delta is not None and delta.get("tool_calls"):
            raise StreamBroken("a call of a tool cannot be continued elsewhere")
        part, names = (choice, ("text",)) if delta is None else (delta, TEXTS)
        found += [(choice.get("index", 0), name, part[name]) for name in names if part.get(name)]
    return found
