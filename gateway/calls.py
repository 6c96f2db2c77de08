"""From a request to the call of a replica: what is sent, what receives it, what the scheduler reads."""

import math
from collections.abc import Mapping

import msgspec

from gateway.bands import band_of, engine_priority
from gateway.batching import Batching
from gateway.choosing import Choice
from gateway.errors import InvalidRequest
from gateway.openai import schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.schemas import Endpoint, Inference
from gateway.openai.trail import Trail
from gateway.settings import ModelSettings
from gateway.tenancy.charge import Charge
from gateway.tenancy.keys import Key
from gateway.tracecontext import passed_on
from gateway.trip import Call, Receiver, Trip
from routing.decision import Query
from routing.prefixes import marks

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024


class Incoming(msgspec.Struct, frozen=True):
    """One HTTP request, read to its end; header names in lower case; ``started_s`` on the monotonic clock."""

    endpoint: Endpoint
    headers: Mapping[bytes, bytes]
    body: bytes
    request_id: str
    started_s: float


class Calls:
    """Makes calls; ``traced``: the gateway's own trace goes on, not the client's headers."""

    def __init__(self, attempts: Batching, *, traced: bool) -> None:
        self._reads_prefix = attempts.reads_prefix
        self._traced = traced
        self.keep_bytes = 0
        """The most of an answer that is kept for the cache."""

    def receiver(
        self, request: Inference, choice: Choice, charge: Charge, *, keeps: bool = True
    ) -> StreamReceiver | WholeReceiver:
        """Give what receives the answer in the form that was asked for; ``keeps`` a stream for later."""
        if not request.stream:
            return WholeReceiver(choice.model.name, limit_bytes=ANSWER_LIMIT_BYTES)
        return StreamReceiver(
            choice.model.name,
            choices=request.choices,
            include_usage=request.include_usage,
            token_ids=request.wants_token_ids or not request.bears_token_ids,
            keep_bytes=self.keep_bytes if keeps else 0,
            cost_usd=charge.cost_of,
        )

    def make(
        self,
        incoming: Incoming,
        request: Inference,
        key: Key,
        choice: Choice,
        receiver: Receiver,
        trip: Trip | None = None,
    ) -> Call:
        """Give the call of the chosen model; ``trip`` of another that failed. Raises InvalidRequest."""
        settings: ModelSettings = choice.model.settings
        headers = [(b"x-request-id", incoming.request_id.encode())]
        if not self._traced:
            headers += passed_on(incoming.headers)
        band = band_of(key.band, request.service_tier)
        generates = request.endpoint.kind == "chat"
        tenant = key.tenant
        return Call(
            model=settings.name,
            path=request.endpoint.path,
            body=schemas.upstream_body(
                request,
                choice.model.upstream,
                token_ids=choice.model.returns_token_ids,
                priority=engine_priority(band, request.priority)
                if choice.model.takes_priority and generates
                else None,
                tenant=tenant if choice.model.salts_prefixes and generates else None,
            ),
            headers=headers,
            receiver=receiver,
            query=self._query(choice, request, key),
            band=band,
            deadline_s=_deadline_s(incoming),
            connect_s=settings.connect_timeout_s,
            first_byte_s=settings.first_byte_timeout_s,
            idle_s=settings.stall_timeout_s,
            max_attempts=settings.max_attempts,
            hedge=settings.hedge,
            trail=Trail(request.choices, shows_ids=request.wants_token_ids) if request.stream else None,
            able=choice.model.able,
            trip=Trip() if trip is None else trip.on(),
        )

    def _query(self, choice: Choice, request: Inference, key: Key) -> Query:
        """Say what the choice of a replica reads; the marks of the prompt only where they are read."""
        settings = choice.model.settings
        prefix: tuple[bytes, ...] = ()
        if self._reads_prefix(settings.name):
            prefix = marks(*request.prompt_and_salt("" if settings.share_prefix_cache else key.tenant))
        return Query(
            model=settings.name,
            tenant=key.id,
            weight=key.weight,
            within=key.within,
            prompt_tokens=request.prompt_tokens_estimate,
            output_tokens=request.output_tokens_estimate,
            prefix=prefix,
            version=choice.model.version,
        )


def _deadline_s(incoming: Incoming) -> float:
    """Give the monotonic time by which the answer must be whole; infinity where nothing was asked."""
    text = incoming.headers.get(b"x-switchgear-timeout-ms")
    if text is None:
        return math.inf
    if not text.isdigit() or len(text) > 12 or not (wish_ms := int(text)):
        raise InvalidRequest(
            "The header x-switchgear-timeout-ms must be a positive whole number of milliseconds.",
            param="x-switchgear-timeout-ms",
        )
    return incoming.started_s + wish_ms / 1000
