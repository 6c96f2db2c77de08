"""Server-sent events of a completion stream, sans-IO: bytes in, bytes for the client out.

Rules: an event goes on as it came, as soon as it is complete; only ``model``, and the usage and token ids
that the client did not ask for, are changed. A stream is complete when every choice has a finish reason:
neither ``[DONE]`` nor the end of the connection says so by itself (a dying vLLM sends an error event and
then ``[DONE]``).
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from gateway.openai.refrain import Refrain, learnt
from gateway.openai.usage import Usage, UsageFields, estimated_tokens, usage_fields

DONE = b"data: [DONE]\n\n"
EVENT_LIMIT_BYTES = 8 * 1024 * 1024

_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_TOKEN_IDS = re.compile(rb'("(?:prompt_)?token_ids"\s*:\s*)\[[\d,\s]*\]')


class StreamBroken(Exception):
    """What came is not, or not the whole of, a completion stream; ``before`` is what was good of it."""

    def __init__(self, reason: str, before: bytes = b"") -> None:
        super().__init__(reason)
        self.before = before


class Delta(msgspec.Struct):
    """What a chat chunk adds; only whether there is anything counts here."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Raw] | None = None


class ChunkChoice(msgspec.Struct):
    """One choice of a chunk, as far as the gateway reads it."""

    index: int = 0
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None  # here in text completions, beside the choices in chat
    delta: Delta | None = None
    text: str = ""
    logprobs: dict[str, Raw] | None = None

    @property
    def hollow(self) -> bool:
        """Whether it is there for its token ids only: without them, vLLM sends no chunk for such tokens."""
        return self.token_ids is not None and self.finish_reason is None and self.logprobs is None

    @property
    def tokens(self) -> int:
        """How many tokens the chunk carries; without ids, text of any length counts as one."""
        if self.token_ids is not None:
            return len(self.token_ids)
        delta = self.delta
        if delta is None:
            return 1 if self.text else 0
        return 1 if delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls else 0


class Chunk(msgspec.Struct):
    """One chunk, as far as the gateway reads it."""

    choices: list[ChunkChoice] = []
    usage: UsageFields | None = None
    prompt_token_ids: list[int] | None = None
    error: Any = None

    @property
    def short(self) -> bool:
        """Whether it says one token of one choice, and nothing else."""
        if len(self.choices) != 1 or self.usage is not None or self.prompt_token_ids is not None:
            return False
        one = self.choices[0]
        more = one.finish_reason is not None or one.logprobs is not None or one.prompt_token_ids is not None
        return one.tokens == 1 and not more


_OF_EVERY_CHUNK = ("id", "object", "created", "model", "system_fingerprint")

_decode = msgspec.json.Decoder(Chunk).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


class Splitter:
    """Cuts a byte stream into events; any cutting of the bytes gives the same events."""

    def __init__(self) -> None:
        self.pending = b""
        """What is held of an event that is not complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Give the events that are complete now, without the blank line that ends each."""
        if self.pending:
            data = self.pending + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self.pending = data.split(b"\n\n")
        if len(self.pending) > EVENT_LIMIT_BYTES:
            raise StreamBroken(f"an event is over {EVENT_LIMIT_BYTES} bytes")
        return events


