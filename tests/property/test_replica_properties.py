"""Whatever happens to a replica, these hold."""

from hypothesis import given
from hypothesis import strategies as st

from backends.replica import EJECT_AFTER, TRANSITIONS, Event, Phase, Replica, step

events = st.lists(st.tuples(st.sampled_from(list(Event)), st.floats(0, 40)), max_size=60)
phases = st.sampled_from(list(Phase))


@given(phases, events)
def test_only_the_table_changes_a_phase(phase: Phase, happenings: list[tuple[Event, float]]) -> None:
    replica, now_s = Replica(id="a", model="m", phase=phase), 0.0
    for event, passed_s in happenings:
        now_s += passed_s
        after = step(replica, event, now_s)
        if after.phase is not replica.phase:
            assert after.phase in TRANSITIONS[replica.phase].values()
            assert after.since_s == now_s
        replica = after


@given(phases, events)
def test_an_ejected_replica_returns_by_a_good_probe_after_its_back_off_only(
    phase: Phase, happenings: list[tuple[Event, float]]
) -> None:
    replica, now_s = Replica(id="a", model="m", phase=phase), 0.0
    for event, passed_s in happenings:
        now_s += passed_s
        after = step(replica, event, now_s)
        if replica.phase is Phase.EJECTED and after.phase is Phase.READY:
            assert event is Event.ANSWERED
            assert now_s >= replica.readmit_at_s
        replica = after


@given(events)
def test_a_ready_replica_has_fewer_failures_than_eject_it(happenings: list[tuple[Event, float]]) -> None:
    replica, now_s = Replica(id="a", model="m"), 0.0
    for event, passed_s in happenings:
        now_s += passed_s
        replica = step(replica, event, now_s)
        if replica.phase is Phase.READY:
            assert replica.consecutive_failures + replica.missed_probes < EJECT_AFTER


@given(events)
def test_any_history_can_be_healed(happenings: list[tuple[Event, float]]) -> None:
    replica, now_s = Replica(id="a", model="m"), 0.0
    for event, passed_s in happenings:
        now_s += passed_s
        replica = step(replica, event, now_s)
    for event in (Event.RESUME, Event.LAUNCHED, Event.ANSWERED):
        replica = step(replica, event, now_s + 1000.0)
    assert replica.phase is Phase.READY
