"""Which requests may share an upstream call, what they have in common, and each one's form of the answer.

Shared are requests of one scope, one target, one canonical body, one band of priority and one wish of a tier
or an objective. Deterministic ones by default; a request may ask for it, or decline. One that wants a fresh
answer, or has a time limit of its own, is never shared.
"""

from collections.abc import Callable, Mapping

import msgspec

from gateway.bands import band_of
from gateway.catalogue import Target
from gateway.choosing import OBJECTIVE, TIER
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Assembled, Form, Unfolded
from gateway.openai.schemas import Common, Inference
from gateway.openai.usage import Usage
from gateway.settings import CoalescingSettings
from gateway.tenancy.keys import Key
from semantic_cache import policy as caching

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
TRUE = msgspec.Raw(b"true")


def may_share(settings: CoalescingSettings, headers: Mapping[bytes, bytes], request: Inference) -> bool:
    """Tell whether the request may share an upstream call: by policy, or as it asks itself."""
    policy, wish = settings.policy, headers.get(b"x-switchgear-coalesce")
    if policy == "off" or (wish is not None and wish != b"on"):
        return False
    typed = request.typed
    sampled = isinstance(typed, Common) and not caching.deterministic(typed.temperature, request.seeded)
    if wish is None and policy == "deterministic" and sampled:
        return False
    return b"x-switchgear-timeout-ms" not in headers and headers.get(b"x-switchgear-cache") != b"bypass"


def wish_of(target: Target, headers: Mapping[bytes, bytes]) -> str:
    """Give the tier or the objective that a request wishes for, as it says it; nothing where it does not."""
    if not target.route:
        return ""
    return (headers.get(TIER) or headers.get(OBJECTIVE, b"")).decode("latin-1")


def name_of(
    key: Key, target: Target, headers: Mapping[bytes, bytes], request: Inference, exact: bytes
) -> str:
    """Name what identical requests have in common; ``exact`` is the key that the cache would have."""
    return f"{exact.hex()}:{band_of(key.band, request.service_tier)}:{wish_of(target, headers)}"


def as_stream(request: Inference) -> Inference:
    """Give the request as one for a stream, so that whoever joins gets it live; embeddings have none."""
    if request.stream or not isinstance(request.typed, Common):
        return request
    return msgspec.structs.replace(request, stream=True, fields={**request.fields, "stream": TRUE})


def other_form(request: Inference, model: str, cost_usd: Callable[[Usage], float]) -> Form:
    """Give the receiver of a shared answer that comes in the other form than the request asks for."""
    if request.stream:
        whole = WholeReceiver(model, limit_bytes=ANSWER_LIMIT_BYTES)
        return Unfolded(whole, include_usage=request.include_usage, cost_usd=cost_usd)
    stream = StreamReceiver(
        model,
        choices=request.choices,
        include_usage=True,
        token_ids=request.wants_token_ids,
        keep_bytes=0,
        cost_usd=cost_usd,
    )
    return Assembled(stream)
