"""The rest of a broken stream, out of another run that ``gateway.openai.ways`` asked for. Pure.

What comes goes on under the first run's id and time, and what was delivered is left out, wherever its chunks
are cut. Where a run says something else than what was delivered there is no honest way to go on with it:
``Mismatch``.
"""

from typing import Any, Protocol

import msgspec
from msgspec import Raw

from gateway.openai.events import DONE, Splitter, StreamBroken, data_of
from gateway.openai.trail import SAME, TEXTS, Said, Trail, arguments_of, scored
from gateway.openai.ways import is_known, prompt_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Mismatch(StreamBroken):
    """Another run says something else than what was delivered: no fault of its server."""


class Rest(Protocol):
    """Takes a run that goes on with a stream, gives events for whoever received its beginning."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give events. Raises StreamBroken or Mismatch; what was good is its ``before``."""

    def end(self) -> bytes:
        """Take the end of the body, give the last events. Raises StreamBroken where it came early."""


class Run:
    """What all runs share: events in, events out, under the first run's name."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self._splitter = Splitter()

    def feed(self, data: bytes) -> bytes:
        """See ``Rest.feed``."""
        found: list[bytes] = []
        try:
            for event in self._splitter.feed(data):
                payload = data_of(event)
                if payload == b"[DONE]":
                    found.append(self._done())
                elif payload:
                    found.append(self._event(payload))
        except StreamBroken as error:
            error.before = b"".join(found)
            raise
        return b"".join(found)

    def end(self) -> bytes:
        """See ``Rest.end``."""
        if not self.trail.complete:
            raise StreamBroken("the stream ended before the answer was complete")
        return b""

    def _event(self, payload: bytes) -> bytes:
        try:
            chunk = _decode(payload)
            if chunk.get("error"):
                said = _encode(chunk["error"])[:300].decode(errors="replace")
                raise StreamBroken(f"the server reported {said}")
            made = self._chunk(chunk)
        except (
            msgspec.DecodeError,
            RecursionError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise StreamBroken(f"an event is not as expected ({error})") from None
        return b"" if made is None else event_of({**self.trail.same, **made, **self.trail.same})

    def _chunk(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Give what goes on of a chunk; None for nothing."""
        raise NotImplementedError

    def _done(self) -> bytes:
        """Give what goes on of ``[DONE]``."""
        return DONE


