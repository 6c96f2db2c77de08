"""The way of a request, in order.

``Pipeline.infer`` hands the answer to an ``Outlet``, piece by piece. Whatever is taken on the way (rate,
reservation, slot, connection) is taken inside it and given back when it is left, by whatever exit.
"""

import asyncio
from collections.abc import Mapping

from gateway import cascading, sharing
from gateway.aftermath import Aftermath
from gateway.bands import BANDS, band_of
from gateway.batching import Batching
from gateway.calls import Calls, Incoming
from gateway.catalogue import Catalogue, Model, Target
from gateway.choosing import Choice, Chooser, text_of
from gateway.coalescing import Coalescing
from gateway.delivery import Delivery
from gateway.errors import (
    InsufficientQuota,
    InvalidApiKey,
    ModelLoading,
    NotPermitted,
    Overloaded,
    QueueTimeout,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
    translate,
)
from gateway.member import Member
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Form
from gateway.openai.schemas import Endpoint, Inference
from gateway.outlet import Outlet
from gateway.passage import Passage
from gateway.settings import CacheSettings, CoalescingSettings
from gateway.shadows import Shadows, job_of
from gateway.sharpening import Sharpening
from gateway.shelf import Shelf
from gateway.telemetry import Telemetry
from gateway.tenancy.accounts import end_user_hash
from gateway.tenancy.billing import Billing
from gateway.tenancy.charge import Charge, Order, Quote
from gateway.tenancy.keys import Key, KeyTable
from gateway.tenancy.refusals import rate_lines
from gateway.tracing import Tracing
from gateway.trip import Call
from semantic_cache.stores.base import Entry, Store

