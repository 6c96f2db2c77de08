"""Limits of all levels, by a clock that the tests move: one suite for every implementation."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from gateway.loops import ended
from gateway.state.holds import Grant, Round, SharedPurses
from gateway.state.limits import Ask, Bound, Left, Limits, Standing, Verdict
from gateway.state.memory import MemoryLimits
from gateway.state.periods import DAY_S
from gateway.state.redis import RedisLimits
from gateway.tenancy.holds import granted, left_of
from tests.integration.redis_server import RedisServer

T = TypeVar("T")
DOLLAR = 10**9
NOVEMBER_S = 1_795_000_000.0  # 2026-11-18, a Wednesday


class Desk:
    """Limits on a loop of their own; what is said in the background has happened when a call is back."""

    def __init__(self, limits: Limits, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.limits = limits
        self._run = run
        self.now_s = NOVEMBER_S

    def take(self, one: Ask) -> Verdict:
        verdict: Verdict = self._run(self.limits.take(one, self.now_s))
        return verdict

    def shorts(self, one: Ask, times: int) -> list[str | None]:
        return [self.take(one).short for _ in range(times)]

    def at_once(self, one: Ask, times: int) -> list[Verdict]:
        async def all_of_them() -> list[Verdict]:
            return await asyncio.gather(*(self.limits.take(one, self.now_s) for _ in range(times)))

        found: list[Verdict] = self._run(all_of_them())
        return found

    def extend(self, one: Ask, cost_nanousd: int) -> bool:
        return bool(self._run(self.limits.extend(one, cost_nanousd, self.now_s)))

    def settle(self, one: Ask, tokens: int = 0, cost: int = 0, reserved: int | None = None) -> None:
        held = one.cost_nanousd if reserved is None else reserved
        self.limits.settle(one, held, tokens, cost, self.now_s)

    def book(self, account: str, balance: int = 0, **spent: int) -> None:
        self.limits.book({account: Standing(balance_nanousd=balance, spent=spent)}, self.now_s)  # type: ignore[arg-type]  # periods by name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


@pytest.fixture(params=["memory", "redis"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    with asyncio.Runner() as runner:
        if request.param == "memory":
            yield Desk(MemoryLimits(), runner.run)
            return
        redis_server: RedisServer = request.getfixturevalue("server")
        redis_server.client.flushall()
        limits = RedisLimits(redis_server.url, timeout_s=30.0, share=1, alone=lambda: None)
        runner.run(limits.step(0.0))
        desk = Desk(limits, runner.run)
        rounds = runner.get_loop().create_task(all_that_is_left(limits.money, desk))
        yield desk
        assert limits.errors == {}
        assert not rounds.done(), rounds.exception()
        runner.run(ended([rounds]))
        runner.run(limits.close())
        assert redis_server.client.zcard("switchgear:limits:holders") == 0


async def all_that_is_left(purses: SharedPurses, desk: Desk) -> None:
    """Answer wishes as SQL would that knows of everything, and of nobody else."""
    while True:
        await purses.due()
        wishes = purses.wishes(desk.now_s)
        grants = []
        for wish in wishes:
            purse = purses.accounts[wish.bound.account]
            purse.turn(desk.now_s)
            total = purse.total_booked + purse.total_since
            spent = {
                **(purse.known.spent if purse.known is not None else {}),
                wish.bound.budget_period: purse.period_booked + purse.period_since,
                "total": total,
            }
            standing = Standing(balance_nanousd=purse.granted - total, spent=spent)
            held = granted(wish, left_of(wish.bound, standing), kept=True)
            grants.append(Grant(account=wish.bound.account, held=held, others_spare=0, standing=standing))
        purses.answered(wishes, Round(grants=grants), desk.now_s)


def ask(*bounds: Bound, tokens: int = 1, cost: int = 0, **limits: Any) -> Ask:
    """An ask at these bounds, or at a key's with these limits."""
    return Ask(bounds=bounds or (bound("key:k", **limits),), tokens=tokens, cost_nanousd=cost)


def bound(account: str, **limits: Any) -> Bound:
    return Bound(account=account, **limits)


# ---------------------------------------------------------------- rates
def test_without_limits_everything_is_admitted_and_nothing_is_said_of_rates(desk: Desk) -> None:
    """litellm#22726: no budget configured is never an exceeded one."""
    for _ in range(100):
        assert desk.take(ask(tokens=10**9, cost=10**15)) == Verdict()


