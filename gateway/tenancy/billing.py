"""From admission to settlement: one ``Charge`` per accepted request, settled exactly once.

Admission takes rate, slot and a reservation atomically; accepting, before anything is sent to a replica,
writes the journal's first line; leaving the charge, by whatever exit, writes the last one without waiting for
anything. An answer from the cache needs the last one only.
"""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from gateway.errors import SHUT_DOWN, ModelNotPriced, NotRecordable, ours, translate
from gateway.openai.usage import MAX_TOKENS, Usage
from gateway.state.limits import Ask, Bound, Limits, Verdict
from gateway.tenancy.journal import Accepted, Entry, Journal, JournalError, Progress, Segment
from gateway.tenancy.keys import Key
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.pricing import (
    NANO,
    UNPRICED,
    Price,
    Service,
    Source,
    amount_nanousd,
    ceiling_nanousd,
    covered_tokens,
)
from gateway.tenancy.refusals import refused

log = logging.getLogger("switchgear.billing")

PROGRESS_TOKENS = 32
PROGRESS_S = 1.0

# A stream reserves its prompt and so many tokens, and as many again before they are used up; where there is
# no room for a whole step, less.
STEP_TOKENS = 256
AHEAD_TOKENS = 64
STEPS_TOKENS = (STEP_TOKENS, 128, 64, 32, 16, 8, 4, 2, 1, 0)
UNKNOWN_OUTPUT_TOKENS = 4096  # of a buffered answer that nothing limits

Status = Literal["ok", "stopped", "refused", "error", "cancelled"]


