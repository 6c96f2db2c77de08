"""Rates, concurrency, budgets and credit: taken at all levels of a request or at none.

A level (organisation, project, key, end user) that has limits is a ``Bound`` on an account; a request must
fit all of its bounds, and the tightest one speaks.

Rates are sliding: a limit of L a window (minute or day) regains L/window each second and may save up to L
(the generic cell rate algorithm, ITU-T I.371), so windows pass under constant traffic too. A token estimate
takes at most a full window; what was really used is booked at settlement.

Money is reserved before dispatch, grows with the stream, and is settled after. What is spent counts up, in
the period of its settlement; what was granted is as SQL says. SQL may lag behind, never lead; ``book`` may be
repeated.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from gateway.state.periods import Period

Short = Literal["requests", "tokens", "concurrency", "credit", "budget"]
Rated = Literal["requests", "tokens"]
Window = Literal["minute", "day"]


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one level; None where nothing is configured.

    ``account`` is ``org:NAME``, ``project:ORG/NAME``, ``key:ID`` or an end user's at one of these levels:
    ``user:ORG/HASH``, ``user:ORG/PROJECT/HASH``, ``user:ORG/PROJECT/KEY/HASH``. ``credit`` says that there is
    a balance, which may not pass ``floor_nanousd`` (pay-as-you-go: below zero).
    """

    account: str
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    concurrency: int | None = None
    budget_nanousd: int | None = None
    budget_period: Period = "month"
    credit: bool = False
    floor_nanousd: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What one request wants to take, at all of its levels."""

    bounds: tuple[Bound, ...]
    tokens: int
    cost_nanousd: int


class Left(msgspec.Struct, frozen=True):
    """One rate after a request: how much is left, and when it is full again."""

    limit: int
    remaining: int
    reset_s: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Admitted (``short`` is None), or what was short, at which account, and when to come again.

    ``period`` is the window of a short rate or the period of a short budget, ``limit`` the rate's limit.
    ``requests`` and ``tokens`` are the tightest of all levels and windows, None where there is no such rate.
    """

    short: Short | None = None
    account: str = ""
    period: Window | Period = "minute"
    limit: int = 0
    retry_after_s: float | None = None
    requests: Left | None = None
    tokens: Left | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL knows of an account: its balance (0 without credit), and what it spent in each period."""

    balance_nanousd: int = 0
    spent: Mapping[Period, int]

    @property
    def granted_nanousd(self) -> int:
        """Everything ever granted; unlike the balance, usage that SQL does not know yet does not move it."""
        return self.balance_nanousd + self.spent.get("total", 0)


class Limits(Protocol):
    """Counts for all accounts; one implementation in memory, one shared by several processes.

    ``now_s`` are epoch seconds.
    """

    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything that is asked for at all bounds, or nothing."""

    async def extend(self, ask: Ask, cost_nanousd: int, now_s: float) -> bool:
        """Reserve so much more for a running request; False, and nothing reserved, where there is no room."""

    def settle(self, ask: Ask, reserved_nanousd: int, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Give back slots and all that was reserved, book what was used. Never waits, never raises."""

    def book(self, standings: Mapping[str, Standing], now_s: float) -> None:
        """Say what SQL knew of some accounts at ``now_s``, the journal having been carried before.

        Never waits, never raises. An account with credit that was never booked has a balance of 0.
        """