def test_a_rate_is_refilled_evenly_and_says_what_is_left(desk: Desk) -> None:
    one = ask(rpm=60)
    assert desk.take(one).requests == Left(60, 59, 1.0)
    for left in range(58, -1, -1):
        verdict = desk.take(one)
        assert verdict.requests is not None
        assert verdict.requests.remaining == left
    desk.now_s += 0.25
    refused = desk.take(one)
    assert (refused.short, refused.account, refused.period, refused.limit) == (
        "requests", "key:k", "minute", 60,
    )  # fmt: skip
    assert refused.requests == Left(60, 0, 59.75)
    assert refused.retry_after_s == pytest.approx(0.75, abs=1e-3)
    desk.now_s += 0.751
    assert desk.take(one).short is None
    desk.now_s += 1000.0
    assert desk.take(one).requests == Left(60, 59, 1.0)


def test_complaint_20_a_window_passes_under_constant_traffic_too(desk: Desk) -> None:
    """litellm#14204: refused requests do not make the wait longer."""
    one = ask(rpm=6, rpd=5000)
    admitted = 0
    for _ in range(2400):
        desk.now_s += 0.25
        admitted += desk.take(one).short is None
    assert admitted in range(6 + 59, 6 + 61)


def test_a_day_has_a_window_of_its_own(desk: Desk) -> None:
    one = ask(rpm=10, rpd=3, tpd=1000)
    verdict = desk.take(one)
    assert verdict.requests == Left(3, 2, DAY_S / 3)
    assert desk.shorts(one, 3) == [None, None, "requests"]
    refused = desk.take(one)
    assert (refused.period, refused.limit) == ("day", 3)
    assert refused.retry_after_s == pytest.approx(DAY_S / 3, abs=1e-2)
    desk.now_s += DAY_S / 3 + 1
    assert desk.shorts(one, 2) == [None, "requests"]
    used_up = ask(bound("key:t", tpm=1000, tpd=1500), tokens=1000)
    assert desk.take(used_up).tokens == Left(1000, 0, 60.0)
    desk.now_s += 60.0
    refused = desk.take(used_up)
    assert (refused.short, refused.period, refused.limit) == ("tokens", "day", 1500)


def test_tokens_are_given_back_when_fewer_were_used(desk: Desk) -> None:
    one = ask(tokens=100, tpm=100)
    assert desk.take(one).tokens == Left(100, 0, 60.0)
    refused = desk.take(ask(tokens=1, tpm=100, rpm=9))
    assert (refused.short, refused.tokens, refused.requests) == (
        "tokens", Left(100, 0, 60.0), Left(9, 9, 0.0),
    )  # fmt: skip
    desk.settle(one, tokens=40)
    assert desk.take(ask(tokens=60, tpm=100)).short is None
    assert desk.take(ask(tokens=1, tpm=100)).short == "tokens"


def test_tokens_beyond_the_estimate_are_booked(desk: Desk) -> None:
    one = ask(tokens=10, tpm=60)
    desk.take(one)
    desk.settle(one, tokens=180)
    assert desk.take(one).tokens == Left(60, 0, 180.0)
    desk.now_s += 129.9
    assert desk.take(one).short == "tokens"
    desk.now_s += 0.2
    assert desk.take(one).short is None


@pytest.mark.parametrize("huge", [1000, 10**25, 10**400])
def test_an_estimate_over_the_whole_limit_cannot_empty_the_books(desk: Desk, huge: int) -> None:
    """A huge ``max_tokens`` takes a full window, and what was used counts like anything else."""
    one = ask(tokens=huge, tpm=60)
    assert desk.take(one).short is None
    assert desk.take(ask(tokens=1, tpm=60)).short == "tokens"
    desk.settle(one, tokens=60)
    refused = desk.take(one)
    assert refused.short == "tokens"
    assert refused.retry_after_s == pytest.approx(60, abs=1e-3)


def test_a_changed_limit_binds_the_next_request_and_what_was_taken_stays_taken(desk: Desk) -> None:
    """bifrost#5673, litellm#26672: what is configured is enforced, at once."""
    for _ in range(30):
        desk.take(ask(rpm=60))
    tightened = desk.take(ask(rpm=10, concurrency=100))
    assert tightened.requests == Left(10, 4, 36.0)
    assert desk.take(ask(concurrency=31)).short == "concurrency"
    assert desk.take(ask(concurrency=32)) == Verdict()


# ---------------------------------------------------------------- several levels
def test_the_tightest_level_binds_and_speaks(desk: Desk) -> None:
    levels = (bound("org:o", rpm=5), bound("project:o/p", rpm=3), bound("key:k", rpm=4, tpm=60))
    one = ask(*levels)
    verdict = desk.take(one)
    assert (verdict.requests, verdict.tokens) == (Left(3, 2, 20.0), Left(60, 59, 1.0))
    assert desk.shorts(one, 3) == [None, None, "requests"]
    refused = desk.take(one)
    assert (refused.account, refused.limit, refused.requests) == ("project:o/p", 3, Left(3, 0, 60.0))
    assert desk.shorts(ask(levels[0], levels[2]), 2) == [None, "requests"]


