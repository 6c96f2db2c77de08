"""Whatever gateways that share an account reserve, spend and die of: never over its limit."""

import asyncio
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy.pool import StaticPool

from gateway import tables
from gateway.state.holds import CONTESTED_S, LEASE_S, SharedPurses, Wish
from gateway.state.limits import Bound, Standing
from gateway.tenancy import holds, ledger, transfers
from gateway.tenancy.journal import Entry

LIMIT, GRANTED = 1000, 800
ACCOUNTS = (
    Bound(account="org:o", credit=True, floor_nanousd=-200),
    Bound(account="key:k", budget_nanousd=LIMIT, budget_period="total"),
)
START_S = 1_795_000_000.0


def in_memory() -> sa.Engine:
    engine = sa.create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    tables.metadata.create_all(engine)
    with engine.begin() as connection:
        transfers.transfer(connection, granted(GRANTED))
    return engine


def granted(amount: int) -> transfers.Transfer:
    return transfers.Transfer(
        kind="grant", account="org:o", org="o", amount_nanousd=amount, ts=START_S, actor="test"
    )


class Process(msgspec.Struct):
    """One gateway: its purses, what it has reserved, and what its journal has and SQL has not."""

    name: str
    purses: SharedPurses
    reserved: list[int] = []
    journal: list[Entry] = []


