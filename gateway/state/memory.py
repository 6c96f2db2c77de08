"""Limits in the memory of one gateway process; see ``gateway.state.limits``."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from gateway.state.limits import Ask, Bound, Left, Rated, Standing, Verdict, Window
from gateway.state.periods import DAY_S, spans

WINDOW_S: Mapping[Window, float] = {"minute": 60.0, "day": DAY_S}
RATES: tuple[tuple[str, Rated, Window], ...] = (
    ("rpm", "requests", "minute"),
    ("tpm", "tokens", "minute"),
    ("rpd", "requests", "day"),
    ("tpd", "tokens", "day"),
)
ROUNDING_S = 1e-6
CONCURRENCY_RETRY_S = 1.0
SWEEP_ABOVE = 4096
ACCOUNTS_LIMIT = 50_000


class Meter(msgspec.Struct):
    """One rate of an account.

    ``full_at_s`` is when it is full again (GCRA's theoretical arrival time), ``wanted_s`` what that would be
    with the request that is looked at.
    """

    what: Rated
    window: Window
    limit: int
    window_s: float
    unit_s: float
    full_at_s: float = 0.0
    wanted_s: float = 0.0

    def wait_s(self, tokens: int, now_s: float) -> float:
        """Give the time until a request fits, 0 or less if it fits now; notes what it would take."""
        amount = self.held(tokens)
        full_at_s = self.full_at_s
        wanted_s = self.wanted_s = (full_at_s if full_at_s > now_s else now_s) + amount * self.unit_s  # noqa: FURB136  # max() costs three times as much
        return wanted_s - now_s - self.window_s - ROUNDING_S

    def held(self, tokens: int) -> int:
        """Give what a request takes: of tokens at most a full window."""
        if self.what == "requests":
            return 1
        return tokens if tokens < self.limit else self.limit  # noqa: FURB136  # as above

    def correct(self, estimate: int, tokens: int, now_s: float) -> None:
        """Put the tokens that were used in the place of the estimate."""
        if self.what == "tokens":
            full_at_s = self.full_at_s + (tokens - self.held(estimate)) * self.unit_s
            self.full_at_s = max(full_at_s, now_s)

    def remaining(self, now_s: float) -> int:
        """Give what is left now."""
        missing_s = self.full_at_s - now_s
        if missing_s <= 0:
            return self.limit
        return max(0, int((self.window_s - missing_s) / self.unit_s + ROUNDING_S))


class Account(msgspec.Struct):
    """The counts of one level: rates, what runs, and what was spent in its budget's period and in all.

    ``*_booked`` is what SQL knows of, ``*_since`` what this process has counted beyond it.
    """

    bound: Bound
    meters: tuple[Meter, ...] = ()
    running: int = 0
    reserved_nanousd: int = 0
    granted_nanousd: int = 0
    total_booked: int = 0
    total_since: int = 0
    period_booked: int = 0
    period_since: int = 0
    until_s: float = 0.0
    known: Standing | None = None
    known_s: float = 0.0

    def obey(self, bound: Bound, now_s: float) -> None:
        """Put the limits of a bound in force; what was taken stays taken."""
        before = {(meter.what, meter.window): meter.full_at_s for meter in self.meters}
        if bound.budget_period != self.bound.budget_period:
            self.until_s = 0.0
        self.bound = bound
        self.meters = tuple(
            Meter(
                what,
                window,
                limit,
                WINDOW_S[window],
                WINDOW_S[window] / limit,
                before.get((what, window), 0.0),
            )
            for name, what, window in RATES
            if (limit := getattr(bound, name)) is not None
        )
        self.turn(now_s)

    def turn(self, now_s: float) -> None:
        """Begin a new period of the budget, where one has begun."""
        if now_s < self.until_s:
            return
        span = spans(now_s)[self.bound.budget_period]
        self.until_s = span.end_s
        self.period_booked = self.period_since = 0
        if self.known is not None and span.start_s <= self.known_s:
            self.period_booked = self.known.spent.get(self.bound.budget_period, 0)

    def short_of_money(
        self, cost_nanousd: int, now_s: float, share: int
    ) -> Literal["credit", "budget"] | None:
        """Tell what does not cover a cost; of what SQL left over, this process may use one ``share``-th."""
        bound, wanted = self.bound, self.reserved_nanousd + cost_nanousd
        if bound.credit:
            room = self.granted_nanousd - bound.floor_nanousd - self.total_booked
            if wanted + self.total_since > room // share:
                return "credit"
        if bound.budget_nanousd is not None:
            if now_s >= self.until_s:
                self.turn(now_s)
            if wanted + self.period_since > (bound.budget_nanousd - self.period_booked) // share:
                return "budget"
        return None

    def spend(self, cost_nanousd: int, now_s: float) -> None:
        """Count what was spent."""
        if now_s >= self.until_s:
            self.turn(now_s)
        self.period_since += cost_nanousd
        self.total_since += cost_nanousd

    def book(self, standing: Standing, now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        self.known, self.known_s = standing, now_s
        self.granted_nanousd = standing.granted_nanousd
        total = standing.spent.get("total", 0)
        self.total_since = max(0, self.total_booked + self.total_since - total)
        self.total_booked = total
        self.turn(now_s)
        if (
            spans(now_s)[self.bound.budget_period].end_s == self.until_s
        ):  # else SQL speaks of a period gone by
            spent = standing.spent.get(self.bound.budget_period, 0)
            self.period_since = max(0, self.period_booked + self.period_since - spent)
            self.period_booked = spent

    def idle(self, now_s: float) -> bool:
        """Tell whether a new account would behave the same."""
        if (
            self.running
            or self.granted_nanousd
            or (self.bound.credit and self.total_booked + self.total_since)
        ):
            return False
        if self.bound.budget_nanousd is not None and now_s < self.until_s:
            return not (self.period_booked or self.period_since)
        return all(meter.full_at_s <= now_s for meter in self.meters)


class MemoryLimits:
    """The counts of one gateway process; with a ``share`` above 1, of one among so many."""

    def __init__(self) -> None:
        self.generation = 1
        self.share = 1
        self.accounts: dict[str, Account] = {}
        self._sweep_above = SWEEP_ABOVE

    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything or nothing; see ``Limits.take``."""
        accounts = [self.account(bound, now_s) for bound in ask.bounds]
        refused = _refusal(accounts, ask, now_s, self.share)
        if refused is not None:
            return refused
        for account in accounts:
            account.running += 1
            account.reserved_nanousd += ask.cost_nanousd
            for meter in account.meters:
                meter.full_at_s = meter.wanted_s
        requests, tokens = tightest(accounts, now_s)
        return Verdict(requests=requests, tokens=tokens)

    def hold(self, ask: Ask, now_s: float) -> None:
        """Count a request that was admitted elsewhere, but for its rates."""
        for bound in ask.bounds:
            account = self.account(bound, now_s)
            account.running += 1
            account.reserved_nanousd += ask.cost_nanousd

    async def extend(self, ask: Ask, cost_nanousd: int, now_s: float) -> bool:
        """Reserve more; see ``Limits.extend``."""
        accounts = [self.accounts[bound.account] for bound in ask.bounds]
        if any(account.short_of_money(cost_nanousd, now_s, self.share) for account in accounts):
            return False
        for account in accounts:
            account.reserved_nanousd += cost_nanousd
        return True

    def settle(self, ask: Ask, reserved_nanousd: int, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Correct the estimate; see ``Limits.settle``."""
        for bound in ask.bounds:
            account = self.accounts[bound.account]
            account.running -= 1
            account.reserved_nanousd -= reserved_nanousd
            account.spend(cost_nanousd, now_s)
            for meter in account.meters:
                meter.correct(ask.tokens, tokens, now_s)

    def book(self, standings: Mapping[str, Standing], now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        for name, standing in standings.items():
            account = self.accounts.get(name)
            if account is None:
                account = self.accounts[name] = Account(Bound(account=name))
            account.book(standing, now_s)

    def account(self, bound: Bound, now_s: float) -> Account:
        """Give the account of a bound, with its limits in force."""
        account = self.accounts.get(bound.account)
        if account is not None and account.bound is bound:
            return account
        if account is None:
            if len(self.accounts) >= self._sweep_above:
                self._sweep(now_s)
            account = self.accounts[bound.account] = Account(Bound(account=bound.account))
        if account.bound != bound:
            account.obey(bound, now_s)
        account.bound = bound
        return account

    def _sweep(self, now_s: float) -> None:
        """Forget idle accounts; of too many end users, the oldest also where they have spent something."""
        for name in [name for name, account in self.accounts.items() if account.idle(now_s)]:
            del self.accounts[name]
        if len(self.accounts) > ACCOUNTS_LIMIT:
            users = [
                name for name, one in self.accounts.items() if name.startswith("user:") and not one.running
            ]
            for name in users[: len(self.accounts) - ACCOUNTS_LIMIT // 2]:
                del self.accounts[name]
        self._sweep_above = min(
            max(SWEEP_ABOVE, 2 * len(self.accounts)), max(ACCOUNTS_LIMIT, len(self.accounts)) + SWEEP_ABOVE
        )


def _refusal(accounts: list[Account], ask: Ask, now_s: float, share: int) -> Verdict | None:
    """Give the verdict on a request that does not fit: money first, then what takes the longest to pass."""
    longest_s, at, short = 0.0, None, None
    for account in accounts:
        bound = account.bound
        lacking = account.short_of_money(ask.cost_nanousd, now_s, share)
        if lacking is not None:
            return Verdict(short=lacking, account=bound.account, period=bound.budget_period)
        limit = bound.concurrency
        if limit is not None and account.running >= limit and longest_s < CONCURRENCY_RETRY_S:
            longest_s, at, short = CONCURRENCY_RETRY_S, account, None
        for meter in account.meters:
            wait_s = meter.wait_s(ask.tokens, now_s)
            if wait_s > longest_s:
                longest_s, at, short = wait_s, account, meter
    if at is None:
        return None
    return refusal(accounts, at, short, longest_s, now_s)


def refusal(
    accounts: list[Account], at: Account, short: Meter | None, retry_after_s: float, now_s: float
) -> Verdict:
    """Give the verdict that a rate of an account is short, or its concurrency."""
    if short is None:
        return Verdict(short="concurrency", account=at.bound.account, retry_after_s=retry_after_s)
    left = _left(short, short.remaining(now_s), now_s)
    requests, tokens = tightest(accounts, now_s)
    return Verdict(
        short=short.what,
        account=at.bound.account,
        period=short.window,
        limit=short.limit,
        retry_after_s=retry_after_s,
        requests=left if short.what == "requests" else requests,
        tokens=left if short.what == "tokens" else tokens,
    )


def tightest(accounts: Iterable[Account], now_s: float) -> tuple[Left | None, Left | None]:
    """Give the rates of requests and of tokens that have the least left, None where there is none."""
    requests = tokens = None
    fewest_requests = fewest_tokens = 0
    for account in accounts:
        for meter in account.meters:
            remaining = meter.remaining(now_s)
            if meter.what == "requests":
                if requests is None or remaining < fewest_requests:
                    requests, fewest_requests = meter, remaining
            elif tokens is None or remaining < fewest_tokens:
                tokens, fewest_tokens = meter, remaining
    return _left(requests, fewest_requests, now_s), _left(tokens, fewest_tokens, now_s)


def _left(meter: Meter | None, remaining: int, now_s: float) -> Left | None:
    if meter is None:
        return None
    reset_s = meter.full_at_s - now_s
    return Left(meter.limit, remaining, reset_s if reset_s > 0 else 0.0)