def test_a_refused_request_takes_nothing_at_any_level(desk: Desk) -> None:
    roomy = bound("org:o", rpm=10, tpm=100, concurrency=5, budget_nanousd=10)
    for tight in (
        bound("key:a", rpm=1), bound("key:b", tpm=5), bound("key:c", concurrency=1),
        bound("key:d", budget_nanousd=1), bound("key:e", credit=True, floor_nanousd=-1),
    ):  # fmt: skip
        first = ask(tight, tokens=5, cost=1)
        assert desk.take(first).short is None
        for order in ((roomy, tight), (tight, roomy)):
            refused = desk.take(ask(*order, tokens=5, cost=1))
            assert refused.account == tight.account
    verdict = desk.take(ask(roomy, tokens=100, cost=10))
    assert (verdict.requests, verdict.tokens) == (Left(10, 9, 6.0), Left(100, 0, 60.0))


def test_the_longest_wait_is_told(desk: Desk) -> None:
    one = ask(bound("org:o", rpm=1), bound("key:k", rpm=60, tpm=1, concurrency=1), tokens=1)
    assert desk.take(one).short is None
    desk.now_s += 30.0
    refused = desk.take(one)
    assert refused.account in ("org:o", "key:k")
    assert refused.retry_after_s == pytest.approx(30.0, abs=1e-3)
    assert refused.short in ("requests", "tokens")


def test_money_comes_before_rates(desk: Desk) -> None:
    """There is no use in telling a client to come again in a minute when its credit is gone."""
    broke = ask(bound("org:o", credit=True), bound("key:k", rpm=1), cost=1)
    assert desk.take(ask(bound("key:k", rpm=1))).short is None
    refused = desk.take(broke)
    assert (refused.short, refused.account, refused.retry_after_s) == ("credit", "org:o", None)


def test_concurrency_is_given_back_at_settlement(desk: Desk) -> None:
    one = ask(concurrency=2)
    assert desk.shorts(one, 3) == [None, None, "concurrency"]
    desk.settle(one)
    assert desk.shorts(one, 2) == [None, "concurrency"]


def test_accounts_do_not_share_anything(desk: Desk) -> None:
    desk.book("key:b", balance=-(10**15), total=10**15)
    for _ in range(3):
        desk.take(ask(bound("key:a", rpm=1, concurrency=1)))
    assert desk.take(ask(bound("key:c", rpm=1, concurrency=1, budget_nanousd=5))).short is None


