"""Whatever is taken, extended and settled in whatever order at whichever levels: never more than allowed."""

import asyncio
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.state.holds import SharedPurses
from gateway.state.limits import Ask, Bound, Standing
from gateway.state.memory import MemoryLimits
from gateway.state.periods import DAY_S, spans

ORG = Bound(account="org:o", rpm=40, tpd=5000, concurrency=6, credit=True, floor_nanousd=-100)
KEYS = tuple(
    Bound(
        account=f"key:{name}", rpm=30, tpm=600, rpd=200, concurrency=4, budget_nanousd=300,
        budget_period="total",
    )
    for name in "ab"
)  # fmt: skip
BOUNDS = {bound.account: bound for bound in (ORG, *KEYS)}
GRANTED = 400


class Open(msgspec.Struct):
    """A request under way."""

    ask: Ask
    reserved: int


class Taking(RuleBasedStateMachine):
    """Counts what was admitted by itself, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = MemoryLimits()
        self.start_s = self.now_s = 1_700_000_000.0
        self.limits.book({"org:o": Standing(balance_nanousd=GRANTED, spent={})}, self.now_s)
        self.open: list[Open] = []
        self.admitted: Counter[str] = Counter()
        self.minute_tokens: Counter[str] = Counter()
        self.day_tokens: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.known: Counter[str] = Counter()

    def counts(self) -> str:
        parts = (self.limits.rates.accounts, self.limits.money.accounts)
        return repr([part.get(name) for part in parts for name in BOUNDS])

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(
        tokens=st.integers(0, 900), cost=st.integers(0, 60), key=st.sampled_from(KEYS), turned=st.booleans()
    )
    def take(self, tokens: int, cost: int, key: Bound, turned: bool) -> None:
        one = Ask(bounds=(key, ORG) if turned else (ORG, key), tokens=tokens, cost_nanousd=cost)
        reserved = {name: purse.reserved for name, purse in self.limits.money.accounts.items()}
        verdict = asyncio.run(self.limits.take(one, self.now_s))
        if verdict.short is None:
            self.open.append(Open(one, cost))
            for bound in one.bounds:
                self.admitted[bound.account] += 1
                self.minute_tokens[bound.account] += min(tokens, bound.tpm or 0)
                self.day_tokens[bound.account] += min(tokens, bound.tpd or 0)
        else:
            assert verdict.account in BOUNDS
            assert all(self.limits.money.accounts[name].reserved == held for name, held in reserved.items())
            if verdict.short in ("requests", "tokens"):
                assert verdict.retry_after_s is not None
                assert 0 < verdict.retry_after_s < 2 * DAY_S
        for left in (verdict.requests, verdict.tokens):
            if left is not None:
                assert 0 <= left.remaining <= left.limit
                assert left.reset_s >= 0

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cost=st.integers(0, 60))
    def extend(self, data: st.DataObject, cost: int) -> None:
        one = data.draw(st.sampled_from(self.open))
        before = self.counts()
        if asyncio.run(self.limits.extend(one.ask, cost, self.now_s)):
            one.reserved += cost
        else:
            assert self.counts() == before

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.floats(0, 1), cost_share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float, cost_share: float) -> None:
        one = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        tokens, cost = int(min(one.ask.tokens, 600) * share), int(one.reserved * cost_share)
        self.limits.settle(one.ask, one.reserved, tokens, cost, self.now_s)
        for bound in one.ask.bounds:
            self.minute_tokens[bound.account] -= min(one.ask.tokens, bound.tpm or 0) - tokens
            self.day_tokens[bound.account] -= min(one.ask.tokens, bound.tpd or 0) - tokens
            self.spent[bound.account] += cost

    @rule(data=st.data())
    def book(self, data: st.DataObject) -> None:
        """SQL knows a part of what was spent, never less than it knew before."""
        for name in BOUNDS:
            self.known[name] = data.draw(st.integers(self.known[name], self.spent[name]))
            granted = GRANTED if name == "org:o" else 0
            standing = Standing(balance_nanousd=granted - self.known[name], spent={"total": self.known[name]})
            self.limits.book({name: standing}, self.now_s)

    @invariant()
    def rates_hold(self) -> None:
        passed_s = self.now_s - self.start_s
        for name, bound in BOUNDS.items():
            for taken, limit, window_s in (
                (self.admitted, bound.rpm, 60.0), (self.admitted, bound.rpd, DAY_S),
                (self.minute_tokens, bound.tpm, 60.0), (self.day_tokens, bound.tpd, DAY_S),
            ):  # fmt: skip
                assert limit is None or taken[name] <= limit * (1 + passed_s / window_s) + 1e-2

    @invariant()
    def the_parts_are_the_whole(self) -> None:
        for name, bound in BOUNDS.items():
            account, purse = self.limits.rates.accounts.get(name), self.limits.money.accounts.get(name)
            if account is None or purse is None:
                assert not self.spent[name]
                continue
            running = [one for one in self.open if any(bound.account == name for bound in one.ask.bounds)]
            assert account.running == len(running) <= (bound.concurrency or 0)
            assert purse.reserved == sum(one.reserved for one in running) >= 0
            assert purse.total_booked + purse.total_since == self.spent[name]
            used = purse.reserved + self.spent[name]
            assert used <= (GRANTED + 100 if bound.credit else bound.budget_nanousd or 0)

    @invariant()
    def the_organisation_is_the_sum_of_its_keys(self) -> None:
        whole, *parts = (self.limits.rates.accounts.get(name) for name in BOUNDS)
        if whole is not None:
            assert whole.running == sum(part.running for part in parts if part is not None)
        rich, *purses = (self.limits.money.accounts.get(name) for name in BOUNDS)
        if rich is not None:
            assert rich.reserved == sum(purse.reserved for purse in purses if purse is not None)


Taking.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTaking = Taking.TestCase


@given(
    st.integers(1, 10), st.integers(0, 1000), st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60), st.integers(0, 60)), max_size=60),
)  # fmt: skip
def test_processes_that_share_without_seeing_each_other_do_not_overdraw(
    share: int, granted: int, spent: int, steps: list[tuple[int, int, int]]
) -> None:
    """The way of things while SQL is away: each of N may use an N-th of what was left."""
    many = [SharedPurses(share) for _ in range(share)]
    for one in many:
        one.lost()
        one.book({"key:k": Standing(balance_nanousd=granted - spent, spent={"total": spent})}, 0.0)
    bounds = (Bound(account="key:k", credit=True),)
    used = 0
    for which, reserved, cost in steps:
        one = many[which % share]
        if asyncio.run(one.reserve(one.of(bounds, 0.0), reserved, 0.0)) is None:
            used += min(cost, reserved)
            one.spend(bounds, reserved, min(cost, reserved), 0.0)
    assert used <= max(0, granted - spent)


def test_the_memory_for_end_users_is_bounded() -> None:
    """Who is idle is forgotten, at the price of a look now and then; who is not stays."""
    limits, now_s = MemoryLimits(), 1_700_000_000.0
    busy = Ask(bounds=(Bound(account="user:o/p/busy", concurrency=1),), tokens=1, cost_nanousd=0)
    rich = Ask(bounds=(Bound(account="user:o/p/rich", budget_nanousd=10),), tokens=1, cost_nanousd=10)

    async def crowd(first: int, count: int, spent: int) -> None:
        for number in range(first, first + count):
            bound = Bound(account=f"user:o/p/{number}", rpm=5, budget_nanousd=9)
            ask = Ask(bounds=(bound,), tokens=1, cost_nanousd=0)
            assert (await limits.take(ask, now_s)).short is None
            limits.settle(ask, 0, 1, spent, now_s)

    async def life() -> None:
        nonlocal now_s
        assert (await limits.take(busy, now_s)).short is None
        assert (await limits.take(rich, now_s)).short is None
        limits.settle(rich, 10, 1, 10, now_s)
        for begin in range(0, 30_000, 1000):
            now_s += 60.0
            await crowd(begin, 1000, 0)
            assert len(limits.rates.accounts) < 10_000
            assert len(limits.money.accounts) < 10_000
        assert (await limits.take(rich, now_s)).short == "budget"
        await crowd(10**6, 120_000, 1)
        assert len(limits.money.accounts) < 60_000
        assert (await limits.take(busy, now_s)).short == "concurrency"

    asyncio.run(life())


@given(st.floats(0, 4e9))
def test_periods_begin_before_and_end_after(now_s: float) -> None:
    for period, span in spans(now_s).items():
        assert span.start_s <= now_s < span.end_s
        assert spans(span.start_s)[period] == span
        if period != "total":
            assert spans(span.end_s)[period].start_s == span.end_s
            assert spans(span.end_s)[period].label != span.label
