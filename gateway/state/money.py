"""Money in the memory of one process: what is reserved and what is spent, beside what SQL knows.

What SQL knows is booked; what this process has settled beyond that is counted since. SQL may lag behind,
never lead: what is booked takes the place of as much of what was counted.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gateway.state.limits import Bound, Standing, Verdict
from gateway.state.periods import spans
from gateway.state.sweep import SWEEP_ABOVE, sweep


class Purse(msgspec.Struct, eq=False):
    """The money of one account, in nano-dollars: ``*_booked`` is what SQL knows, ``*_since`` what came after.

    Where processes share accounts, ``held`` is what this one may use: reserve, and spend until SQL has it.
    ``wanted`` is what requests wait for, ``least`` the smallest of them, ``low`` the free part of the hold
    below which more is asked for; see ``gateway.state.holds``.
    """

    bound: Bound
    reserved: int = 0
    granted: int = 0
    total_booked: int = 0
    total_since: int = 0
    period_booked: int = 0
    period_since: int = 0
    until_s: float = 0.0
    known: Standing | None = None
    known_s: float = 0.0
    held: int = 0
    wanted: int = 0
    least: int = 0
    low: int = 0
    used_s: float = 0.0
    dry_until_s: float = 0.0
    contested_until_s: float = 0.0

    def obey(self, bound: Bound, now_s: float) -> None:
        """Put the limits of a bound in force; what is held and not reserved is asked for anew."""
        self.held = min(self.held, self.reserved)
        if bound.budget_period != self.bound.budget_period:
            self.until_s = 0.0
        self.bound = bound
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

    def lacks(self, wanted: int, now_s: float, share: int = 1) -> Literal["credit", "budget"] | None:
        """Tell what does not cover so much; of what SQL left over, one ``share``-th may be used."""
        bound = self.bound
        if bound.credit:
            room = self.granted - bound.floor_nanousd - self.total_booked
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
        self.held -= cost_nanousd

    def book(self, standing: Standing, now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        self.known, self.known_s = standing, now_s
        self.granted = standing.granted_nanousd
        total = standing.spent.get("total", 0)
        self.total_since = max(0, self.total_booked + self.total_since - total)
        self.total_booked = total
        self.turn(now_s)
        period = self.bound.budget_period
        if spans(now_s)[period].end_s == self.until_s:  # else SQL speaks of a period gone by
            spent = standing.spent.get(period, 0)
            self.period_since = max(0, self.period_booked + self.period_since - spent)
            self.period_booked = spent

    @property
    def busy(self) -> bool:
        """Whether something is reserved, wanted or held."""
        return bool(self.reserved or self.wanted or self.held > 0)

    def idle(self, now_s: float) -> bool:
        """Tell whether a new purse would behave the same."""
        if self.busy or self.granted or (self.bound.credit and self.total_booked + self.total_since):
            return False
        if self.bound.budget_nanousd is not None and now_s < self.until_s:
            return not (self.period_booked or self.period_since)
        return True


class Purses:
    """The purses of one process, by account."""

    def __init__(self) -> None:
        self.accounts: dict[str, Purse] = {}
        self._sweep_above = SWEEP_ABOVE

    def of(self, bounds: Sequence[Bound], now_s: float) -> list[Purse]:
        """Give the purses of those bounds that have money, with their limits in force."""
        purses = []
        for bound in bounds:
            if bound.credit or bound.budget_nanousd is not None:
                purse = self.accounts.get(bound.account)
                if purse is None or purse.bound is not bound:
                    purse = self._purse(bound, now_s)
                purses.append(purse)
        return purses

    def spend(self, bounds: Sequence[Bound], reserved_nanousd: int, cost_nanousd: int, now_s: float) -> None:
        """Give back what was reserved, count what was spent."""
        for purse in self.of(bounds, now_s):
            purse.reserved -= reserved_nanousd
            purse.spend(cost_nanousd, now_s)

    def book(self, standings: Mapping[str, Standing], now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        for name, standing in standings.items():
            purse = self.accounts.get(name)
            if purse is None:
                purse = self.accounts[name] = Purse(Bound(account=name))
            purse.book(standing, now_s)

    def _purse(self, bound: Bound, now_s: float) -> Purse:
        """Give the purse of a bound whose limits may be new."""
        purse = self.accounts.get(bound.account)
        if purse is None:
            if len(self.accounts) >= self._sweep_above:
                self._sweep_above = sweep(self.accounts, now_s)
            purse = self.accounts[bound.account] = Purse(Bound(account=bound.account))
        if purse.bound != bound:
            purse.obey(bound, now_s)
        purse.bound = bound
        return purse


def lacking(purses: Sequence[Purse], cost_nanousd: int, now_s: float, share: int = 1) -> Verdict | None:
    """Give the verdict on a cost that does not fit into every purse."""
    for purse in purses:
        short = purse.lacks(purse.reserved + cost_nanousd, now_s, share)
        if short is not None:
            return Verdict(short=short, account=purse.bound.account, period=purse.bound.budget_period)
    return None


def reserve(purses: Sequence[Purse], cost_nanousd: int) -> None:
    """Reserve, or give back what is negative."""
    for purse in purses:
        purse.reserved += cost_nanousd
