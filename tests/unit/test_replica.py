"""A replica's life, case by case."""

import pytest

from backends.replica import (
    EJECT_AFTER,
    EJECT_AFTER_THROTTLED,
    READMIT_FIRST_S,
    READMIT_MAX_S,
    STEADY_S,
    TRANSITIONS,
    Event,
    Phase,
    Replica,
    step,
)

READY = Replica(id="a", model="m", phase=Phase.READY, since_s=100.0)


def after(replica: Replica, *events: Event, at: float = 100.0) -> Replica:
    for event in events:
        replica = step(replica, event, at)
    return replica


def test_every_phase_has_a_row() -> None:
    assert set(TRANSITIONS) == set(Phase)


def test_an_attached_replica_is_ready_at_its_first_answer() -> None:
    waiting = Replica(id="a", model="m")
    assert after(waiting, Event.REFUSED, Event.MISSED).phase is Phase.WAITING
    assert after(waiting, Event.ANSWERED).phase is Phase.READY


@pytest.mark.parametrize("event", [Event.FAILED, Event.MISSED])
def test_failures_in_a_row_eject(event: Event) -> None:
    assert after(READY, *[event] * (EJECT_AFTER - 1)).phase is Phase.READY
    ejected = step(after(READY, *[event] * (EJECT_AFTER - 1)), event, 105.0, "500 from /v1/chat/completions")
    assert (ejected.phase, ejected.since_s, ejected.ejections) == (Phase.EJECTED, 105.0, 1)
    assert ejected.reason == "500 from /v1/chat/completions"


def test_a_refused_connection_ejects_at_once() -> None:
    assert after(READY, Event.REFUSED).phase is Phase.EJECTED


def test_a_served_request_ends_the_row() -> None:
    assert (
        after(READY, Event.FAILED, Event.FAILED, Event.SUCCEEDED, Event.FAILED, Event.MISSED).phase
        is Phase.READY
    )


def test_good_probes_do_not_hide_failing_requests() -> None:
    events = [Event.FAILED, Event.ANSWERED] * EJECT_AFTER
    assert after(READY, *events[:-1]).phase is Phase.EJECTED


def test_good_probes_end_a_row_of_missed_ones() -> None:
    assert after(READY, *[Event.MISSED, Event.MISSED, Event.ANSWERED] * 3).phase is Phase.READY


def test_a_good_probe_readmits_after_the_back_off() -> None:
    ejected = after(READY, Event.REFUSED)
    assert step(ejected, Event.ANSWERED, 100.0 + READMIT_FIRST_S - 0.01).phase is Phase.EJECTED
    back = step(ejected, Event.ANSWERED, 100.0 + READMIT_FIRST_S)
    assert (back.phase, back.consecutive_failures, back.missed_probes) == (Phase.READY, 0, 0)


def test_a_served_request_does_not_readmit() -> None:
    assert step(after(READY, Event.REFUSED), Event.SUCCEEDED, 1000.0).phase is Phase.EJECTED


def test_the_back_off_doubles_up_to_its_limit_and_is_forgotten() -> None:
    replica, pauses, now_s = READY, [], 100.0
    for _ in range(8):
        replica = step(replica, Event.REFUSED, now_s)
        pauses.append(replica.readmit_at_s - now_s)
        now_s = replica.readmit_at_s
        replica = step(replica, Event.ANSWERED, now_s)
    assert pauses == [min(READMIT_FIRST_S * 2**n, READMIT_MAX_S) for n in range(8)]
    replica = step(replica, Event.ANSWERED, now_s + STEADY_S)
    assert replica.ejections == 0


def test_loading_waits_patiently() -> None:
    loading = after(Replica(id="a", model="m", launched=True), Event.LAUNCHED)
    assert after(loading, *[Event.REFUSED, Event.MISSED] * 10).phase is Phase.LOADING
    assert after(loading, *[Event.REFUSED] * 10, Event.ANSWERED).phase is Phase.READY


def test_crashes_and_the_ways_out() -> None:
    loading = after(Replica(id="a", model="m", launched=True), Event.LAUNCHED)
    assert after(loading, Event.EXITED).phase is Phase.WAITING
    failed = after(loading, Event.GAVE_UP)
    assert failed.phase is Phase.FAILED
    assert after(failed, Event.ANSWERED).phase is Phase.FAILED
    assert after(failed, Event.LAUNCHED, Event.ANSWERED).phase is Phase.READY


def test_draining_ends_in_stopped_and_can_be_taken_back() -> None:
    draining = after(READY, Event.DRAIN)
    assert after(draining, Event.ANSWERED, Event.FAILED, Event.REFUSED).phase is Phase.DRAINING
    assert after(draining, Event.EXITED).phase is Phase.STOPPED
    assert after(draining, Event.STOPPED, Event.ANSWERED).phase is Phase.STOPPED
    assert after(draining, Event.RESUME, Event.ANSWERED).phase is Phase.READY


def test_nothing_changed_is_the_same_object() -> None:
    assert step(READY, Event.ANSWERED, 101.0) is READY
    assert step(READY, Event.SUCCEEDED, 101.0) is READY


def test_a_replica_that_only_turns_requests_away_is_ejected_and_one_that_serves_now_and_then_is_not() -> None:
    assert after(READY, *[Event.THROTTLED] * (EJECT_AFTER_THROTTLED - 1)).phase is Phase.READY
    assert after(READY, *[Event.THROTTLED] * EJECT_AFTER_THROTTLED).phase is Phase.EJECTED
    assert after(READY, *[Event.THROTTLED, Event.SUCCEEDED] * 30).phase is Phase.READY


def test_after_a_recovery_trust_grows_with_what_is_served() -> None:
    assert READY.limit == READY.max_concurrency
    back = step(after(READY, Event.REFUSED), Event.ANSWERED, 102.0)
    limits = [back.limit]
    for _ in range(8):
        back = step(back, Event.BEGAN, 103.0)
        limits.append(back.limit)
    assert limits == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert back.trust == 0


@pytest.mark.parametrize("event", [Event.FAILED, Event.THROTTLED, Event.REFUSED])
def test_on_trial_one_failure_is_enough_and_the_next_back_off_is_longer(event: Event) -> None:
    back = step(after(READY, Event.REFUSED), Event.ANSWERED, 102.0)
    again = step(back, event, 103.0)
    assert (again.phase, again.ejections) == (Phase.EJECTED, 2)
    assert again.readmit_at_s - again.since_s == 2 * READMIT_FIRST_S
    assert step(step(back, Event.BEGAN, 102.5), Event.FAILED, 103.0).phase is Phase.READY