class Serving(Protocol):
    """What the attempts tell of an answer while it comes: the replicas, and whether the last one is spot."""

    tried: list[str]
    spot: bool


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the books see it: who asks, for what, and the models that may answer.

    ``models`` are the tiers, cheapest first, ``fallback`` may answer too. Tokens are estimates, and the most
    that can come (of output None where nothing says). ``end_user`` is a hash, ``metadata`` JSON text; both
    are empty where there is none.
    """

    request_id: str
    key: Key
    route: str
    models: tuple[str, ...]
    fallback: tuple[str, ...] = ()
    prompt_tokens: int
    most_prompt_tokens: int
    output_tokens: int
    most_output_tokens: int | None = None
    streamed: bool = False
    operation: str = ""
    end_user: str = ""
    metadata: str = ""
    batch: bool = False


class Charge:
    """What one request costs, from its admission on."""

    def __init__(self, billing: "Billing", order: Order, ask: Ask, largest: Price) -> None:
        self._billing = billing
        self.order = order
        self.request_id = order.request_id
        self.key = order.key
        self.ask = ask
        self.reserved_nanousd = ask.cost_nanousd
        self.price = self.largest = largest
        self.source: Source = "upstream"
        self.serving: Serving | None = None
        self.usage = Usage()
        self.estimated = False
        self.stopped = False
        self.verdict = Verdict()
        self.ts = billing.now()
        self.segment: Segment | None = None
        self.unrecorded = False
        self.booked_nanousd = self.saved_nanousd = 0
        """Once settled: what it costs, and what it costs less because it was not computed for it alone."""
        self._measure: Callable[[], tuple[Usage, bool]] | None = None
        self._delivered_tokens = 0  # of what was not measured yet
        self._noted_tokens = 0
        self._noted_s = 0.0
        self._short = False  # there was no room for a whole step
        # Up to so many output tokens the reservation needs no look; a stream's first token is looked at, and
        # so is an answer that nothing limits.
        looked_at = order.streamed or order.most_output_tokens is None
        self.covered_tokens = 0 if looked_at and ask.cost_nanousd else MAX_TOKENS

    @property
    def replicas(self) -> list[str]:
        """The replicas that were tried."""
        return self.serving.tried if self.serving is not None else []

    @property
    def service(self) -> Service:
        """What the answer is a discount for."""
        if self.order.batch:
            return "batch"
        return "spot" if self.serving is not None and self.serving.spot else "standard"

    async def extend(self, usage: Usage) -> bool:
        """Make the reservation cover a stream's next step, or what there is room for.

        False where it does not even cover ``usage``: what brought the stream there must not be delivered.
        """
        have, most = usage.completion_tokens, self.order.most_output_tokens or MAX_TOKENS
        covered = covered_tokens(self.price, self.reserved_nanousd, usage.prompt_tokens)
        if covered < min(have + AHEAD_TOKENS, most) and not (self._short and covered >= have):
            covered = await self._reserve_more(usage, most, covered)
        if covered < have:
            self.stopped = True
            self._billing.ran_short(self, ceiling_nanousd(self.price, usage.prompt_tokens, have))
        # A look in time while there is room to grow, at the very end of it otherwise.
        self.covered_tokens = covered if self._short or covered >= most else max(have, covered - AHEAD_TOKENS)
        return not self.stopped

    async def _reserve_more(self, usage: Usage, most: int, covered: int) -> int:
        """Reserve a step, or a smaller one where there is no room; gives the output tokens covered then."""
        for step in STEPS_TOKENS[4:] if self._short else STEPS_TOKENS:
            output_tokens = min(usage.completion_tokens + step, max(most, usage.completion_tokens))
            if output_tokens <= covered:
                break
            wanted = ceiling_nanousd(self.price, usage.prompt_tokens, output_tokens)
            if await self._billing.extend(self, wanted):
                self._short = step < STEP_TOKENS
                return output_tokens
        self._short = True
        return covered

    def answered_by(self, model: str) -> None:
        """Note which model answers: its price counts from now on."""
        if model != self.price.model:
            self.price = self._billing.prices.find(model, self.key.org, self.ts)

    @property
    def cost_usd(self) -> float:
        """The cost of the usage so far."""
        return self.cost_of(self.usage)

    def cost_of(self, usage: Usage) -> float:
        """The cost of a usage, in USD."""
        return self.amount_nanousd(usage) / NANO

    def amount_nanousd(self, usage: Usage) -> int:
        """The cost of a usage."""
        return amount_nanousd(self.price, usage, self.source, self.service)

    def baseline_nanousd(self, usage: Usage) -> int:
        """What the usage would have cost on the largest tier, without routing and cache."""
        return amount_nanousd(self.largest, usage, "upstream", self.service)

    def measured_by(self, measure: Callable[[], tuple[Usage, bool]]) -> None:
        """Have ``delivers`` read the usage off a stream."""
        self._measure = measure

    def delivers(self, tokens: int) -> None:
        """Note up to which output token a stream is delivered; its usage is read only now and then."""
        self._delivered_tokens = tokens
        if (
            tokens - self._noted_tokens >= PROGRESS_TOKENS
            or self._billing.now() - self._noted_s >= PROGRESS_S
        ):
            self.catch_up()

    def catch_up(self) -> None:
        """Bring the usage to what was delivered."""
        if self._delivered_tokens and self._measure is not None:
            usage, estimated = self._measure()
            if usage.completion_tokens != self._delivered_tokens:  # what came last did not get out
                usage = msgspec.structs.replace(usage, completion_tokens=self._delivered_tokens)
            self.progress(usage, estimated)

    def progress(self, usage: Usage, estimated: bool) -> None:
        """Note what was delivered; of a stream, it goes into the journal now and then."""
        self.usage = usage
        self.estimated = estimated
        self._delivered_tokens = 0
        if not self.order.streamed:
            return
        now_s = self._billing.now()
        if (
            usage.completion_tokens - self._noted_tokens < PROGRESS_TOKENS
            and now_s - self._noted_s < PROGRESS_S
        ):
            return
        self._noted_tokens = usage.completion_tokens
        self._noted_s = now_s
        line = Progress(
            self.request_id,
            self.price.model,
            self.price.version,
            usage.prompt_tokens,
            usage.completion_tokens,
            self.amount_nanousd(usage),
            self.replicas[-1] if self.replicas else "",
            usage.cached_tokens,
            usage.reasoning_tokens,
            self.baseline_nanousd(usage),
            self.service,
        )
        try:
            self._billing.journal.append(line)
        except JournalError as error:  # no reason to cut the answer: only new requests are refused
            log.error("progress of request %s is not kept: %s", self.request_id, error)

    def accept(self) -> None:
        """Write the journal's first line: from now on the request costs something. Raises NotRecordable."""
        self._billing.accept(self)

    async def __aenter__(self) -> Self:
        await self._billing.admit(self)
        self._noted_s = self.ts
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.catch_up()
        status: Status = "stopped" if self.stopped else "ok"
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            status = "error" if SHUT_DOWN in error.args else "cancelled"
        elif error is not None:
            status = "error" if ours(translate(error).status) else "refused"
        self._billing.settle(self, status)
        self._measure = None  # it knows the receiver, which knows this charge: a circle


