"""Admits requests and settles them: one ``Charge`` per accepted request.

Admission takes rate, slot and a reservation atomically; accepting, before anything is sent to a replica,
writes the journal's first line; leaving the charge, by whatever exit, writes the last one without waiting for
anything. An answer from the cache needs the last one only.
"""

import logging
from collections.abc import Callable

import msgspec

from gateway.errors import ModelNotPriced, NotRecordable
from gateway.openai.usage import Usage
from gateway.state.limits import Ask, Bound, Limits
from gateway.tenancy.charge import STEP_TOKENS, Charge, Order, Quote, Status
from gateway.tenancy.journal import Accepted, Entry, Journal, JournalError
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.pricing import NANO, UNPRICED, Price, amount_nanousd, ceiling_nanousd
from gateway.tenancy.refusals import refused

log = logging.getLogger("switchgear.billing")

UNKNOWN_OUTPUT_TOKENS = 4096  # of a buffered answer that nothing limits


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

    def quote(self, order: Order) -> Quote:
        """Work out what an order asks of the limits."""
        key, now_s, edition = order.key, self.now(), self.prices.edition
        prices = [self.prices.find(name, key.org, now_s) for name in (*order.models, *order.fallback)]
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
        return Quote(order, ask, prices, edition, *self.prices.span(now_s))

    def holds(self, quote: Quote) -> bool:
        """Tell whether the prices that a quote was made of are still in force."""
        return quote.edition is self.prices.edition and quote.from_s <= self.now() < quote.until_s

    def charge(self, request_id: str, quote: Quote) -> Charge:
        """Prepare a charge; entering it admits the request.

        Raises ModelNotPriced; entering raises RateLimited, InsufficientQuota or NotRecordable.
        """
        if self.refuse_unpriced:
            _refuse_unpriced(quote.prices)
        return Charge(self, request_id, quote)

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
