"""A cascade: the cheap tier answers first, and what it is unsure of is asked of the next one.

The first answer is held back until it is whole and judged: by the mean log-probability of its tokens, by
whether it refuses, keeps to the shape that was asked for, or was cut. Log-probabilities that the client did
not ask for are taken out again. What the first tier used is counted, not billed: the client pays for the
answer that it gets.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw

from gateway.choosing import Choice
from gateway.openai import shapes
from gateway.openai.events import DONE, payloads
from gateway.openai.forms import Form
from gateway.openai.schemas import ChatFields, Common, Inference
from gateway.settings import Cascade
from gateway.telemetry import Telemetry
from gateway.trip import Call

JUDGED = frozenset({"score", "conversation", "late", "unsure"})
"""The reasons of a choice that confidence may overrule: no wish and no constraint."""
_REFUSAL = re.compile(
    r"\s*(?:i'?m sorry|sorry,|i apologi[sz]e|i can(?:no|')t|i am (?:not able|unable)|i'?m (?:not able|unable)"
    r"|as an ai\b|unfortunately, i|i do(?:n't| not) (?:know|have))",
    re.IGNORECASE,
)
_encode = msgspec.json.Encoder().encode


def applies(choice: Choice, request: Inference) -> bool:
    """Tell whether the cheap tier's answer is to be judged before it is handed on."""
    return choice.reason in JUDGED and request.choices == 1


def asking(request: Inference) -> Inference:
    """Give the request with log-probabilities asked for."""
    if "logprobs" in request.fields:
        return request
    wish = Raw(b"true") if isinstance(request.typed, ChatFields) else Raw(b"1")
    return msgspec.structs.replace(request, fields={**request.fields, "logprobs": wish})


class Held:
    """An answer that is held back: its pieces as the client would get them."""

    def __init__(self, request: Inference) -> None:
        self._request = request
        self._pieces: list[bytes] = []

    async def take(self, piece: bytes) -> bool:
        """Take a piece."""
        self._pieces.append(piece)
        return True

    def pieces(self) -> list[bytes]:
        """Give the answer in one piece, with what the client did not ask for taken out."""
        body = b"".join(self._pieces)
        if "logprobs" in self._request.fields:
            return [body]
        if not self._request.stream:
            return [_encode(_bare(msgspec.json.decode(body)))]
        return [b"".join(b"data: %b\n\n" % _encode(_bare(one)) for one in payloads(body)) + DONE]

    def doubt(self, cascade: Cascade, reasons: list[str]) -> str:
        """Say why the answer should not be trusted; nothing where it may be."""
        body = b"".join(self._pieces)
        answers = list(payloads(body)) if self._request.stream else [msgspec.json.decode(body)]
        choices = [choice for one in answers for choice in one.get("choices", ())]
        text = "".join(_text(choice) for choice in choices)
        typed = self._request.typed
        own_limit = isinstance(typed, Common) and (
            typed.max_tokens or getattr(typed, "max_completion_tokens", None)
        )
        if "tool_calls" in reasons:
            return ""
        if "length" in reasons and not own_limit:
            return "truncated"
        if not text.strip():
            return "empty"
        if _REFUSAL.match(text):
            return "refused"
        if not shapes.keeps(text, self._request.fields.get("response_format")):
            return "schema"
        values = [value for choice in choices for value in _logprobs(choice)]
        if values and sum(values) / len(values) < cascade.min_logprob:
            return "unsure"
        return ""


async def first(
    run: Callable[[Call, Callable[[bytes], Awaitable[bool]]], Awaitable[None]],
    call: Call,
    receiver: Form,
    held: Held,
    cascade: Cascade,
) -> str:
    """Have the cheap tier answer into ``held``; gives the doubt about it, or that it failed or was late."""
    try:
        async with asyncio.timeout(cascade.timeout_s):
            await run(call, held.take)
        return held.doubt(cascade, list(receiver.finish_reasons))
    except TimeoutError:
        return "late"
    except Exception:
        return "failed"


def count(telemetry: Telemetry, route: str, doubt: str, receiver: Form, prompt_tokens: int) -> None:
    """Count a cascade's outcome, and what an answer that was not handed on had used."""
    telemetry.count("switchgear_cascade_total", (route, doubt or "kept"))
    if doubt:
        usage, _ = receiver.usage(prompt_tokens)
        used = usage.prompt_tokens + usage.completion_tokens
        telemetry.count("switchgear_cascade_tokens_total", (route,), used)


def _bare(answer: dict[str, Any]) -> dict[str, Any]:
    for choice in answer.get("choices", ()):
        if "logprobs" in choice:
            choice["logprobs"] = None
    return answer


def _text(choice: dict[str, Any]) -> str:
    part = choice.get("message") or choice.get("delta") or choice
    return str(part.get("content") or part.get("text") or "")


def _logprobs(choice: dict[str, Any]) -> list[float]:
    told = choice.get("logprobs") or {}
    if told.get("content"):
        return [float(one["logprob"]) for one in told["content"]]
    return [float(one) for one in told.get("token_logprobs") or () if one is not None]
