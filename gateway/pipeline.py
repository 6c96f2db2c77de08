"""The way of a request, in order.

``Pipeline.infer`` hands the answer to an ``Outlet``, piece by piece. Whatever is taken on the way (rate,
reservation, slot, connection) is taken inside it and given back when it is left, by whatever exit.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Protocol

import msgspec

from gateway import sharing
from gateway.attempts import Call, Deliver, Receiver, Trip
from gateway.bands import BANDS, band_of, engine_priority
from gateway.batching import Batching
from gateway.catalogue import Catalogue, Target
from gateway.choosing import Choice, Chooser
from gateway.coalescing import Coalescing, Head
from gateway.errors import InsufficientQuota, InvalidApiKey, InvalidRequest, NotPermitted
from gateway.kept import Kept
from gateway.likeness import Audit
from gateway.openai import answers, schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Form, StreamTap
from gateway.openai.schemas import Common, Endpoint, Inference
from gateway.openai.usage import Usage
from gateway.passage import Passage
from gateway.settings import CacheSettings, CoalescingSettings, ModelSettings
from gateway.telemetry import Telemetry
from gateway.tenancy.accounts import end_user_hash
from gateway.tenancy.billing import Billing, Charge, Order
from gateway.tenancy.keys import Key, KeyTable
from gateway.tenancy.pricing import NANO
from gateway.tenancy.refusals import rate_lines
from gateway.tracecontext import passed_on
from gateway.tracing import Tracing
from routing.decision import Query
from routing.prefixes import marks
from semantic_cache import policy as caching
from semantic_cache.stores.base import Entry, Store

TEMPLATE_TOKENS = 64  # what a chat template may add: a default system prompt
MEMO_ENTRIES, MEMO_BODY_BYTES = 512, 8192
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
JSON = b"content-type: application/json\r\n"
EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


class Incoming(msgspec.Struct, frozen=True):
    """One HTTP request, read to its end; header names in lower case; ``started_s`` on the monotonic clock."""

    endpoint: Endpoint
    headers: Mapping[bytes, bytes]
    body: bytes
    request_id: str
    started_s: float


class Outlet(Protocol):
    """Takes an answer: ``whole``, or ``accept``, ``begin`` and ``piece`` again and again.

    Heads are lines that end in CRLF; the status is 200.
    """

    async def whole(self, head: bytes, body: bytes) -> None:
        """Take a complete answer."""

    def accept(self, head: bytes) -> None:
        """Take note that a stream is admitted: from now on it may be kept alive by heartbeats."""

    async def begin(self, head: bytes) -> None:
        """Take the head of a stream, as far as it is known when the body begins."""

    async def piece(self, data: bytes) -> None:
        """Take a piece of a stream."""


class Pipeline:
    """The steps and what they need; its clocks are theirs, monotonic and of the day, in seconds."""

    def __init__(
        self,
        *,
        keys: KeyTable,
        billing: Billing,
        store: Store,
        chooser: Chooser,
        attempts: Batching,
        coalescing: Coalescing,
        telemetry: Telemetry,
        tracing: Tracing | None = None,
    ) -> None:
        self._keys = keys
        self._billing = billing
        self._store = store
        self._chooser = chooser
        self._attempts = attempts
        self._coalescing = coalescing
        self._telemetry = telemetry
        self._tracing = tracing
        self.kept = Kept(store)
        self._now, self._wall = attempts.now, billing.now
        self._hits: dict[tuple[str, str, str, bytes], bytes] = {}
        self.catalogue: Catalogue
        self._cache: CacheSettings
        self._coalesced = CoalescingSettings()

    def adopt(self, catalogue: Catalogue, cache: CacheSettings, coalesced: CoalescingSettings) -> None:
        """Put a configuration in force; requests under way finish on the one they began with."""
        self.catalogue = catalogue
        self._cache = cache
        self._coalesced = coalesced
        self._coalescing.limit_bytes = coalesced.max_bytes

    @property
    def any_resumable(self) -> bool:
        """Whether there is a key whose streams can all be resumed."""
        return self._keys.any_resumable

    async def infer(self, incoming: Incoming, out: Outlet) -> None:
        """Answer one request into ``out``. Raises what ``errors.translate`` knows."""
        passage = Passage(incoming.request_id, incoming.endpoint.operation, incoming.started_s)
        now = self._now
        if self._tracing is not None:
            passage.trace = self._tracing.begin(incoming.headers)
        try:
            key = self.authenticate(incoming.headers)
            passage.steps.append(("authenticate", now()))
            if "inference" not in key.scopes:
                raise NotPermitted("This API key is not for inference: its scopes lack 'inference'.")
            request = schemas.parse(incoming.endpoint, incoming.body)
            target = self.catalogue.target(request, key)
            passage.begin(key, target, request)
            async with self._charge(incoming, key, request, target) as charge:
                passage.steps.append(("admit", now()))
                passage.charge = charge
                entry = await self._look_up(passage, incoming, request, target, key)
                if entry is None:
                    await self._serve(passage, incoming, request, out)
                else:
                    body = self._from_cache(entry, request, charge, passage.cache)
                    self._audit(passage, incoming, request, key, charge)
                    await out.whole(self._head(passage, request), body)
                    passage.answered_s = now()
        except BaseException as error:
            passage.failed(error)
            raise
        finally:
            passage.ended_s = now()
            passage.observe(self._telemetry)
            if self._tracing is not None:
                self._tracing.offer(passage)

    async def _serve(self, passage: Passage, incoming: Incoming, request: Inference, out: Outlet) -> None:
        """Have a model answer, and hand on what it says."""
        key, _, charge = passage.of()
        charge.accept()
        if request.stream:
            out.accept(passage.first_line(EVENT_STREAM))
        headers = incoming.headers
        if sharing.may_share(self._coalesced, headers, request):
            member = _Member(self, passage, incoming, request, out)
            name = sharing.name_of(key, passage.of()[1], headers, request, passage.cache_key)
            await self._coalescing.run(name, member)
            receiver = member.form
        else:
            choice = self._choose(passage, incoming, request)
            receiver = self._receiver(request, choice, charge)
            call = self._call(incoming, request, key, choice, receiver)
            charge.serving = passage.trip = call.trip
            call.trace = passage.trace
            await self._attempts.run(call, self._delivery(passage, request, receiver, out))
        passage.answered_s = self._now()
        if not charge.stopped:
            charge.progress(*receiver.usage(request.prompt_tokens_estimate))
            passage.finish_reasons = receiver.finish_reasons
            await self._offer(passage, charge, receiver)

    def _choose(self, passage: Passage, incoming: Incoming, request: Inference) -> Choice:
        """Choose the model, and note it."""
        _, target, charge = passage.of()
        choice = passage.choice = self._chooser.choose(target, request, incoming.headers)
        if target.route:
            passage.steps.append(("classify", self._now()))
        charge.answered_by(choice.model.name)
        return choice

    def _delivery(self, passage: Passage, request: Inference, receiver: Form, out: Outlet) -> Deliver:
        """Give what hands the pieces of an answer on, and has them billed."""
        charge = passage.of()[2]

        async def deliver(piece: bytes) -> bool:
            usage, estimated = receiver.usage(request.prompt_tokens_estimate)
            if usage.completion_tokens > charge.covered_tokens and not await charge.extend(usage):
                await out.piece(self._stopped(passage, charge, receiver))
                return False
            charge.progress(usage, estimated)
            receiver.keep(piece)
            if request.stream:
                if not passage.first_byte_s:
                    passage.first_byte_s = self._now()
                    await out.begin(self._head(passage, request))
                await out.piece(piece)
            else:
                passage.first_byte_s = self._now()
                await out.whole(self._head(passage, request), piece)
            return True

        return deliver

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Key:
        """Give the key of the Authorization header; raises InvalidApiKey."""
        scheme, _, text = headers.get(b"authorization", b"").partition(b" ")
        if not text:
            raise InvalidApiKey("You did not provide an API key: send 'Authorization: Bearer KEY'.")
        key = self._keys.find(text.strip(), self._wall()) if scheme.lower() == b"bearer" else None
        if key is None:
            raise InvalidApiKey("Incorrect API key provided.")
        return key

    def _charge(self, incoming: Incoming, key: Key, request: Inference, target: Target) -> Charge:
        limited = key.bounds or key.end_user is not None
        return self._billing.charge(
            Order(
                request_id=incoming.request_id,
                key=key,
                route=target.route,
                models=target.names,
                fallback=target.fallback_names,
                prompt_tokens=request.prompt_tokens_estimate,
                most_prompt_tokens=TEMPLATE_TOKENS + request.prompt_bytes,
                output_tokens=request.output_tokens_estimate,
                most_output_tokens=request.most_output_tokens(target.context_tokens) if limited else None,
                streamed=request.stream,
                operation=incoming.endpoint.operation,
                end_user=end_user_hash(request.end_user) if request.end_user else "",
                metadata=request.metadata,
                batch=band_of(key.band, request.service_tier) == BANDS["batch"],
            )
        )

    async def _look_up(
        self, passage: Passage, incoming: Incoming, request: Inference, target: Target, key: Key
    ) -> Entry | None:
        """Ask the exact cache; notes on the passage under which key the answer may be kept."""
        wish = incoming.headers.get(b"x-switchgear-cache", b"")
        typed = request.typed
        temperature = typed.temperature if isinstance(typed, Common) else 0.0
        limit = self._cache.max_temperature
        cacheable = self._cache.exact_ttl_s and caching.cacheable(temperature, limit)
        if not cacheable or wish == b"bypass" or (self._cache.opt_out and self._opted_out(key)):
            passage.cache = "bypass"
            return None
        asked = (key.tenant, target.name, incoming.endpoint.path, incoming.body)
        exact = self._hits.get(asked) or caching.exact_key(
            key.tenant, target.name, schemas.canonical(request)
        )
        entry = await self._store.get(exact, self._wall())
        passage.steps.append(("cache", self._now()))
        passage.cache = "miss" if entry is None else "hit-exact"
        if wish != b"no-store":
            passage.cache_key = exact
            if entry is None and (tags := incoming.headers.get(b"x-switchgear-cache-tag")):
                passage.tags = caching.tags(tags)
        if self.kept.likeness is not None:
            entry = await self._look_near(passage, request, target.name, key.tenant, entry)
        if entry is not None:
            passage.found(entry)
            if passage.cache == "hit-exact":
                self._remember(asked, exact)
                self.kept.note(passage.request_id, key.tenant, exact)
        return entry

    def _opted_out(self, key: Key) -> bool:
        return not {key.org, f"{key.org}/{key.project}"}.isdisjoint(self._cache.opt_out)

    def _remember(self, asked: tuple[str, str, str, bytes], exact: bytes) -> None:
        """Keep the key of a request that was found: its next repetition need not be made canonical again."""
        if len(asked[3]) <= MEMO_BODY_BYTES:
            if len(self._hits) >= MEMO_ENTRIES:
                self._hits.clear()
            self._hits[asked] = exact

    async def _look_near(
        self, passage: Passage, request: Inference, name: str, tenant: str, entry: Entry | None
    ) -> Entry | None:
        """Ask the semantic tier where the exact one had nothing."""
        likeness = self.kept.likeness
        assert likeness is not None
        if entry is not None:
            likeness.passed(tenant, name)
            return entry
        found = passage.found_near = await likeness.look_up(request, name, tenant, self._wall())
        passage.steps.append(("likeness", self._now()))
        if found is None or found.entry is None:
            return None
        passage.cache = "hit-semantic"
        self.kept.note_near(passage.request_id, tenant, found)
        return found.entry

    def _audit(
        self, passage: Passage, incoming: Incoming, request: Inference, key: Key, charge: Charge
    ) -> None:
        """Have a semantic hit asked again, where the cache drew that."""
        found, target, cache_key = passage.found_near, passage.target, passage.cache_key
        if found is None or not found.verdict.audit or self.kept.likeness is None:
            return
        if target is None or cache_key is None:
            return
        choice = self._chooser.choose(target, request, incoming.headers)
        receiver = self._receiver(request, choice, charge)
        call = self._call(incoming, request, key, choice, receiver)
        kept = partial(self._kept, passage, choice.model.name)
        self.kept.likeness.audit(Audit(found, call, receiver, cache_key, kept))

    def _from_cache(self, entry: Entry, request: Inference, charge: Charge, how: str) -> bytes:
        """Make the answer of a kept one, as the client asked for it, and book it."""
        charge.answered_by(entry.model)
        charge.source = "hit-semantic" if how == "hit-semantic" else "hit-exact"
        usage = Usage(
            entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens, entry.reasoning_tokens
        )
        charge.progress(usage, False)
        self.kept.saved_tokens[charge.source] += entry.prompt_tokens + entry.completion_tokens
        body = answers.renewed(entry.body, charge.request_id, int(self._wall()))
        if not request.stream:
            return body
        return answers.to_stream(body, include_usage=request.include_usage, cost_usd=charge.cost_of)

    def _stopped(self, passage: Passage, charge: Charge, receiver: Form) -> bytes:
        """Give the declared end of a stream that money stops; InsufficientQuota before its first byte."""
        if not passage.first_byte_s or not isinstance(receiver, StreamReceiver):
            raise InsufficientQuota("The credit or budget that is left does not cover this request.")
        return receiver.stop("insufficient_quota", charge.usage)

    async def _offer(self, passage: Passage, charge: Charge, receiver: Form) -> None:
        """Offer a complete answer to the cache."""
        if passage.cache_key is None:
            return
        entry = self._kept(passage, charge.price.model, receiver)
        if entry is None:
            return
        await self._store.put(passage.cache_key, entry)
        self.kept.note(passage.request_id, entry.tenant, passage.cache_key)
        found, likeness = passage.found_near, self.kept.likeness
        if found is not None and likeness is not None and "tool_calls" not in receiver.finish_reasons:
            likeness.offer(found, passage.cache_key, entry, charge.cost_usd * NANO)

    def _kept(self, passage: Passage, model: str, receiver: Form) -> Entry | None:
        """Make an entry of a complete answer; None where it is not fit to be served again."""
        cache_key = passage.cache_key
        if cache_key is None or not receiver.kept or not caching.reusable(receiver.finish_reasons):
            return None
        kept = b"".join(receiver.kept)
        body = answers.from_stream(kept, receiver.final) if isinstance(receiver, StreamReceiver) else kept
        if len(body) > self._cache.max_answer_bytes or receiver.final is None:
            return None
        now_s = self._wall()
        return Entry(
            id=cache_key.hex()[:24],
            tenant=passage.of()[0].tenant,
            model=model,
            asked=passage.name,
            tags=passage.tags,
            body=body,
            prompt_tokens=receiver.final.prompt_tokens,
            cached_tokens=receiver.final.cached_tokens,
            completion_tokens=receiver.final.completion_tokens,
            reasoning_tokens=receiver.final.reasoning_tokens,
            stored_s=now_s,
            expires_s=now_s + self._cache.exact_ttl_s,
        )

    def _receiver(self, request: Inference, choice: Choice, charge: Charge) -> StreamReceiver | WholeReceiver:
        if not request.stream:
            return WholeReceiver(choice.model.name, limit_bytes=ANSWER_LIMIT_BYTES)
        return StreamReceiver(
            choice.model.name,
            choices=request.choices,
            include_usage=request.include_usage,
            token_ids=request.wants_token_ids or not request.bears_token_ids,
            keep_bytes=self._cache.max_answer_bytes,
            cost_usd=charge.cost_of,
        )

    def _call(
        self, incoming: Incoming, request: Inference, key: Key, choice: Choice, receiver: Receiver
    ) -> Call:
        settings: ModelSettings = choice.model.settings
        headers = [(b"x-request-id", incoming.request_id.encode())]
        if self._tracing is None:
            headers += passed_on(incoming.headers)
        band = band_of(key.band, request.service_tier)
        generates = request.endpoint.kind == "chat"
        tenant = key.tenant
        return Call(
            model=settings.name,
            path=request.endpoint.path,
            body=schemas.upstream_body(
                request,
                settings.upstream_name,
                token_ids=choice.model.returns_token_ids,
                priority=engine_priority(band, request.priority)
                if choice.model.takes_priority and generates
                else None,
                tenant=tenant if choice.model.salts_prefixes and generates else None,
            ),
            headers=headers,
            receiver=receiver,
            query=self._query(settings, request, tenant),
            band=band,
            deadline_s=_deadline_s(incoming),
            first_byte_s=settings.first_byte_timeout_s,
            idle_s=settings.stall_timeout_s,
            max_attempts=settings.max_attempts,
        )

    def _query(self, settings: ModelSettings, request: Inference, tenant: str) -> Query:
        """Say what the choice of a replica reads; the marks of the prompt only where they are read."""
        prefix: tuple[bytes, ...] = ()
        if self._attempts.reads_prefix(settings.name):
            prefix = marks(*request.prompt_and_salt("" if settings.share_prefix_cache else tenant))
        return Query(
            model=settings.name,
            tenant=tenant,
            prompt_tokens=request.prompt_tokens_estimate,
            output_tokens=request.output_tokens_estimate,
            prefix=prefix,
        )

    def _head(self, passage: Passage, request: Inference) -> bytes:
        """Give the head of an answer; a buffered one's cost is known by now."""
        now_s, wall_s = self._now(), self._wall()
        charge = passage.of()[2]
        if request.stream:
            return b"%b%b%b" % (
                passage.first_line(EVENT_STREAM),
                rate_lines(charge.verdict),
                passage.lines(now_s, wall_s),
            )
        return b"%b%b%bx-switchgear-cost-usd: %.9f\r\n" % (
            passage.first_line(JSON),
            rate_lines(charge.verdict),
            passage.lines(now_s, wall_s),
            charge.cost_usd,
        )