TEMPLATE_TOKENS = 64  # what a chat template may add: a default system prompt
JSON = b"content-type: application/json\r\n"
EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
# What a model's own trouble looks like: its route's fallback may do better.
ANOTHER_MODEL_MAY = (UpstreamFailed, UpstreamTimeout, Overloaded, ModelLoading, RateLimited, QueueTimeout)


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
        sharpening: Sharpening,
        shadows: Shadows,
        telemetry: Telemetry,
        aftermath: Aftermath,
        tracing: Tracing | None,
    ) -> None:
        self._keys = keys
        self._billing = billing
        self._chooser = chooser
        self._attempts = attempts
        self._coalescing = coalescing
        self._sharpening, self._shadows = sharpening, shadows
        self._telemetry = telemetry
        self._tracing = tracing
        self._aftermath = aftermath
        self.now, self._wall = attempts.now, billing.now
        self.calls = Calls(attempts, traced=tracing is not None)
        self.shelf = Shelf(store, self.now, self._wall)
        self.catalogue: Catalogue
        self._coalesced = CoalescingSettings()

    def adopt(self, catalogue: Catalogue, cache: CacheSettings, coalesced: CoalescingSettings) -> None:
        """Put a configuration in force; requests under way finish on the one they began with."""
        self.catalogue = catalogue
        self._sharpening.models = self._shadows.models = catalogue.models
        self.shelf.adopt(cache)
        self.calls.keep_bytes = cache.max_answer_bytes
        self._coalesced = coalesced
        self._coalescing.limit_bytes = coalesced.max_bytes

    @property
    def live(self) -> bool:
        """Whether shared calls are asked for as streams."""
        return self._coalesced.live

    @property
    def any_resumable(self) -> bool:
        """Whether there is a key whose streams can all be resumed."""
        return self._keys.any_resumable

    async def infer(self, incoming: Incoming, out: Outlet) -> None:
        """Answer one request into ``out``. Raises what ``errors.translate`` knows."""
        passage = Passage(incoming.request_id, incoming.endpoint.operation, incoming.started_s)
        now = self.now
        if self._tracing is not None:
            passage.trace = self._tracing.begin(incoming.headers)
        try:
            key = passage.key = self.authenticate(incoming.headers)
            passage.steps.append(("authenticate", now()))
            if "inference" not in key.scopes:
                raise NotPermitted("This API key is not for inference: its scopes lack 'inference'.")
            request = self.shelf.read(key, incoming)
            target = self.catalogue.target(request, key)
            passage.begin(key, target, request)
            if self._tracing is not None and self._tracing.content is not None:
                out = self._tracing.noted(passage, incoming.body, out)
            async with self._charge(incoming, key, request, target) as charge:
                passage.steps.append(("admit", now()))
                passage.charge = charge
                entry = await self.shelf.look_up(passage, incoming, request)
                if entry is not None and target.route and self._falls(passage, entry, request):
                    entry = None
                if entry is None:
                    try:
                        await self._serve(passage, incoming, request, out)
                    except Exception as error:
                        may = isinstance(translate(error), ANOTHER_MODEL_MAY)
                        if not (may and await self.shelf.stand_in(passage, request, self.head, out)):
                            raise
                else:
                    body = self.shelf.answer(passage, entry, request)
                    self._audit(passage, incoming, request)
                    if request.stream and self.shelf.paced:
                        await self._replay(passage, entry, request, out)
                    else:
                        await out.whole(self.head(passage, request), body)
                    passage.answered_s = now()
        except BaseException as error:
            passage.failed(error)
            raise
        finally:
            passage.ended_s = now()
            self._aftermath.take(passage)

    def _falls(self, passage: Passage, entry: Entry, request: Inference) -> bool:
        """Tell whether a conversation would fall to the tier of a kept answer; else it has that tier."""
        key, target, _ = passage.of()
        if self._chooser.falls_to(entry.model, target, request, key):
            passage.cache, passage.hit = "miss", None
            return True
        self._chooser.answered_by(entry.model, target, request, key)
        return False

    async def _replay(self, passage: Passage, entry: Entry, request: Inference, out: Outlet) -> None:
        """Stream a kept answer at the pace of a model."""
        pieces, pause_s = self.shelf.pieces(passage, entry, request)
        out.accept(passage.first_line(EVENT_STREAM))
        passage.first_byte_s = self.now()
        await out.begin(self.head(passage, request))
        for piece in pieces:
            await out.piece(piece)
            await asyncio.sleep(pause_s)

    async def _serve(self, passage: Passage, incoming: Incoming, request: Inference, out: Outlet) -> None:
        """Have a model answer, and hand on what it says."""
        key, target, charge = passage.of()
        charge.accept()
        if request.stream:
            out.accept(passage.first_line(EVENT_STREAM))
        headers, settings = incoming.headers, target.settings
        if settings is not None and settings.grade == "precise":
            passage.reading = await self._sharpening.read(settings, text_of(request))
        cascade = settings.cascade if settings is not None else None
        if cascade is None and sharing.may_share(self._coalesced, headers, request):
            member = Member(self, passage, incoming, request, out)
            exact = passage.cache_key or self.shelf.key_of(key, target.shared_name(key), request)
            name = sharing.name_of(key, target, headers, request, exact)
            await self._coalescing.run(name, member)
            receiver = member.form
        else:
            choice = self.choose(passage, incoming, request)
            served = None
            if cascade is not None and cascading.applies(choice, request):
                served = await self._first(passage, incoming, request, out)
            receiver = served or await self._asked(passage, incoming, request, out)
        passage.answered_s = self.now()
        if not charge.stopped:
            charge.progress(*receiver.usage(request.prompt_tokens_estimate))
            passage.finish_reasons = receiver.finish_reasons
            if passage.choice is not None and passage.choice.aim is not None:
                self._chooser.spent(target, passage.choice, charge.cost_usd, key)
            await self.shelf.offer(passage, receiver)
            if settings is not None and settings.shadow is not None:
                self._shadow(passage, incoming, request, receiver)

    async def _asked(
        self, passage: Passage, incoming: Incoming, request: Inference, out: Outlet
    ) -> StreamReceiver | WholeReceiver:
        """Ask the chosen model, and its route's fallback where it fails before the first byte."""
        _, target, charge = passage.of()
        shadowed = target.settings is not None and target.settings.shadow is not None
        keeps = passage.cache_key is not None or shadowed
        while True:
            assert passage.choice is not None
            receiver = self.calls.receiver(request, passage.choice, charge, keeps=keeps)
            call = self._call(passage, incoming, request, receiver)
            deliver = Delivery(self, passage, request, receiver, out)
            call.direct = deliver.direct
            try:
                await self._attempts.run(call, deliver)
                return receiver
            except Exception as error:
                if self.spare(passage, incoming, request, call, error) is None:
                    raise

    def _call(
        self,
        passage: Passage,
        incoming: Incoming,
        request: Inference,
        receiver: StreamReceiver | WholeReceiver,
    ) -> Call:
        """Make the call of the chosen model, and note it."""
        key, _, charge = passage.of()
        assert passage.choice is not None
        before = passage.trip if passage.trip is not None and not passage.trip.delivered else None
        call = self.calls.make(incoming, request, key, passage.choice, receiver, before)
        charge.serving = passage.trip = call.trip
        call.trace = passage.trace
        return call

    async def _first(
        self, passage: Passage, incoming: Incoming, request: Inference, out: Outlet
    ) -> StreamReceiver | WholeReceiver | None:
        """Have the cheap tier answer; None where another one is chosen, for what it is unsure of."""
        key, target, charge = passage.of()
        choice = passage.choice
        assert choice is not None
        assert target.settings is not None
        cascade = target.settings.cascade
        assert cascade is not None
        following = self._chooser.next(target, choice, request, key)
        if following is None:
            return None
        asked = cascading.asking(request)
        receiver = self.calls.receiver(asked, choice, charge)
        held = cascading.Held(request)
        call = self._call(passage, incoming, asked, receiver)
        doubt = await cascading.first(self._attempts.run, call, receiver, held, cascade)
        cascading.count(self._telemetry, target.route, doubt, receiver, request.prompt_tokens_estimate)
        if not doubt:
            deliver = Delivery(self, passage, request, receiver, out)
            for piece in held.pieces():
                await deliver(piece)
            return receiver
        passage.choice = following
        self._chooser.answered_by(following.model.name, target, request, key)
        charge.answered_by(following.model.name)
        return None

    def _shadow(self, passage: Passage, incoming: Incoming, request: Inference, receiver: Form) -> None:
        """Have the other tier asked too, where that is drawn."""
        key, target, charge = passage.of()
        choice = passage.choice
        if choice is None or choice.reading is None or not self._shadows.wanted(target, key):
            return
        job = job_of(target, key.tenant, choice.reading, request, receiver, choice.model)
        if job is None:
            return

        def make(model: Model) -> tuple[Call, StreamReceiver | WholeReceiver]:
            other = Choice(model, None, "shadow")
            taker = self.calls.receiver(request, other, charge)
            return self.calls.make(incoming, request, key, other, taker), taker

        def usd_of(model: Model, taker: StreamReceiver | WholeReceiver) -> float:
            usage, _ = taker.usage(request.prompt_tokens_estimate)
            return self._billing.cost_usd(model.name, key.org, usage)

        self._shadows.offer(job(make=make, usd_of=usd_of))

    def choose(self, passage: Passage, incoming: Incoming, request: Inference) -> Choice:
        """Choose the model, and note it."""
        _, target, charge = passage.of()
        choice = passage.choice = self._chooser.choose(
            target, request, incoming.headers, passage.of()[0], passage.reading
        )
        if target.route:
            if choice.score is not None and self._chooser.embedded_s > passage.steps[-1][1]:
                passage.steps.append(("embed", self._chooser.embedded_s))
            passage.steps.append(("classify", self.now()))
        charge.answered_by(choice.model.name)
        return choice

    def spare(
        self, passage: Passage, incoming: Incoming, request: Inference, call: Call, error: Exception
    ) -> Choice | None:
        """Choose the route's fallback after a failure before the first byte, and note it; None for none."""
        key, target, charge = passage.of()
        failed = passage.choice
        hopeless = call.trip.delivered or self.now() >= call.deadline_s or failed is None
        if hopeless or not target.fallback or not isinstance(translate(error), ANOTHER_MODEL_MAY):
            return None
        assert failed is not None
        choice = self._chooser.spare(target, failed.model, incoming.headers, key)
        if choice is not None:
            passage.choice = choice
            self._chooser.answered_by(choice.model.name, target, request, key)
            charge.answered_by(choice.model.name)
        return choice

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
        quote = request.quote
        if not (isinstance(quote, Quote) and _is_of(quote, key, target) and self._billing.holds(quote)):
            quote = request.quote = self._billing.quote(_order(key, request, target, incoming.endpoint))
        return self._billing.charge(incoming.request_id, quote)

    def _audit(self, passage: Passage, incoming: Incoming, request: Inference) -> None:
        """Have a hit asked again, where the cache drew that."""
        found = passage.found_near
        if passage.to_check is None and (found is None or not found.verdict.audit):
            return
        key, target, charge = passage.of()
        choice = self._chooser.weigh(target, request, incoming.headers, key)
        receiver = self.calls.receiver(request, choice, charge)
        call = self.calls.make(incoming, request, key, choice, receiver)
        self.shelf.audit(passage, choice.model.name, call, receiver)

    def stopped(self, passage: Passage, charge: Charge, receiver: Form) -> bytes:
        """Give the declared end of a stream that money stops; InsufficientQuota before its first byte."""
        if not passage.first_byte_s or not isinstance(receiver, StreamReceiver):
            raise InsufficientQuota("The credit or budget that is left does not cover this request.")
        return receiver.stop("insufficient_quota", charge.usage)

    def head(self, passage: Passage, request: Inference) -> bytes:
        """Give the head of an answer; a buffered one's cost is known by now."""
        now_s, wall_s = self.now(), self._wall()
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


def _is_of(quote: Quote, key: Key, target: Target) -> bool:
    """Tell whether a quote is for this key as it is now, and this target as it is now."""
    order = quote.order
    return order.key is key and order.models is target.names and order.route == target.route


def _order(key: Key, request: Inference, target: Target, endpoint: Endpoint) -> Order:
    limited = key.bounds or key.end_users
    return Order(
        key=key,
        route=target.route,
        models=target.names,
        fallback=target.fallback_names,
        prompt_tokens=request.prompt_tokens_estimate,
        most_prompt_tokens=TEMPLATE_TOKENS + request.prompt_bytes,
        output_tokens=request.output_tokens_estimate,
        most_output_tokens=request.most_output_tokens(target.context_tokens) if limited else None,
        streamed=request.stream,
        operation=endpoint.operation,
        end_user=end_user_hash(request.end_user) if request.end_user else "",
        metadata=request.metadata,
        batch=band_of(key.band, request.service_tier) == BANDS["batch"],
    )