# ---------------------------------------------------------------- money
def test_fifty_at_once_on_a_balance_for_ten_admit_ten(desk: Desk) -> None:
    """litellm#34732, new-api#6609: reservations are atomic, at whatever level the balance is."""
    one = ask(bound("org:o", credit=True), bound("key:k", rpm=100), cost=DOLLAR)
    desk.book("org:o", balance=10 * DOLLAR)
    assert sum(verdict.short is None for verdict in desk.at_once(one, 50)) == 10
    for _ in range(10):
        desk.settle(one, tokens=1, cost=DOLLAR // 2)
    assert sum(verdict.short is None for verdict in desk.at_once(one, 50)) == 5


def test_complaint_15_the_first_requests_of_an_unknown_end_user_are_bound(desk: Desk) -> None:
    """litellm#40095: also when they come at once."""
    one = ask(bound("user:o/p/never-seen", budget_nanousd=10, budget_period="day"), cost=4)
    assert sum(verdict.short is None for verdict in desk.at_once(one, 50)) == 2


def test_a_reservation_grows_up_to_the_floor(desk: Desk) -> None:
    """sub2api#7002: a live stream cannot drive a balance below its floor."""
    levels = (bound("org:o", credit=True, floor_nanousd=-50), bound("key:k", budget_nanousd=130))
    one = ask(*levels, cost=10)
    desk.book("org:o", balance=50)
    assert desk.take(one).short is None
    reserved = 10
    while desk.extend(one, 20):
        reserved += 20
    assert reserved == 90
    assert not desk.extend(one, 11)
    assert desk.extend(one, 10)
    assert desk.take(ask(levels[0], cost=1)).short == "credit"
    desk.settle(one, cost=95, reserved=100)
    assert desk.shorts(ask(levels[0], cost=5), 2) == [None, "credit"]
    assert desk.shorts(ask(levels[1], cost=35), 2) == [None, "budget"]


def test_a_refused_extension_takes_nothing_at_any_level(desk: Desk) -> None:
    one = ask(bound("org:o", budget_nanousd=100), bound("key:k", budget_nanousd=20), cost=10)
    desk.take(one)
    for _ in range(20):
        assert not desk.extend(one, 11)
    assert desk.take(ask(bound("org:o", budget_nanousd=100), cost=90)).short is None


def test_pay_as_you_go_ends_at_its_credit_limit(desk: Desk) -> None:
    one = ask(credit=True, floor_nanousd=-30, cost=10)
    assert desk.shorts(one, 4) == [None, None, None, "credit"]
    desk.settle(one, cost=30)
    assert desk.take(one).short == "credit"
    desk.book("key:k", balance=100 - 30, total=30)
    assert desk.shorts(one, 9) == [None] * 8 + ["credit"]


@pytest.mark.parametrize(
    ("period", "days"), [("day", 1), ("week", 5), ("month", 13)], ids=["day", "week", "month"]
)
def test_a_budget_begins_anew_with_its_period(desk: Desk, period: Any, days: int) -> None:
    one = ask(budget_nanousd=10, budget_period=period, cost=6)
    desk.take(one)
    desk.settle(one, cost=6)
    refused = desk.take(one)
    assert (refused.short, refused.account, refused.period) == ("budget", "key:k", period)
    midnight_s = (NOVEMBER_S // DAY_S + days) * DAY_S
    desk.now_s = midnight_s - 1
    assert desk.take(one).short == "budget"
    desk.now_s = midnight_s
    assert desk.shorts(one, 2) == [None, "budget"]


def test_a_budget_for_all_time_does_not_begin_anew(desk: Desk) -> None:
    one = ask(budget_nanousd=10, budget_period="total", cost=6)
    desk.take(one)
    desk.settle(one, cost=6)
    desk.now_s += 3650 * DAY_S
    assert desk.take(one).short == "budget"


def test_what_is_reserved_when_a_period_ends_counts_in_the_new_one(desk: Desk) -> None:
    one = ask(budget_nanousd=10, budget_period="day", cost=6)
    desk.take(one)
    desk.now_s += DAY_S
    assert desk.take(one).short == "budget"
    desk.settle(one, cost=3)
    assert desk.take(one).short is None


# ---------------------------------------------------------------- what SQL knows
def test_what_sql_knows_is_booked_by_period(desk: Desk) -> None:
    desk.book("key:k", balance=50, day=1, week=5, month=9, total=100)
    for limits, room in (
        ({"budget_nanousd": 10, "budget_period": "month"}, 1),
        ({"budget_nanousd": 10, "budget_period": "week"}, 5),
        ({"budget_nanousd": 10, "budget_period": "day"}, 9),
        ({"budget_nanousd": 120, "budget_period": "total"}, 20),
        ({"credit": True}, 50),
        ({"credit": True, "floor_nanousd": 45}, 5),
    ):
        assert desk.take(ask(cost=room + 1, **limits)).short is not None, limits
        fits = ask(cost=room, **limits)
        assert desk.take(fits).short is None, limits
        desk.settle(fits)


def test_sql_may_lag_behind_and_may_be_booked_again(desk: Desk) -> None:
    """What was settled here and is not in SQL yet counts; what came in by others is added."""
    one = ask(credit=True, budget_nanousd=1000, cost=10)
    desk.book("key:k", balance=100, total=0, month=0)
    for _ in range(3):
        desk.take(one)
        desk.settle(one, cost=10)
    for _ in range(2):
        desk.book("key:k", balance=90, total=10, month=10)
        assert desk.take(ask(credit=True, cost=71)).short == "credit"
        last = ask(credit=True, cost=70)
        assert desk.take(last).short is None
        desk.settle(last)
    desk.book("key:k", balance=20, total=80, month=80)
    assert desk.shorts(ask(credit=True, cost=20), 2) == [None, "credit"]


def test_a_top_up_counts_at_once_and_a_withdrawal_too(desk: Desk) -> None:
    one = ask(credit=True, cost=10)
    desk.book("key:k", balance=10)
    desk.take(one)
    desk.settle(one, cost=10)
    assert desk.take(one).short == "credit"
    desk.book("key:k", balance=25)  # 15 more; the usage is not in SQL yet
    assert desk.shorts(one, 2) == [None, "credit"]
    desk.settle(one, cost=0)
    desk.book("key:k", balance=-10, total=10)
    assert desk.take(ask(credit=True, cost=0)).short == "credit"


def test_an_old_statement_says_nothing_of_a_new_period(desk: Desk) -> None:
    desk.book("key:k", day=10, week=10, month=10, total=10)
    desk.now_s += DAY_S
    one = ask(budget_nanousd=10, budget_period="day", cost=10)
    assert desk.take(one).short is None
    desk.settle(one)
    month = ask(budget_nanousd=10, budget_period="month", cost=1)
    assert desk.take(month).short == "budget"
