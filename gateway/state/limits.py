"""Rates, concurrency and credit: what a key has left, taken and given back atomically.

Rates are sliding: a key with a limit of L a minute regains L/60 each second and may save up to L
(the generic cell rate algorithm, ITU-T I.371). Credit is reserved before dispatch and settled after.
"""

import math
from typing import Literal, Protocol

import msgspec

Short = Literal["requests", "tokens", "concurrency", "credit", "budget"]
Period = Literal["day", "week", "month", "total"]
MINUTE_S = 60.0


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one level, counted on its account; None where nothing is configured.

    Accounts are ``org:NAME``, ``project:ORG/NAME``, ``key:ID`` and ``user:ORG/PROJECT/HASH``.
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
    """What one request wants to take; limits are None where nothing is configured."""

    key_id: str
    tokens: int
    cost_nanousd: int
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    credit_nanousd: int | None = None
    budget_nanousd: int | None = None


class Left(msgspec.Struct, frozen=True):
    """One rate after a request: how much is left, and when it is full again."""

    limit: int
    remaining: int
    reset_s: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Admitted (``short`` is None), or what was short and when to come again."""

    short: Short | None = None
    retry_after_s: float | None = None
    requests: Left | None = None
    tokens: Left | None = None


class Limits(Protocol):
    """Counts for all keys; one implementation in memory, one shared by several processes."""

    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything that is asked for, or nothing."""

    def settle(self, ask: Ask, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Give back the slot and the reservation; book what was really used. Never waits."""


class Account(msgspec.Struct):
    """The counts of one key. ``*_at_s`` is when the bucket would be full (GCRA's theoretical arrival)."""

    requests_at_s: float = 0.0
    tokens_at_s: float = 0.0
    running: int = 0
    reserved_nanousd: int = 0
    spent_nanousd: int = 0
    spent_month_nanousd: int = 0


class MemoryLimits:
    """The counts of one gateway process."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def book(self, key_id: str, *, spent_nanousd: int, spent_month_nanousd: int) -> None:
        """Add what a key had spent before this process began, once; it may have spent more since."""
        account = self._accounts.setdefault(key_id, Account())
        account.spent_nanousd += spent_nanousd
        account.spent_month_nanousd += spent_month_nanousd

    def new_month(self) -> None:
        """Begin a new budget period for every key."""
        for account in self._accounts.values():
            account.spent_month_nanousd = 0

    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything that is asked for, or nothing; see ``Limits.take``."""
        account = self._accounts.get(ask.key_id)
        if account is None:
            account = self._accounts[ask.key_id] = Account()
        refused = _refusal(account, ask, now_s)
        if refused is not None:
            return refused
        account.running += 1
        account.reserved_nanousd += ask.cost_nanousd
        if ask.rpm is not None:
            account.requests_at_s = _advance(account.requests_at_s, 1, ask.rpm, now_s)
        if ask.tpm is not None:
            account.tokens_at_s = _advance(account.tokens_at_s, _held(ask, ask.tpm), ask.tpm, now_s)
        return _verdict(account, ask, now_s)

    def settle(self, ask: Ask, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Correct the estimate; see ``Limits.settle``."""
        account = self._accounts[ask.key_id]
        account.running -= 1
        account.reserved_nanousd -= ask.cost_nanousd
        account.spent_nanousd += cost_nanousd
        account.spent_month_nanousd += cost_nanousd
        if ask.tpm is not None:
            account.tokens_at_s += (tokens - _held(ask, ask.tpm)) * MINUTE_S / ask.tpm
            account.tokens_at_s = max(account.tokens_at_s, now_s)


def _refusal(account: Account, ask: Ask, now_s: float) -> Verdict | None:
    if ask.concurrency is not None and account.running >= ask.concurrency:
        return Verdict(short="concurrency", retry_after_s=1.0)
    if ask.rpm is not None:
        wait_s = _wait_s(account.requests_at_s, 1, ask.rpm, now_s)
        if wait_s > 0:
            return _verdict(account, ask, now_s, short="requests", retry_after_s=wait_s)
    if ask.tpm is not None:
        wait_s = _wait_s(account.tokens_at_s, _held(ask, ask.tpm), ask.tpm, now_s)
        if wait_s > 0:
            return _verdict(account, ask, now_s, short="tokens", retry_after_s=wait_s)
    wanted_nanousd = account.reserved_nanousd + ask.cost_nanousd
    if ask.credit_nanousd is not None and account.spent_nanousd + wanted_nanousd > ask.credit_nanousd:
        return Verdict(short="credit")
    if ask.budget_nanousd is not None and account.spent_month_nanousd + wanted_nanousd > ask.budget_nanousd:
        return Verdict(short="budget")
    return None


def _held(ask: Ask, tpm: int) -> int:
    """Give the tokens that are taken for an estimate: at most a full bucket; the rest is booked when used."""
    return min(ask.tokens, tpm)


def _verdict(
    account: Account,
    ask: Ask,
    now_s: float,
    *,
    short: Short | None = None,
    retry_after_s: float | None = None,
) -> Verdict:
    """Give a verdict with what is left of each configured rate."""
    return Verdict(
        short=short,
        retry_after_s=retry_after_s,
        requests=None if ask.rpm is None else _left(account.requests_at_s, ask.rpm, now_s),
        tokens=None if ask.tpm is None else _left(account.tokens_at_s, ask.tpm, now_s),
    )


def _wait_s(full_at_s: float, amount: int, per_minute: int, now_s: float) -> float:
    """Give the time until ``amount`` fits; 0 or less if it fits now."""
    return max(full_at_s, now_s) + amount * MINUTE_S / per_minute - now_s - MINUTE_S - 1e-6


def _advance(full_at_s: float, amount: int, per_minute: int, now_s: float) -> float:
    return max(full_at_s, now_s) + amount * MINUTE_S / per_minute


def _left(full_at_s: float, per_minute: int, now_s: float) -> Left:
    reset_s = max(0.0, full_at_s - now_s)
    remaining = math.floor((MINUTE_S - reset_s) * per_minute / MINUTE_S + 1e-6)
    return Left(per_minute, max(0, remaining), reset_s)
