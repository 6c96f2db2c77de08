"""One upstream answer for several clients: what is shared of it, and each client's form of it. Pure.

Shared is what the upstream said, byte for byte. ``StreamTap`` watches it only as far as is needed to know
whether it is whole; each client receives it as if it were alone: a stream as a stream, or assembled into a
buffered answer; a buffered answer as it is, or unfolded into a stream.
"""

import re
from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.openai.answers import WholeReceiver, from_stream, to_stream
from gateway.openai.events import Splitter, StreamBroken, StreamReceiver
from gateway.openai.usage import Usage

_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


class Form(Protocol):
    """What a client's receiver is to the pipeline; see ``StreamReceiver`` and ``WholeReceiver``."""

    done: bool
    final: Usage | None
    finish_reasons: list[str]
    kept: list[bytes] | None

    def begin(self) -> None:
        """Reset for an attempt."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give bytes; raises StreamBroken."""

    def finish(self) -> bytes:
        """Take the end; raises StreamBroken where it came early."""

    def usage(self, prompt_estimate: int) -> tuple[Usage, bool]:
        """Give the tokens delivered so far, and whether they are estimated."""

    def keep(self, out: bytes) -> None:
        """Keep delivered bytes for the cache."""


class _Reason(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Reason] = []
    error: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamTap:
    """Lets a stream through as it came, and knows whether it is whole; the seam is that of a receiver.

    What comes before the first good event is held back: until then another replica may be tried.
    """

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self.begin()

    def begin(self) -> None:
        """Reset for an attempt."""
        self._splitter = Splitter()
        self._held: list[bytes] | None = []
        self._finished: set[int] = set()
        self._begun = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give them back as soon as there is an answer in them. Raises StreamBroken."""
        passed = len(self._splitter.pending)
        events = self._splitter.feed(data)
        for number, event in enumerate(events):
            try:
                for line in event.split(b"\n"):
                    if line.startswith(b"data:"):
                        self._watch(line[5:].strip(), event)
            except StreamBroken as error:
                raise StreamBroken(str(error), self._before(events[:number], passed)) from None
        if self._held is None:
            return data
        self._held.append(data)
        if not self._begun:
            return b""
        held, self._held = self._held, None
        return b"".join(held)

    def _before(self, events: list[bytes], passed: int) -> bytes:
        """Give what came before a broken event and was not let through yet."""
        if not self._begun:
            return b""
        held, self._held = self._held or [], None
        return b"".join(held) + b"".join([event + b"\n\n" for event in events])[passed:]

    def finish(self) -> bytes:
        """Take the end. Raises StreamBroken where it came early."""
        if len(self._finished) < self._choices:
            raise StreamBroken("the stream ended before the answer was complete")
        return b""

    def _watch(self, payload: bytes, event: bytes) -> None:
        if payload == b"[DONE]":
            self.finish()
            self.done = True
        elif not self._begun or b'"error"' in payload or _FINISHED.search(payload):
            try:
                chunk = _decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if event.count(b"\n"):
                    return  # one event on several lines: its readers put it together
                raise StreamBroken(f"an event is not valid JSON ({error})") from None
            if chunk.error:
                said = msgspec.json.encode(chunk.error)[:300].decode(errors="replace")
                raise StreamBroken(f"the server reported {said}")
            self._begun = True
            self._finished.update(one.index for one in chunk.choices if one.finish_reason is not None)


class Assembled:
    """A shared stream for a client that wants it buffered."""

    done = False

    def __init__(self, stream: StreamReceiver) -> None:
        self._stream = stream
        self.begin()

    def begin(self) -> None:
        """Reset."""
        self._stream.begin()
        self._pieces: list[bytes] = []
        self._complete = False
        self.kept: list[bytes] | None = []
        self.final: Usage | None = None
        self.finish_reasons: list[str] = []

    def feed(self, data: bytes) -> bytes:
        """Collect. Raises StreamBroken."""
        self._pieces.append(self._stream.feed(data))
        return b""

    def finish(self) -> bytes:
        """Give the whole answer. Raises StreamBroken."""
        self._pieces.append(self._stream.finish())
        self._complete = True
        self.final = self._stream.final
        self.finish_reasons = self._stream.finish_reasons
        return from_stream(b"".join(self._pieces), self.final)

    def usage(self, prompt_estimate: int) -> tuple[Usage, bool]:
        """Give the tokens of the answer; none before its end."""
        return self._stream.usage(prompt_estimate) if self._complete else (Usage(), False)

    def keep(self, out: bytes) -> None:
        """Keep the answer for the cache."""
        if self.kept is not None:
            self.kept.append(out)


class Unfolded:
    """A shared buffered answer for a client that wants a stream: it comes at once, when it is there."""

    done = False
    kept: list[bytes] | None = None

    def __init__(
        self, whole: WholeReceiver, *, include_usage: bool, cost_usd: Callable[[Usage], float]
    ) -> None:
        self._whole = whole
        self._include_usage = include_usage
        self._cost_usd = cost_usd
        self.begin()

    def begin(self) -> None:
        """Reset."""
        self._whole.begin()
        self.final: Usage | None = None
        self.finish_reasons: list[str] = []

    def feed(self, data: bytes) -> bytes:
        """Collect. Raises StreamBroken."""
        return self._whole.feed(data)

    def finish(self) -> bytes:
        """Give the stream. Raises StreamBroken."""
        body = self._whole.finish()
        self.final, self.finish_reasons = self._whole.final, self._whole.finish_reasons
        return to_stream(body, include_usage=self._include_usage, cost_usd=self._cost_usd)

    def usage(self, prompt_estimate: int) -> tuple[Usage, bool]:
        """Give the tokens of the answer; none before its end."""
        return self._whole.usage(prompt_estimate)

    def keep(self, out: bytes) -> None:
        """Nothing: the cache keeps buffered answers, and who asked for this one offers it."""
