"""Alerts: each threshold once per level and period, whoever looks, however often, after whatever restarts."""

from collections import Counter
from fractions import Fraction

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.state.limits import Bound
from gateway.state.periods import DAY_S, Span, spans
from gateway.tenancy.alerts import (
    LATE_S,
    THRESHOLDS,
    Credit,
    Gauge,
    Level,
    Mark,
    Sums,
    crossed,
    gauges,
    newly_crossed,
    room_nanousd,
    spans_to_look_at,
)

AMOUNTS = st.integers(0, 2**60)
LIMITED = Level(Bound(account="key:k", budget_nanousd=1000, budget_period="day"), "org", "project", "k")
PREPAID = Level(Bound(account="org:o", credit=True), "o")


@given(limit=st.integers(-(2**60), 2**60), used=AMOUNTS)
def test_a_threshold_is_crossed_at_its_share_and_not_a_nano_dollar_before(limit: int, used: int) -> None:
    found = crossed(Gauge(LIMITED, "budget", "p", limit, used))
    assert found == [one for one in THRESHOLDS if limit <= 0 or Fraction(used, limit) >= Fraction(one, 100)]
    assert found == sorted(found)
    assert found == list(THRESHOLDS[: len(found)]), "no higher one without the lower ones"


@given(limit=st.integers(1, 2**60), used=AMOUNTS, refused=st.integers(1, 2**60))
def test_a_refused_request_tells_that_a_limit_is_used_up_only_when_little_is_left(
    limit: int, used: int, refused: int
) -> None:
    gauge = Gauge(LIMITED, "budget", "p", limit, used, refused)
    spent = crossed(msgspec.structs.replace(gauge, refused_nanousd=0))
    short = used + refused > limit and Fraction(used, limit) >= Fraction(4, 5)
    assert crossed(gauge) == (list(THRESHOLDS) if short else spent)


GAUGES = st.builds(
    lambda limit, used, refused: Gauge(LIMITED, "budget", "p", limit, used, refused),
    st.integers(-5, 1000), st.integers(0, 1200), st.sampled_from([0, 0, 0, 7]),
)  # fmt: skip


@given(seen=st.lists(GAUGES, max_size=5), spent=st.lists(st.integers(0, 1000), min_size=5, max_size=5))
def test_nothing_is_crossed_before_all_together_have_used_what_there_is_room_for(
    seen: list[Gauge], spent: list[int]
) -> None:
    def after(used: list[int]) -> list[list[int]]:
        return [
            crossed(msgspec.structs.replace(gauge, used_nanousd=gauge.used_nanousd + more))
            for gauge, more in zip(seen, used, strict=False)
        ]

    room = room_nanousd(seen)
    if sum(spent) < room:
        assert after(spent) == [crossed(gauge) for gauge in seen]
    if not any(gauge.refused_nanousd for gauge in seen):
        alone = [after([int(room) * (one is gauge) for one in seen]) for gauge in seen if room < 1e9]
        assert (room == float("inf")) == all(crossed(gauge) == [50, 80, 100] for gauge in seen)
        assert room == float("inf") or any(one != [crossed(gauge) for gauge in seen] for one in alone)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 400)),
        st.tuples(st.just("wait"), st.sampled_from([1, 3000, int(LATE_S), 50_000])),
        st.tuples(st.just("look"), st.integers(0, 2)),
        st.tuples(st.just("restart"), st.integers(0, 2)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_each_threshold_of_a_budget_is_told_once_a_period(steps: list[tuple[str, int]]) -> None:
    now_s, spent = 1_790_000_000.0, Counter[tuple[str, Span]]()
    rows, told = set[Mark](), Counter[Mark]()
    known: list[frozenset[Mark]] = [frozenset()] * 3  # of three processes

    def look(process: int) -> None:
        seen = gauges([LIMITED], Sums(spent, {}), now_s)
        for mark in newly_crossed(seen, known[process]):
            told[mark] += mark not in rows  # SQL's unique row
            rows.add(mark)
        known[process] = frozenset(one.mark(threshold) for one in seen for threshold in crossed(one))

    for step, number in steps:
        if step == "spend":
            spent["key:k", spans(now_s)["day"]] += number
        elif step == "wait":
            look(0)  # one process looks in every hour
            now_s += number
        elif step == "restart":
            known[number] = frozenset()
        else:
            look(number)
    look(0)
    reached = {
        ("key:k", "budget", span.label, threshold)
        for (_, span), amount in spent.items()
        for threshold in THRESHOLDS
        if amount * 100 >= threshold * 1000
    }
    assert told == Counter(reached)


@given(now_s=st.floats(0, 4e9), period=st.sampled_from(["day", "week", "month", "total"]))
def test_the_period_before_is_looked_at_for_an_hour(now_s: float, period: str) -> None:
    bound = msgspec.convert({"account": "org:o", "budget_nanousd": 5, "budget_period": period}, Bound)
    running = spans(now_s)[bound.budget_period]
    found = spans_to_look_at(Level(bound, "o"), now_s)
    assert running in found
    assert len(found) <= 2
    before = next(iter(found - {running}), None)
    assert (before is not None) == (
        running.start_s <= now_s < running.start_s + LATE_S and running.start_s > 0
    )
    assert before is None or before.end_s == running.start_s


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1500)), min_size=1, max_size=6))
def test_a_credit_is_measured_from_what_was_put_in_last(rounds: list[tuple[int, int]]) -> None:
    put_in = used = 0
    for number, (amount, spent) in enumerate(rounds):
        credit = Credit(put_in + amount, used, f"tr_{number}", used)
        put_in += amount
        (before,) = gauges([PREPAID], Sums({}, {"org:o": credit}), 0.0)
        assert before.used_nanousd == 0
        used += spent
        (gauge,) = gauges(
            [PREPAID], Sums({}, {"org:o": msgspec.structs.replace(credit, used_nanousd=used)}), 0.0
        )
        assert gauge.limit_nanousd - gauge.used_nanousd == put_in - used, "what is left is the balance"
        assert (gauge.period, gauge.used_nanousd) == (f"tr_{number}", spent)
        assert (100 in crossed(gauge)) == (put_in - used <= 0)


def test_what_has_no_limit_warns_of_nothing() -> None:
    closed = Level(Bound(account="org:o", budget_nanousd=0), "o")
    empty = Sums({}, {"org:o": Credit(0, 50)})
    assert gauges([closed, PREPAID], empty, DAY_S) == []
    floored = Level(Bound(account="org:o", credit=True, floor_nanousd=-100), "o")
    (gauge,) = gauges([floored], empty, DAY_S)
    assert crossed(gauge) == [50]
    expired = Sums({}, {"org:o": Credit(0, 0, "tr_1")})
    assert [crossed(one) for one in gauges([PREPAID], expired, DAY_S)] == [[50, 80, 100]]