class Replay(Run):
    """``AGAIN``: leaves out of a second run what was delivered, choice by choice and text by text."""

    def __init__(self, trail: Trail, fields: dict[str, Any]) -> None:
        super().__init__(trail)
        self._known: dict[int, Said] = {}
        for index, one in trail.choices.items():
            if is_known(fields, trail, one):
                texts = {name: [one.text(name)] for name in one.texts}
                self._known[index] = Said(
                    one.ids[:], texts, dict(one.tools), scored=one.scored, finished=one.finished
                )
            else:  # nothing but its role, which is not told twice
                del one.ids[:]
                self._known[index] = Said(one.ids[:], {}, {})
        self._at: dict[tuple[int, str], int] = {}

    def _chunk(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        choices = chunk.get("choices") or []
        if not self.trail.same:
            self.trail.same = {name: Raw(_encode(chunk[name])) for name in SAME if name in chunk}
        new = [choice for choice in choices if self._is_new(choice)]
        if choices and not new:
            return None
        return {**chunk, "choices": new}

    def _is_new(self, choice: dict[str, Any]) -> bool:
        """Take out of a choice what was delivered; tells whether anything is left."""
        index, delta = choice.get("index", 0), choice.get("delta")
        known, said = self._known.get(index), self.trail.said(index)
        part = choice if delta is None else delta
        if known is not None:
            part.pop("role", None)
        new = known is None
        for name in ("text",) if delta is None else TEXTS:
            if text := part.get(name):
                part[name] = self._rest(index, name, text)
                new = new or bool(part[name])
        if delta is not None and delta.get("tool_calls"):
            delta["tool_calls"] = [call for call in delta["tool_calls"] if self._is_new_call(index, call)]
            if not delta["tool_calls"]:
                del delta["tool_calls"]
            else:
                new = True
        if choice.get("token_ids") is not None:
            choice["token_ids"] = self._ids(index, choice["token_ids"])
            new = new or bool(choice["token_ids"])
        if choice.get("logprobs"):
            choice["logprobs"] = self._logprobs(index, choice["logprobs"])
        if choice.get("finish_reason") is not None:
            new = new or not said.finished
            said.finished = True
        return new and not (known is not None and known.finished)

    def _rest(self, index: int, name: str, text: str) -> str:
        known = self._known.get(index)
        so_far = known.text(name) if known is not None else ""
        at = self._at.get((index, name), 0)
        expected = so_far[at : at + len(text)]
        if not text.startswith(expected):
            raise Mismatch("the answer of the second run is another one")
        self._at[index, name] = at + len(text)
        rest = text[len(expected) :]
        if rest:
            self.trail.said(index).add(name, rest)
        return rest

    def _is_new_call(self, index: int, call: dict[str, Any]) -> bool:
        """Take out of a piece of a tool call what was delivered: what it is called, the arguments so far."""
        number, function = call.get("index", 0), call.get("function") or {}
        known = self._known.get(index)
        named = known is not None and number in known.tools
        if named and known is not None and function.get("name"):
            if function["name"] != known.tools[number]:
                raise Mismatch("the second run calls another tool")
            del function["name"]
        if named:
            call.pop("id", None)
            call.pop("type", None)
        elif function.get("name"):
            self.trail.said(index).tools[number] = function["name"]
        if function.get("arguments"):
            function["arguments"] = self._rest(index, arguments_of(number), function["arguments"])
        return not named or bool(function.get("arguments"))

    def _ids(self, index: int, ids: list[int]) -> list[int]:
        known, said = self._known.get(index), self.trail.said(index)
        at = self._at.get((index, "ids"), 0)
        self._at[index, "ids"] = at + len(ids)
        rest = ids[max(0, len(known.ids) - at) :] if known is not None else ids
        said.number(rest)
        return rest

    def _logprobs(self, index: int, logprobs: dict[str, Any]) -> dict[str, Any]:
        known = self._known.get(index)
        at = self._at.get((index, "logprobs"), 0)
        count = scored(logprobs)
        self._at[index, "logprobs"] = at + count
        skipped = min(count, max(0, known.scored - at)) if known is not None else 0
        self.trail.said(index).scored += count - skipped
        return {
            name: value[skipped:] if isinstance(value, list) else value for name, value in logprobs.items()
        }


class Onward(Run):
    """``MESSAGE``: a run in the same form that begins where the first one ended."""

    def __init__(self, trail: Trail) -> None:
        super().__init__(trail)
        self._before = trail.said(0).tokens

    def _chunk(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        choices = chunk.get("choices") or []
        said = self.trail.said(0)
        for choice in choices:
            delta = choice.get("delta")
            part = choice if delta is None else delta
            part.pop("role", None)
            name = "text" if delta is None else "content"
            if any(part.get(other) for other in (*TEXTS[1:], "tool_calls")):
                raise Mismatch("the second run does not go on with the text")
            if text := part.get(name):
                said.add(name, text)
                said.pieces += 1
            if choice.get("token_ids") is not None:
                said.number(choice["token_ids"])
            said.finished = said.finished or choice.get("finish_reason") is not None
        if choices and not any(_says(choice) for choice in choices):
            return None
        chunk.pop("prompt_token_ids", None)
        if usage := chunk.get("usage"):
            chunk["usage"] = _summed(usage, usage["prompt_tokens"] - self._before, self._before)
        return chunk


def _says(choice: dict[str, Any]) -> bool:
    part = choice.get("delta") or choice
    told = part.get("content") or part.get("text") or choice.get("token_ids") or choice.get("logprobs")
    return bool(told) or choice.get("finish_reason") is not None


def _summed(usage: dict[str, Any], prompt_tokens: int, before_tokens: int) -> dict[str, Any]:
    """Give the usage of the whole answer: its own prompt, and what was delivered before."""
    completion_tokens = (usage.get("completion_tokens") or 0) + before_tokens
    made = {
        **usage,
        "prompt_tokens": max(0, prompt_tokens),
        "completion_tokens": completion_tokens,
        "total_tokens": max(0, prompt_tokens) + completion_tokens,
    }
    if details := usage.get("prompt_tokens_details"):
        cached = min(details.get("cached_tokens") or 0, made["prompt_tokens"])
        made["prompt_tokens_details"] = {**details, "cached_tokens": cached}
    return made


class ByIds(Run):
    """``IDS``: a text completion that goes on with one choice, in the form of the first run.

    ``kept`` of the choice's ids stand in the prompt; what of its text they do not cover comes again and must
    be the same, and so must the ids where the client has seen single tokens (``told``).
    """

    def __init__(self, trail: Trail, index: int, kept: int, skipped: str, *, told: bool) -> None:
        super().__init__(trail)
        said = trail.said(index)
        self._index = index
        self._chat = trail.same.get("object") != Raw(b'"text_completion"')
        self._again = list(said.ids[kept:])
        self._told = told and bool(self._again)
        self._skipped = skipped
        self._unmatched = ""
        self._at = 0
        self._cached: int | None = None
        del said.ids[kept:]

    def end(self) -> bytes:
        """See ``Rest.end``."""
        if not self.trail.said(self._index).finished:
            raise StreamBroken("the stream ended before the answer was complete")
        return self._done()

    def _chunk(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        if usage := chunk.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            self._cached = details.get("cached_tokens", self._cached)
        if not chunk.get("choices"):
            return None
        (given,) = chunk["choices"]
        said = self.trail.said(self._index)
        ids = given.get("token_ids") or []
        said.number(ids)
        new = self._new_ids(ids)
        text = self._new_text(given.get("text") or "", last=given.get("finish_reason") is not None)
        choice: dict[str, Any] = {"index": self._index}
        if self._chat:
            choice["delta"] = {"content": text} if text else {}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(given.get("logprobs"), len(ids) - len(new))
        choice["finish_reason"] = given.get("finish_reason")
        if given.get("stop_reason") is not None:
            choice["stop_reason"] = given["stop_reason"]
        choice["token_ids"] = new
        if text:
            said.add("content" if self._chat else "text", text)
        said.finished = said.finished or choice["finish_reason"] is not None
        return {"choices": [choice]} if text or new or said.finished else None

    def _new_ids(self, ids: list[int]) -> list[int]:
        """Give those that are beyond what was counted before the break."""
        expected = self._again[self._at : self._at + len(ids)]
        if self._told and ids[: len(expected)] != expected:
            raise Mismatch("the second run drew other tokens than were delivered")
        self._at += len(ids)
        return ids[len(expected) :]

    def _new_text(self, text: str, *, last: bool) -> str:
        """Leave out what was delivered."""
        if not self._skipped:
            return text
        self._unmatched += text
        seen = self._unmatched[: len(self._skipped)]
        if not self._skipped.startswith(seen) or (last and len(seen) < len(self._skipped)):
            raise Mismatch("the answer of the second run is another one")
        if len(seen) < len(self._skipped):
            return ""
        rest, self._skipped = self._unmatched[len(self._skipped) :], ""
        return rest

    def _logprobs(self, given: dict[str, Any] | None, skipped: int) -> dict[str, Any] | None:
        if not given or not given.get("tokens"):
            return None
        kept = {name: value[skipped:] for name, value in given.items() if isinstance(value, list)}
        self.trail.said(self._index).scored += len(kept["tokens"])
        return chat_logprobs(kept) if self._chat else kept

    def _done(self) -> bytes:
        return ending(self.trail, self._cached) if self.trail.complete else b""


def chat_logprobs(given: dict[str, Any]) -> dict[str, Any]:
    """Turn the logprobs of a text completion into those of a chat."""
    tops = given.get("top_logprobs") or [None] * len(given["tokens"])
    return {
        "content": [
            {**_scored(token, score), "top_logprobs": [_scored(*pair) for pair in (top or {}).items()]}
            for token, score, top in zip(given["tokens"], given["token_logprobs"], tops, strict=True)
        ]
    }


def _scored(token: str, score: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": score, "bytes": list(token.encode(errors="replace"))}


def ending(trail: Trail, cached_tokens: int | None = None) -> bytes:
    """Make the end of a stream whose choices are finished: usage, where its tokens are known, [DONE]."""
    if not all(said.numbered for said in trail.choices.values()):
        return DONE
    prompt_tokens = len(prompt_of(trail))
    completion_tokens = sum(len(said.ids) for said in trail.choices.values())
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }
    if cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": min(cached_tokens, prompt_tokens)}
    if not prompt_tokens:
        return DONE
    return event_of({**trail.same, "choices": [], "usage": usage}) + DONE


def cut_short(trail: Trail, index: int) -> bytes:
    """Make the chunk that ends a choice which has all the tokens that it may have."""
    trail.said(index).finished = True
    piece: dict[str, Any] = (
        {"text": ""} if trail.same.get("object") == Raw(b'"text_completion"') else {"delta": {}}
    )
    choice = {"index": index, **piece, "logprobs": None, "finish_reason": "length"}
    return event_of({**trail.same, "choices": [choice]})


def event_of(chunk: dict[str, Any]) -> bytes:
    """Write a chunk as an event."""
    return b"data: " + _encode(chunk) + b"\n\n"