class Sharing(RuleBasedStateMachine):
    """Three gateways over a real SQLite; the clock only passes while those that live keep their leases."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = in_memory()
        self.runner = asyncio.Runner()
        self.now_s, self.count = START_S, 0
        self.alive = [self.born() for _ in range(3)]
        self.left: list[Entry] = []  # in the journals of those that died

    def teardown(self) -> None:
        self.runner.close()
        self.engine.dispose()

    def born(self) -> Process:
        self.count += 1
        purses = SharedPurses(3)
        purses.book({"org:o": Standing(balance_nanousd=GRANTED, spent={})}, self.now_s)
        return Process(f"process-{self.count}", purses)

    def entry(self, cost: int) -> Entry:
        self.count += 1
        name = f"r{self.count}"
        return Entry(
            name, self.now_s, "o", "p", "k", "m", "", "ok", 1, 0, 1, cost, "v", "upstream", 1, "r", False
        )  # fmt: skip

    @initialize()
    def leases(self) -> None:
        for one in self.alive:
            self.round(one)

    def round(self, one: Process, answered: bool = True) -> None:
        """Carry, and ask SQL for holds; the answer may be lost on its way."""

        async def life() -> None:
            wishes = one.purses.wishes(self.now_s)
            ledger.insert(self.engine, one.journal)
            one.journal = []
            found = holds.hold(self.engine, one.name, wishes, self.now_s)
            if answered:
                one.purses.answered(wishes, found, self.now_s)

        self.runner.run(life())

    @rule(which=st.integers(0, 2), cost=st.integers(0, 400), rounds=st.lists(st.integers(0, 2), max_size=4))
    def ask(self, which: int, cost: int, rounds: list[int]) -> None:
        """A request, and who has a round while it waits; then the client leaves."""
        one = self.alive[which]

        async def begin() -> asyncio.Task[object]:
            asking = asyncio.create_task(
                one.purses.reserve(one.purses.of(ACCOUNTS, self.now_s), cost, self.now_s)
            )
            await asyncio.sleep(0)
            return asking

        asking = self.runner.run(begin())
        for other in rounds:
            self.round(self.alive[other])
            self.runner.run(turns())

        async def end() -> None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        self.runner.run(end())
        if not asking.cancelled() and asking.result() is None:
            one.reserved.append(cost)

    @rule(which=st.integers(0, 2))
    def look(self, which: int) -> None:
        self.round(self.alive[which])

    @rule(which=st.integers(0, 2))
    def answer_is_lost(self, which: int) -> None:
        self.round(self.alive[which], answered=False)

    @rule(which=st.integers(0, 2), share=st.floats(0, 1))
    def settle(self, which: int, share: float) -> None:
        one = self.alive[which]
        if one.reserved:
            reserved = one.reserved.pop()
            cost = int(reserved * share)
            one.purses.spend(ACCOUNTS, reserved, cost, self.now_s)
            one.journal.append(self.entry(cost))

    @rule(which=st.integers(0, 2), share=st.floats(0, 1))
    def die(self, which: int, share: float) -> None:
        """By kill -9: what ran is billed by its last progress line, once the journal is recovered."""
        dead = self.alive[which]
        self.left += dead.journal + [self.entry(int(reserved * share)) for reserved in dead.reserved]
        self.alive[which] = self.born()
        self.round(self.alive[which])

    @rule(seconds=st.floats(0.1, LEASE_S / 2))
    def wait(self, seconds: float) -> None:
        """Journals of the dead are recovered well before their leases end."""
        self.now_s += seconds
        ledger.insert(self.engine, self.left)
        self.left = []
        for one in self.alive:
            self.round(one)

    @precondition(lambda self: not any(one.reserved for one in self.alive))
    @rule()
    def all_is_to_be_had_in_the_end(self) -> None:
        """Who needs what is left gets it, when the others have heard of it: nothing is held for ever."""
        for _ in range(3):
            self.wait(LEASE_S / 2 + 0.1)
        self.now_s += CONTESTED_S
        self.wait(0.1)
        left = LIMIT - self.used()
        self.ask(0, left, [0, 1, 2, 0])
        self.runner.run(asyncio.sleep(0.26))  # the pause before it is asked for once more
        self.ask(0, left, [0, 1, 2, 0])
        one = self.alive[0]
        assert one.reserved, (left, one.purses.accounts)
        for reserved in one.reserved:
            one.purses.spend(ACCOUNTS, reserved, 0, self.now_s)
            one.journal.append(self.entry(0))
        one.reserved = []

    def used(self) -> int:
        with self.engine.connect() as connection:
            booked = ledger.spent(connection).get("key:k", 0)
        journals = [*self.left, *(entry for one in self.alive for entry in one.journal)]
        return booked + sum(entry.amount_nanousd for entry in journals)

    @invariant()
    def the_limit_is_the_limit(self) -> None:
        assert self.used() + sum(sum(one.reserved) for one in self.alive) <= LIMIT


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


Sharing.TestCase.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestSharing = Sharing.TestCase


@given(st.integers(-50, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_a_wish_is_never_granted_beyond_what_there_is_room_for(
    held: int, reserved: int, more: int, room: int, spare: bool
) -> None:
    wish = Wish(
        bound=ACCOUNTS[1], held=held, reserved=reserved, need=reserved + more, least=more, spare=spare
    )
    now = holds.granted(wish, room, kept=True)
    assert held <= now <= max(held, room)
    assert now >= min(wish.need, held) or room < wish.need
    if room >= wish.need:
        assert now >= wish.need
    assert 0 <= holds.spare(wish, now) <= max(0, now - reserved)


def waits(purses: SharedPurses, cost: int, then: Callable[[], None]) -> object:
    """Reserve, and have something done while it waits."""

    async def life() -> object:
        asking = asyncio.create_task(purses.reserve(purses.of(ACCOUNTS, START_S), cost, START_S))
        await asyncio.sleep(0)
        then()
        return await asking

    return asyncio.run(life())


def test_while_sql_is_away_a_process_goes_on_with_its_share_of_what_was_left() -> None:
    purses = SharedPurses(2)
    purses.book({"org:o": Standing(balance_nanousd=300, spent={"total": 0})}, START_S)
    assert waits(purses, 251, purses.lost) is not None, "the half of 500"
    assert waits(purses, 250, purses.lost) is None
    assert waits(purses, 1, purses.lost) is not None


def test_whoever_lost_its_lease_holds_nothing_and_asks_anew() -> None:
    engine = in_memory()
    slow, quick = SharedPurses(2), SharedPurses(2)
    for one in (slow, quick):
        one.book({"org:o": Standing(balance_nanousd=GRANTED, spent={})}, START_S)

    async def life() -> None:
        async def a_round(purses: SharedPurses, name: str, now_s: float) -> None:
            wishes = purses.wishes(now_s)
            purses.answered(wishes, holds.hold(engine, name, wishes, now_s), now_s)

        async def ask(purses: SharedPurses, name: str, cost: int, now_s: float) -> object:
            asking = asyncio.create_task(purses.reserve(purses.of(ACCOUNTS, now_s), cost, now_s))
            await asyncio.sleep(0)
            if not asking.done():
                await a_round(purses, name, now_s)
            return await asking

        assert await ask(slow, "slow", 100, START_S) is None
        assert slow.accounts["key:k"].held == 550, "half of the rest"
        late_s = START_S + LEASE_S + 1
        assert await ask(quick, "quick", 1000, late_s) is None, "the lease of the other is over"
        assert await ask(slow, "slow", 100, late_s) is not None
        assert slow.accounts["key:k"].held <= 100

    asyncio.run(life())
    engine.dispose()