class Billing:
    """Admits and settles; ``now`` gives seconds since the epoch."""

    def __init__(
        self, journal: Journal, limits: Limits, prices: PriceTable, now: Callable[[], float]
    ) -> None:
        self.journal = journal
        self.prices = prices
        self.refuse_unpriced = False
        self.refused: dict[str, int] = {}
        """What the last refused request wanted, by the account that was short of money, in nano-dollars."""
        self.now = now
        self._limits = limits

    def charge(self, order: Order) -> Charge:
        """Prepare a charge; entering it admits the request.

        Raises ModelNotPriced; entering raises RateLimited, InsufficientQuota or NotRecordable.
        """
        key, now_s = order.key, self.now()
        prices = [self.prices.find(name, key.org, now_s) for name in (*order.models, *order.fallback)]
        if self.refuse_unpriced:
            _refuse_unpriced(prices)
        bounds = key.bounds
        if key.end_users and order.end_user:
            bounds = (*bounds, *(_of_end_user(bound, order.end_user) for bound in key.end_users))
        limited = False
        for bound in bounds:  # (any() of a generator costs three times as much)
            limited = limited or bound.credit or bound.budget_nanousd is not None
        ask = Ask(
            bounds=bounds,
            tokens=order.prompt_tokens + order.output_tokens,
            cost_nanousd=_reservation(order, prices) if limited else 0,
        )
        return Charge(self, order, ask, prices[len(order.models) - 1])

    def cost_usd(self, model: str, org: str, usage: Usage) -> float:
        """Give what a usage costs that nobody is charged for: a shadow's."""
        price = self.prices.find(model, org, self.now())
        return amount_nanousd(price, usage, "upstream", "batch") / NANO

    async def admit(self, charge: Charge) -> None:
        """Take what the request needs."""
        if charge.ask.bounds:
            verdict = await self._limits.take(charge.ask, charge.ts)
            if verdict.short is not None:
                if verdict.short in ("credit", "budget") and not verdict.account.startswith("user:"):
                    self.refused[verdict.account] = charge.ask.cost_nanousd
                raise refused(verdict)
            charge.verdict = verdict

    def accept(self, charge: Charge) -> None:
        """Write the journal's first line; see ``Charge.accept``."""
        key, order = charge.key, charge.order
        try:
            segment = self.journal.append(
                Accepted(
                    charge.request_id,
                    charge.ts,
                    key.org,
                    key.project,
                    key.id,
                    charge.price.model,
                    order.route,
                    order.operation,
                    order.end_user,
                    order.metadata,
                )
            )
        except JournalError as error:
            charge.unrecorded = True
            log.error("request %s is refused: %s", charge.request_id, error)
            raise NotRecordable(
                "The gateway cannot record usage at the moment.", retry_after_s=10.0
            ) from error
        segment.open_requests += 1
        charge.segment = segment

    async def extend(self, charge: Charge, wanted_nanousd: int) -> bool:
        """Bring the reservation of a running request to an amount; False where there is no room for it."""
        more = wanted_nanousd - charge.reserved_nanousd
        if not await self._limits.extend(charge.ask, more, self.now()):
            return False
        charge.reserved_nanousd = wanted_nanousd
        return True

    def ran_short(self, charge: Charge, wanted_nanousd: int) -> None:
        """Note that money ended an answer: what it lacked, at whichever of its levels."""
        lacking = max(1, wanted_nanousd - charge.amount_nanousd(charge.usage))
        for bound in charge.ask.bounds:
            if (bound.credit or bound.budget_nanousd) and not bound.account.startswith("user:"):
                self.refused[bound.account] = lacking

    def settle(self, charge: Charge, status: Status) -> None:
        """Give back the reservation and write the journal's last line."""
        usage, key, order, replicas = charge.usage, charge.key, charge.order, charge.replicas
        service, price, source = charge.service, charge.price, charge.source
        full = amount = amount_nanousd(price, usage, "upstream", service)
        if source != "upstream":
            amount = amount_nanousd(price, usage, source, service)
        charge.booked_nanousd, charge.saved_nanousd = amount, full - amount
        tokens = usage.prompt_tokens + usage.completion_tokens
        self._release(charge, tokens, amount)
        if charge.unrecorded:
            return
        entry = Entry(
            charge.request_id,
            charge.ts,
            key.org,
            key.project,
            key.id,
            price.model,
            order.route,
            status,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            amount,
            price.version,
            source,
            len(replicas),
            ",".join(replicas),
            charge.estimated,
            usage.reasoning_tokens,
            full if price is charge.largest else charge.baseline_nanousd(usage),
            service,
            order.operation,
            order.end_user,
            order.metadata,
        )
        try:
            self.journal.append(entry)
        except JournalError as error:
            # Its segment stays open: a crash settles it by its last progress line, else it is written later.
            log.error("request %s is not settled yet: %s", charge.request_id, error)
            self.journal.owe(entry, charge.segment)
            return
        if charge.segment is not None:
            charge.segment.open_requests -= 1

    def _release(self, charge: Charge, tokens: int, amount: int) -> None:
        if charge.ask.bounds:
            self._limits.settle(charge.ask, charge.reserved_nanousd, tokens, amount, self.now())


def _reservation(order: Order, prices: list[Price]) -> int:
    """Give what is reserved at admission: a stream's first step, the most that a buffered answer costs."""
    most = order.most_output_tokens
    if order.streamed:
        prompt_tokens = order.prompt_tokens
        output_tokens = STEP_TOKENS if most is None else min(STEP_TOKENS, most)
    else:
        prompt_tokens = order.most_prompt_tokens
        output_tokens = UNKNOWN_OUTPUT_TOKENS if most is None else most
    return max([ceiling_nanousd(price, prompt_tokens, output_tokens) for price in prices])


def _of_end_user(bound: Bound, end_user: str) -> Bound:
    """Give the limits that a level has for each end user, for one of them."""
    return msgspec.structs.replace(bound, account=bound.account + end_user)


def _refuse_unpriced(prices: list[Price]) -> None:
    for price in prices:
        if price.version == UNPRICED:
            raise ModelNotPriced(f"The model {price.model!r} has no price; the operator must give it one.")
