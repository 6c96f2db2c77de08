"""Desired + observed -> commands."""

from backends.fleet import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    EJECTED_RESTART_S,
    GIVE_UP_AFTER,
    LASTED_S,
    SLOW_RETRY_S,
    Crashes,
    Desired,
    Launch,
    Observed,
    Stop,
    crashed,
    gave_up,
    next_start_s,
    plan,
)
from backends.replica import Phase

A, B = Desired(id="a", load_timeout_s=60.0), Desired(id="b", load_timeout_s=60.0)


def test_what_is_wanted_is_started_in_order() -> None:
    assert plan([B, A], {}, {}, 0.0) == [Launch("b"), Launch("a")]


def test_what_runs_is_left_alone() -> None:
    assert plan([A], {"a": Observed(phase=Phase.READY, since_s=0.0)}, {}, 1e6) == []


def test_what_is_no_longer_wanted_is_ended_first() -> None:
    running = {"b": Observed(phase=Phase.READY, since_s=0.0)}
    assert plan([A], running, {}, 0.0) == [Stop("b", "no longer wanted"), Launch("a")]


def test_nothing_is_ended_twice() -> None:
    running = {"a": Observed(phase=Phase.DRAINING, since_s=0.0, ending=True)}
    assert plan([], running, {}, 0.0) == []
    assert plan([A], running, {}, 0.0) == []


def test_a_load_that_takes_too_long_is_started_anew() -> None:
    running = {"a": Observed(phase=Phase.LOADING, since_s=0.0)}
    assert plan([A], running, {}, 59.0) == []
    assert plan([A], running, {}, 60.0) == [Stop("a", "not ready 60 s after its start")]


def test_a_launched_replica_that_stays_ejected_is_started_anew_an_attached_one_is_not() -> None:
    for launched in (True, False):
        running = {"a": Observed(phase=Phase.EJECTED, since_s=0.0, launched=launched)}
        assert plan([A], running, {}, EJECTED_RESTART_S - 1) == []
        assert bool(plan([A], running, {}, EJECTED_RESTART_S)) is launched


def test_crashes_are_answered_by_growing_pauses_then_slowly() -> None:
    crashes, now_s, pauses = Crashes(), 0.0, []
    for _ in range(GIVE_UP_AFTER + 2):
        crashes = crashed(crashes, started_s=now_s, was_ready=True, now_s=now_s)
        pauses.append(next_start_s(crashes) - now_s)
        assert plan([A], {}, {"a": crashes}, next_start_s(crashes) - 0.1) == []
        now_s = next_start_s(crashes)
        assert plan([A], {}, {"a": crashes}, now_s) == [Launch("a")]
    quick = [min(BACKOFF_FIRST_S * 2**n, BACKOFF_MAX_S) for n in range(GIVE_UP_AFTER - 1)]
    assert pauses == [*quick, SLOW_RETRY_S, SLOW_RETRY_S, SLOW_RETRY_S]
    assert gave_up(crashes)


def test_a_run_that_lasted_begins_a_new_series() -> None:
    many = Crashes(count=4, last_s=0.0)
    assert crashed(many, started_s=0.0, was_ready=True, now_s=LASTED_S).count == 1
    assert crashed(many, started_s=0.0, was_ready=False, now_s=LASTED_S).count == 5