class _Member:
    """A request among those that share an upstream call; see ``coalescing.Member``."""

    form: Form

    def __init__(
        self, pipeline: Pipeline, passage: Passage, incoming: Incoming, request: Inference, out: Outlet
    ) -> None:
        self._pipeline = pipeline
        self._passage = passage
        self._incoming = incoming
        self._request = request
        self._out = out

    def lead(self) -> tuple[Head, Call]:
        """Choose the model and make the call, for everybody."""
        pipeline, passage, request = self._pipeline, self._passage, self._request
        choice = pipeline._choose(passage, self._incoming, request)
        name = choice.model.name
        tap = (
            StreamTap(request.choices)
            if request.stream
            else pipeline._receiver(request, choice, passage.of()[2])
        )
        call = pipeline._call(self._incoming, request, passage.of()[0], choice, tap)
        call.trace = passage.trace
        return Head(name, choice.score, choice.reason, request.stream), call

    def follow(self, head: Head, trip: Trip | None) -> tuple[Form, Deliver]:
        """Take the answer in the form that was asked for; who joined is billed as joined."""
        passage, charge = self._passage, self._passage.of()[2]
        if trip is None:
            passage.choice = Choice(self._pipeline.catalogue.models[head.model], head.score, head.reason)
            charge.answered_by(head.model)
            charge.source, passage.cache, passage.cache_key = "joined", "joined", None
        else:
            charge.serving = passage.trip = trip
        request, model = self._request, head.model
        if head.streamed != request.stream:
            self.form = sharing.other_form(request, model, charge.cost_of)
        else:
            assert passage.choice is not None
            self.form = self._pipeline._receiver(request, passage.choice, charge)
        return self.form, self._pipeline._delivery(passage, self._request, self.form, self._out)

    def pay(self, trip: Trip) -> None:
        """Pay the full price from now on, for all of it."""
        charge = self._passage.of()[2]
        charge.source, charge.serving = "upstream", trip


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
