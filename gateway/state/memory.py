"""Limits in the memory of one gateway process; see ``gateway.state.limits``."""

from collections.abc import Iterable, Mapping

import msgspec

from gateway.state.limits import Ask, Bound, Left, Rated, Standing, Verdict, Window
from gateway.state.money import Purses, lacking, reserve
from gateway.state.periods import DAY_S
from gateway.state.sweep import SWEEP_ABOVE, sweep

WINDOW_S: Mapping[Window, float] = {"minute": 60.0, "day": DAY_S}
RATES: tuple[tuple[str, Rated, Window], ...] = (
    ("rpm", "requests", "minute"),
    ("tpm", "tokens", "minute"),
    ("rpd", "requests", "day"),
    ("tpd", "tokens", "day"),
)
ROUNDING_S = 1e-6
CONCURRENCY_RETRY_S = 1.0


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

    def held(self, tokens: int) -> int:
        """Give what a request takes: of tokens at most a full window."""
        return 1 if self.what == "requests" else min(tokens, self.limit)

    def left(self, now_s: float) -> Left:
        """Say how much is left now, and when it is full again."""
        missing_s = self.full_at_s - now_s
        if missing_s <= 0:
            return Left(self.limit, self.limit, 0.0)
        return Left(
            self.limit, max(0, int((self.window_s - missing_s) / self.unit_s + ROUNDING_S)), missing_s
        )


class Account(msgspec.Struct, eq=False):
    """The rates of one level, and what runs."""

    bound: Bound
    meters: tuple[Meter, ...] = ()
    running: int = 0

    def obey(self, bound: Bound) -> None:
        """Put the limits of a bound in force; what was taken stays taken."""
        before = {(meter.what, meter.window): meter.full_at_s for meter in self.meters}
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

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return self.running > 0

    def idle(self, now_s: float) -> bool:
        """Tell whether a new account would behave the same."""
        return not self.running and all(meter.full_at_s <= now_s for meter in self.meters)


class Rates:
    """Rates and concurrency as one process counts them."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._sweep_above = SWEEP_ABOVE

    # What every request passes, without a function for each meter: those cost twice as much.
    def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take a slot and of the rates what is asked for at all bounds, or nothing."""
        accounts, fits = [], True
        for bound in ask.bounds:
            account = self.accounts.get(bound.account)
            if account is None or account.bound is not bound:
                account = self.account(bound, now_s)
            accounts.append(account)
            limit = bound.concurrency
            fits = fits and (limit is None or account.running < limit)
            for meter in account.meters:
                amount = 1
                if meter.what != "requests":
                    amount = ask.tokens if ask.tokens < meter.limit else meter.limit  # noqa: FURB136
                full_at_s = meter.full_at_s
                meter.wanted_s = (full_at_s if full_at_s > now_s else now_s) + amount * meter.unit_s  # noqa: FURB136
                fits = fits and meter.wanted_s - now_s - meter.window_s - ROUNDING_S <= 0
        if not fits:
            return _refusal(accounts, now_s)
        for account in accounts:
            account.running += 1
            for meter in account.meters:
                meter.full_at_s = meter.wanted_s
        requests, tokens = tightest(accounts, now_s)
        return Verdict(requests=requests, tokens=tokens)

    def hold(self, ask: Ask, now_s: float) -> None:
        """Count a request that was admitted elsewhere, but for its rates."""
        for bound in ask.bounds:
            self.account(bound, now_s).running += 1

    def settle(self, ask: Ask, tokens: int, now_s: float) -> None:
        """Give the slot back, put the tokens that were used in the place of the estimate."""
        for bound in ask.bounds:
            account = self.accounts[bound.account]
            account.running -= 1
            for meter in account.meters:
                if meter.what == "tokens":
                    taken = ask.tokens if ask.tokens < meter.limit else meter.limit  # noqa: FURB136
                    full_at_s = meter.full_at_s + (tokens - taken) * meter.unit_s
                    meter.full_at_s = full_at_s if full_at_s > now_s else now_s  # noqa: FURB136

    def account(self, bound: Bound, now_s: float) -> Account:
        """Give the account of a bound, with its limits in force."""
        account = self.accounts.get(bound.account)
        if account is not None and account.bound is bound:
            return account
        if account is None:
            if len(self.accounts) >= self._sweep_above:
                self._sweep_above = sweep(self.accounts, now_s)
            account = self.accounts[bound.account] = Account(Bound(account=bound.account))
        if account.bound != bound:
            account.obey(bound)
        account.bound = bound
        return account


class MemoryLimits:
    """The limits of a gateway that is one process."""

    def __init__(self) -> None:
        self.rates = Rates()
        self.money = Purses()

    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything or nothing; see ``Limits.take``."""
        purses = self.money.of(ask.bounds, now_s)
        if purses and (refused := lacking(purses, ask.cost_nanousd, now_s)) is not None:
            return refused
        verdict = self.rates.take(ask, now_s)
        if purses and verdict.short is None:
            reserve(purses, ask.cost_nanousd)
        return verdict

    async def extend(self, ask: Ask, cost_nanousd: int, now_s: float) -> bool:
        """Reserve more; see ``Limits.extend``."""
        purses = self.money.of(ask.bounds, now_s)
        if lacking(purses, cost_nanousd, now_s) is not None:
            return False
        reserve(purses, cost_nanousd)
        return True

    def settle(self, ask: Ask, reserved_nanousd: int, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Correct the estimate; see ``Limits.settle``."""
        self.rates.settle(ask, tokens, now_s)
        self.money.spend(ask.bounds, reserved_nanousd, cost_nanousd, now_s)

    def book(self, standings: Mapping[str, Standing], now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        self.money.book(standings, now_s)


def _refusal(accounts: list[Account], now_s: float) -> Verdict:
    """Give the verdict on a request that does not fit: what takes the longest to pass."""
    longest_s, at, short = 0.0, accounts[0], None
    for account in accounts:
        limit = account.bound.concurrency
        if limit is not None and account.running >= limit and longest_s < CONCURRENCY_RETRY_S:
            longest_s, at, short = CONCURRENCY_RETRY_S, account, None
        for meter in account.meters:
            wait_s = meter.wanted_s - now_s - meter.window_s - ROUNDING_S
            if wait_s > longest_s:
                longest_s, at, short = wait_s, account, meter
    return refusal(accounts, at, short, longest_s, now_s)


def refusal(
    accounts: list[Account], at: Account, short: Meter | None, retry_after_s: float, now_s: float
) -> Verdict:
    """Give the verdict that a rate of an account is short, or its concurrency."""
    if short is None:
        return Verdict(short="concurrency", account=at.bound.account, retry_after_s=retry_after_s)
    left = short.left(now_s)
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
    for account in accounts:
        for meter in account.meters:
            left = meter.left(now_s)
            if meter.what == "requests":
                if requests is None or left.remaining < requests.remaining:
                    requests = left
            elif tokens is None or left.remaining < tokens.remaining:
                tokens = left
    return requests, tokens
