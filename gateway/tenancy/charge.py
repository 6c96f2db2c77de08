"""What one request costs, from its admission to its settlement, which comes exactly once.

A stream is paid for as it is delivered: its reservation grows before what it covers is used up, and what was
delivered goes into the journal now and then.
"""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import msgspec

from gateway.errors import SHUT_DOWN, ours, translate
from gateway.openai.usage import MAX_TOKENS, Usage
from gateway.state.limits import Ask, Verdict
from gateway.tenancy.journal import JournalError, Progress, Segment
from gateway.tenancy.keys import Key
from gateway.tenancy.pricing import (
    NANO,
    Price,
    Service,
    Source,
    amount_nanousd,
    ceiling_nanousd,
    covered_tokens,
)

if TYPE_CHECKING:
    from gateway.tenancy.billing import Billing

log = logging.getLogger("switchgear.billing")

PROGRESS_TOKENS = 32
PROGRESS_S = 1.0

# A stream reserves its prompt and so many tokens, and as many again before they are used up; where there is
# no room for a whole step, less.
STEP_TOKENS = 256
AHEAD_TOKENS = 64
STEPS_TOKENS = (STEP_TOKENS, 128, 64, 32, 16, 8, 4, 2, 1, 0)

Status = Literal["ok", "stopped", "refused", "error", "cancelled"]


class Serving(Protocol):
    """What the attempts tell of an answer while it comes: the replicas, and whether the last one is spot."""

    tried: list[str]
    spot: bool


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the books see it: who asks, for what, and the models that may answer.

    ``models`` are the tiers, cheapest first, ``fallback`` may answer too. Tokens are estimates, and the most
    that can come (of output None where nothing says). ``end_user`` is a hash, ``metadata`` JSON text; both
    are empty where there is none.
    """

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


class Quote(msgspec.Struct, frozen=True):
    """What an order asks of the limits, at the prices of its models; it holds for some time.

    ``edition`` is that of the price book, whose prices are in force from ``from_s`` until ``until_s``.
    """

    order: Order
    ask: Ask
    prices: list[Price]
    edition: object
    from_s: float
    until_s: float

    @property
    def largest(self) -> Price:
        """The price of the largest tier."""
        return self.prices[len(self.order.models) - 1]


class Charge:
    """What one request costs, from its admission on."""

    def __init__(self, billing: "Billing", request_id: str, quote: Quote) -> None:
        order, ask = quote.order, quote.ask
        self._billing = billing
        self.order = order
        self.request_id = request_id
        self.key = order.key
        self.ask = ask
        self.reserved_nanousd = ask.cost_nanousd
        self.price = self.largest = quote.largest
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
        return amount_nanousd(self.price, self.usage, self.source, self.service) / NANO

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