class StreamReceiver:
    """Receives one completion stream for one client.

    ``cost_usd`` gives what the usage costs, for the usage chunk of a client that asked for it. ``kept`` holds
    the payloads for the cache; it is None where the answer is not wanted there, or grew over ``keep_bytes``.
    """

    def __init__(
        self,
        model: str,
        *,
        choices: int,
        include_usage: bool,
        token_ids: bool,
        keep_bytes: int,
        cost_usd: Callable[[Usage], float],
    ) -> None:
        self._model = b'"model":' + _encode(model)
        self._their_model = b""  # as it stood in the chunk before
        self._choices = choices
        self._include_usage = include_usage
        self._token_ids = token_ids
        self._keep_bytes = keep_bytes
        self._cost_usd = cost_usd
        self.begin()

    def begin(self) -> None:
        """Reset for an attempt; allowed while nothing was delivered."""
        self._splitter = Splitter()
        self._refrain: Refrain | None = None
        self._feeds = 0
        self._finished: dict[int, int] = {}  # by which feed
        self._bears_ids = False
        self._characters: dict[int, int] = {}  # of choices, while they come without token ids
        self.done = False
        self._begun = False
        self._prompt_tokens: int | None = None
        self.final: Usage | None = None
        self.delivered_tokens = 0
        self.finish_reasons: list[str] = []
        self.kept: list[bytes] | None = [] if self._keep_bytes else None
        self._last = b"{}"
        self._kept_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether every choice is finished."""
        return len(self._finished) >= self._choices

    def usage(self, prompt_estimate: int) -> tuple[Usage, bool]:
        """Give the tokens delivered so far, and whether they are estimated."""
        if self.final is not None:
            return self.final, False
        if not self.delivered_tokens:
            return Usage(), False
        if (
            not self._bears_ids and len(self._finished) >= self._choices
        ):  # counted as in a buffered answer, which must cost the same
            return Usage(prompt_estimate, sum(map(estimated_tokens, self._characters.values()))), True
        if self._prompt_tokens is None:
            return Usage(prompt_estimate, self.delivered_tokens), True
        return Usage(self._prompt_tokens, self.delivered_tokens), False

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the upstream, give bytes for the client. Raises StreamBroken.

        The events before a broken one count as given: they are the exception's ``before``.
        """
        if self._refrain is not None and (piece := self.sing(data)) is not None:
            return piece
        self._feeds += 1
        if data.find(b"\n") == len(data) - 2 and data.startswith(b"data: {") and not self._splitter.pending:
            return self._data(data[6:-2])  # one event, as nearly all come
        events = self._splitter.feed(data)
        if len(events) == 1:
            return self._event(events[0])
        found: list[bytes] = []
        try:
            found.extend(map(self._event, events))
        except StreamBroken as error:
            raise StreamBroken(str(error), b"".join(found)) from None
        return b"".join(found)

    def sing(self, data: bytes) -> bytes | None:
        """Take one event that says one token and looks like the one before; None, and nothing is taken."""
        refrain = self._refrain
        if refrain is None or self._splitter.pending or (sung := refrain.sung(data)) is None:
            return None
        self._feeds += 1
        self.delivered_tokens += 1
        if not self._bears_ids:
            self._characters[refrain.index] += sung[1]
        return sung[0]

    def finish(self) -> bytes:
        """Take the end of the upstream's body, give the last bytes. Raises StreamBroken if it came early."""
        if not self.complete:
            raise StreamBroken("the stream ended before the answer was complete")
        return DONE

    def stop(self, reason: str, usage: Usage) -> bytes:
        """End the stream before what was fed last: ``length``, the reason, usage if wanted, ``[DONE]``."""
        base = {name: raw for name, raw in _decode_fields(self._last).items() if name in _OF_EVERY_CHUNK}
        chat = base.get("object") != Raw(b'"text_completion"')
        piece: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        ends = [
            {"index": index, **piece, "logprobs": None, "finish_reason": "length"}
            for index in range(self._choices)
            if self._finished.get(index, self._feeds) == self._feeds
        ]
        chunk = {**base, "choices": ends, "switchgear": {"stop_reason": reason}}
        events = [_MODEL.sub(self._model, _encode(chunk), 1)]
        if self._include_usage:
            told = {**usage_fields(usage), "cost": self._cost_usd(usage)}
            events.append(_MODEL.sub(self._model, _encode({**base, "choices": [], "usage": told}), 1))
        return b"".join(b"data: " + event + b"\n\n" for event in events) + DONE

    def _event(self, event: bytes) -> bytes:
        """Hand on the data, whatever comment, ``event:`` or ``id:`` line it stands behind; or a comment.

        A comment before the first data is dropped: it is no answer, another replica may still be tried.
        """
        bare = event.startswith(b"data:") and b"\n" not in event
        payload = event[5:].strip() if bare else data_of(event)
        if payload == b"[DONE]":
            if not self.complete:
                raise StreamBroken("the stream ended before the answer was complete")
            self.done = True
            return b""
        if payload:
            return self._data(payload)
        return event + b"\n\n" if event.startswith(b":") and self._begun else b""

    def _data(self, payload: bytes) -> bytes:
        try:
            chunk = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StreamBroken(f"an event is not valid JSON ({error})") from None
        if chunk.error:
            raise StreamBroken(f"the server reported {_encode(chunk.error)[:300].decode(errors='replace')}")
        self._begun = True
        self._last = payload
        self._note(chunk)
        came = payload
        if b'token_ids"' in payload and not self._token_ids:
            if b'"delta":{}' in payload and len(chunk.choices) == 1 and chunk.choices[0].hollow:
                return b""
            payload = _TOKEN_IDS.sub(rb"\1null", payload)  # as vLLM says that there are none
        if self._their_model and self._their_model in payload:
            payload = payload.replace(self._their_model, self._model, 1)
        else:
            payload = self._renamed(payload)
        if b'"usage"' in payload:
            payload = self._with_usage(payload, chunk)
        elif self._refrain is None and chunk.short:
            self._refrain = learnt(came, payload, chunk.choices[0].index)
        return b"data: " + payload + b"\n\n" if payload else b""

    def _renamed(self, payload: bytes) -> bytes:
        """Give the payload with our name of the model; theirs is nearly always that of the chunk before."""
        found = _MODEL.search(payload)
        if found is None:
            return payload
        self._their_model = found.group()
        return payload.replace(self._their_model, self._model, 1)

    def _note(self, chunk: Chunk) -> None:
        if chunk.prompt_token_ids is not None:
            self._prompt_tokens = len(chunk.prompt_token_ids)
        for choice in chunk.choices:
            if choice.prompt_token_ids is not None:
                self._prompt_tokens = max(self._prompt_tokens or 0, len(choice.prompt_token_ids))
            if choice.token_ids is not None:
                self.delivered_tokens += len(choice.token_ids)
                self._bears_ids = True
            else:
                self.delivered_tokens += choice.tokens
                if not self._bears_ids:
                    text = choice.delta.content if choice.delta is not None else choice.text
                    self._characters[choice.index] = self._characters.get(choice.index, 0) + len(text or "")
            if choice.finish_reason is not None:
                self._finished[choice.index] = self._feeds
                self.finish_reasons.append(choice.finish_reason)
        if chunk.usage is not None:
            self.final = chunk.usage.usage()

    def _with_usage(self, payload: bytes, chunk: Chunk) -> bytes:
        """Give the usage chunk its cost, or take usage out for a client that did not ask."""
        fields = _decode_fields(payload)
        if not self._include_usage:
            if not chunk.choices and chunk.usage is not None:
                return b""
            fields.pop("usage", None)
            return _encode(fields)
        if chunk.usage is None:
            return payload
        usage = _decode_fields(fields["usage"])
        usage["cost"] = Raw(_encode(self._cost_usd(chunk.usage.usage())))
        fields["usage"] = Raw(_encode(usage))
        return _encode(fields)

    def keep(self, out: bytes) -> None:
        """Keep delivered bytes for the cache, up to the limit."""
        if self.kept is not None:
            self._kept_bytes += len(out)
            if self._kept_bytes > self._keep_bytes:
                self.kept = None
            else:
                self.kept.append(out)


def payloads(stream: bytes) -> list[dict[str, Any]]:
    """Decode the JSON payloads of a whole, well-formed stream."""
    found = []
    for event in Splitter().feed(stream):
        payload = data_of(event)
        if payload and payload != b"[DONE]":
            found.append(msgspec.json.decode(payload))
    return found


def data_of(event: bytes) -> bytes:
    """Join the data lines of an event, by a space: between lines of JSON it means the same as a line feed."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b" ".join(lines).strip()
