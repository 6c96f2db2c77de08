"""From admission to settlement: one ``Charge`` per accepted request, settled exactly once.

Admission takes rate, slot and a reservation atomically and writes the journal's first line; leaving the
charge, by whatever exit, writes the last one without waiting for anything.
"""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

import msgspec

from gateway.errors import InsufficientQuota, InternalError, ModelNotPriced, NotRecordable, RateLimited
from gateway.openai.usage import Usage
from gateway.state.limits import Ask, Left, Limits, Verdict
from gateway.tenancy.journal import Accepted, Entry, Journal, JournalError, Progress, Segment
from gateway.tenancy.keys import Key
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.pricing import NANO, UNPRICED, Price, Service, Source, amount_nanousd

log = logging.getLogger("switchgear.billing")

PROGRESS_TOKENS = 32
PROGRESS_S = 1.0

LEVELS = {"org": "organisation", "project": "project", "key": "key", "user": "end user"}

Status = Literal["ok", "error", "cancelled"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the books see it: who asks, for what, and the models that may answer.

    ``models`` are the tiers, cheapest first; ``largest`` is the dearest of them, ``fallback`` may answer too.
    ``end_user`` is a hash, ``metadata`` JSON text; both are empty where there is none.
    """

    request_id: str
    key: Key
    route: str
    models: tuple[str, ...]
    fallback: tuple[str, ...] = ()
    prompt_tokens: int
    output_tokens: int
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
        self.price = self._largest = largest
        self.source: Source = "upstream"
        self.service: Service = "batch" if order.batch else "standard"
        self.usage = Usage()
        self.estimated = False
        self.streamed = False
        self.replicas: list[str] = []
        self.verdict = Verdict()
        self.ts = billing.now()
        self.segment: Segment
        self._noted_tokens = 0
        self._noted_s = 0.0

    def answered_by(self, model: str) -> None:
        """Note which model answers: its price counts from now on."""
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
        return amount_nanousd(self._largest, usage, "upstream", self.service)

    def progress(self, usage: Usage, estimated: bool) -> None:
        """Note what was delivered; of a stream, it goes into the journal now and then."""
        self.usage = usage
        self.estimated = estimated
        if not self.streamed:
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

    async def __aenter__(self) -> Self:
        await self._billing.admit(self)
        self._noted_s = self.ts
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status: Status = "ok"
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            status = "cancelled"
        elif error is not None:
            status = "error"
        self._billing.settle(self, status)


class Billing:
    """Admits and settles; ``now`` gives seconds since the epoch."""

    def __init__(
        self, journal: Journal, limits: Limits, prices: PriceTable, now: Callable[[], float]
    ) -> None:
        self.journal = journal
        self.prices = prices
        self.refuse_unpriced = False
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
        estimate = Usage(order.prompt_tokens, order.output_tokens)
        ask = Ask(
            bounds=key.bounds,
            tokens=order.prompt_tokens + order.output_tokens,
            cost_nanousd=max(amount_nanousd(price, estimate, "upstream") for price in prices),
        )
        return Charge(self, order, ask, prices[len(order.models) - 1])

    async def admit(self, charge: Charge) -> None:
        """Take what the request needs and write the journal's first line."""
        if charge.ask.bounds:
            verdict = await self._limits.take(charge.ask, charge.ts)
            if verdict.short is not None:
                raise _refused(verdict)
            charge.verdict = verdict
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
            self._release(charge, 0, 0)
            log.error("request %s is refused: %s", charge.request_id, error)
            raise NotRecordable(
                "The gateway cannot record usage at the moment.", retry_after_s=10.0
            ) from error
        segment.open_requests += 1
        charge.segment = segment

    def settle(self, charge: Charge, status: Status) -> None:
        """Give back the reservation and write the journal's last line."""
        usage, key, order = charge.usage, charge.key, charge.order
        amount = charge.amount_nanousd(usage)
        tokens = usage.prompt_tokens + usage.completion_tokens
        self._release(charge, tokens, amount)
        entry = Entry(
            charge.request_id,
            charge.ts,
            key.org,
            key.project,
            key.id,
            charge.price.model,
            order.route,
            status,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.completion_tokens,
            amount,
            charge.price.version,
            charge.source,
            len(charge.replicas),
            ",".join(charge.replicas),
            charge.estimated,
            usage.reasoning_tokens,
            charge.baseline_nanousd(usage),
            charge.service,
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
        charge.segment.open_requests -= 1

    def _release(self, charge: Charge, tokens: int, amount: int) -> None:
        if charge.ask.bounds:
            self._limits.settle(charge.ask, charge.reserved_nanousd, tokens, amount, self.now())


def _refuse_unpriced(prices: list[Price]) -> None:
    for price in prices:
        if price.version == UNPRICED:
            raise ModelNotPriced(f"The model {price.model!r} has no price; the operator must give it one.")


def rate_headers(verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """Give OpenAI's rate-limit headers for the rates that are configured."""
    headers: list[tuple[bytes, bytes]] = []
    for name, left in ((b"requests", verdict.requests), (b"tokens", verdict.tokens)):
        if left is not None:
            headers += _headers(name, left)
    return headers


def _headers(name: bytes, left: Left) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + name, str(left.limit).encode()),
        (b"x-ratelimit-remaining-" + name, str(left.remaining).encode()),
        (b"x-ratelimit-reset-" + name, _duration(left.reset_s)),
    ]


def _duration(seconds: float) -> bytes:
    """Write a duration as OpenAI does: ``12ms``, ``6.5s``, ``1m30s``."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms".encode()
    minutes, rest = divmod(round(seconds), 60)
    return (f"{minutes}m{rest}s" if minutes else f"{round(seconds, 3):g}s").encode()


def _refused(verdict: Verdict) -> RateLimited | InsufficientQuota | InternalError:
    level = LEVELS.get(verdict.account.partition(":")[0], "account")
    match verdict.short:
        case "requests" | "tokens" as what:
            error = RateLimited(
                f"Rate limit of this {level} reached: {verdict.limit} {what} per {verdict.period}. "
                f"Try again in {verdict.retry_after_s:.1f} s.",
                retry_after_s=verdict.retry_after_s,
            )
            error.headers = rate_headers(verdict)
            error.type = what  # type: ignore[misc]  # OpenAI names the exhausted rate as the type
            return error
        case "concurrency":
            return RateLimited(
                f"Too many requests of this {level} at once.", retry_after_s=verdict.retry_after_s
            )
        case "credit":
            return InsufficientQuota(f"This {level} has no credit left for this request; top up to go on.")
        case "budget":
            span = "" if verdict.period == "total" else f" for this {verdict.period}"
            return InsufficientQuota(f"The budget of this {level}{span} does not cover this request.")
        case _:
            return InternalError("The request was refused.")
