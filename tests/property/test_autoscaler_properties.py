"""The autoscaler's promises, whatever the load does."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import scaling_trials, spot_trials
from backends.autoscaler import Bounds, Hours, Scaling, Seen, State, decide

LOOKS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=80)


def seen(now_s: float, running: int, waiting: int, ready: int, loading: int = 0, **more: float) -> Seen:
    return Seen(
        now_s=now_s,
        running=running,
        waiting=waiting,
        ready=ready,
        loading=loading,
        slots=8,
        held_s=4.0,
        load_s=60.0,
        ttft_s=more.get("ttft_s"),
        kv_usage=more.get("kv_usage"),
        hour=more.get("hour", 12.0),
    )


@given(LOOKS, st.integers(0, 3), st.integers(1, 10), st.floats(0.5, 60.0))
def test_bounds_hold_and_nothing_ends_while_something_starts(
    looks: list[tuple[int, int]], least: int, more: int, period_s: float
) -> None:
    bounds, state, rules = Bounds(least, least + more), State(desired=least), Scaling()
    for number, (running, waiting) in enumerate(looks):
        here = state.desired
        loading = here // 2
        after = decide(
            rules, bounds, state, seen(number * period_s, running, waiting, here - loading, loading)
        )
        assert bounds.least <= after.desired <= bounds.most
        if loading:
            assert after.desired >= here
        assert after.desired >= here - max(1, here if not running and not waiting else 1)
        state = after


def test_to_zero_only_after_the_idle_time_and_back_at_the_first_request() -> None:
    rules, bounds = Scaling(idle_s=100.0), Bounds(0, 4)
    state = decide(rules, bounds, State(desired=1), seen(0.0, 1, 0, 1))
    found = {}
    for now in range(5, 205, 5):
        state = decide(rules, bounds, state, seen(float(now), 0, 0, state.desired))
        found[now] = state.desired
    assert (found[95], found[100]) == (1, 0)
    assert decide(rules, bounds, state, seen(210.0, 0, 1, 0)).desired == 1


def test_each_signal_asks_for_more() -> None:
    bounds, rules = Bounds(1, 10), Scaling(out_window_s=0.0, slo_ttft_s=1.0)
    start = State(desired=2)
    assert decide(rules, bounds, start, seen(0.0, 2, 0, 2)).desired == 2
    assert decide(rules, bounds, start, seen(0.0, 2, 0, 2, ttft_s=3.0)).desired == 3
    assert decide(rules, bounds, start, seen(0.0, 2, 0, 2, kv_usage=0.99)).desired == 3
    assert decide(rules, bounds, start, seen(0.0, 16, 80, 2)).desired > 4
    night = Scaling(schedule=(Hours(from_hour=22, until_hour=6, min_replicas=5),))
    assert decide(night, bounds, start, seen(0.0, 2, 0, 2, hour=23.0)).desired == 5
    assert decide(night, bounds, start, seen(0.0, 2, 0, 2, hour=7.0)).desired == 2
    capped = Scaling(out_window_s=0.0, replica_usd_per_hour=2.0, max_usd_per_hour=7.0)
    assert decide(capped, bounds, start, seen(0.0, 16, 200, 2)).desired == 3


@pytest.mark.parametrize(
    ("kinds", "rates", "hours"),
    [
        (scaling_trials.KINDS, scaling_trials.rates, 1.02),
        pytest.param(scaling_trials.UNSEEN, scaling_trials.unseen, 1.0, id="held away"),
    ],
)
def test_fewer_violations_at_no_more_replica_hours_than_the_rules_of_the_field(
    kinds: tuple[str, ...], rates: Callable[[str, int, int], list[float]], hours: float
) -> None:
    totals = {}
    for name, make in scaling_trials.RULES.items():
        runs = [
            scaling_trials.run(rates(kind, 3600, seed), make(), seed) for kind in kinds for seed in (11, 12)
        ]
        totals[name] = sum(one.violations for one in runs), sum(one.replica_hours for one in runs)
    ours = totals.pop("switchgear")
    for violations, used in totals.values():
        assert ours[0] < violations
        assert ours[1] <= used * hours


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_a_mix_of_spot_and_on_demand_saves_and_loses_no_stream(seed: int) -> None:
    trace = spot_trials.reclaims(600, seed)
    found = {name: spot_trials.run(trace, mix, seed) for name, mix in spot_trials.POLICIES.items()}
    assert found["on demand only"].cost == 1.0
    assert found["on demand only"].reclaimed == 0
    ours = found["switchgear"]
    at_once = max(sum(rate == spot_trials.STORM_RATE for rate in rates) for rates in trace)
    assert ours.lost == 0 or at_once > 1, "one zone's storm, however bad, loses nothing"
    assert ours.cost < 0.75
    assert ours.lost <= found["spot, one zone"].lost
