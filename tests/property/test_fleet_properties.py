"""Whatever crashes, the fleet is neither started twice nor hammered."""

from hypothesis import given
from hypothesis import strategies as st

from backends.fleet import BACKOFF_FIRST_S, Crashes, Desired, Launch, Observed, Stop, crashed, plan
from backends.replica import Phase

ids = st.sampled_from("abcd")
observed = st.builds(
    Observed,
    phase=st.sampled_from(list(Phase)),
    since_s=st.floats(0, 1000),
    launched=st.booleans(),
    ending=st.booleans(),
)


@given(st.lists(ids, unique=True), st.dictionaries(ids, observed), st.floats(0, 5000))
def test_what_runs_is_not_started_and_what_is_unwanted_is_ended(
    wanted: list[str], running: dict[str, Observed], now_s: float
) -> None:
    commands = plan([Desired(id=id_) for id_ in wanted], running, {}, now_s)
    launched = [command.id for command in commands if isinstance(command, Launch)]
    stopped = [command.id for command in commands if isinstance(command, Stop)]
    assert launched == [id_ for id_ in wanted if id_ not in running]
    assert len(set(stopped)) == len(stopped)
    assert {id_ for id_, seen in running.items() if id_ not in wanted and not seen.ending} <= set(stopped)
    assert not any(running[id_].ending for id_ in stopped)


@given(st.lists(st.tuples(st.floats(0, 300), st.booleans()), min_size=1, max_size=40))
def test_a_replica_that_always_crashes_is_started_ever_more_rarely(runs: list[tuple[float, bool]]) -> None:
    crashes, now_s = Crashes(), 0.0
    for lasted_s, was_ready in runs:
        started_s, now_s = now_s, now_s + lasted_s
        crashes = crashed(crashes, started_s=started_s, was_ready=was_ready, now_s=now_s)
        soon = now_s + BACKOFF_FIRST_S * 0.99
        assert plan([Desired(id="a")], {}, {"a": crashes}, soon) == []
        while not plan([Desired(id="a")], {}, {"a": crashes}, now_s):
            now_s += 1.0
        assert now_s <= crashes.last_s + 301.0
