"""Every policy gives one of the candidates it was offered, whatever their loads."""

from hypothesis import given
from hypothesis import strategies as st

from routing.decision import Candidate, Dispatch, Enqueue, Query, Reject, decide
from routing.policies import POLICIES

draws = st.floats(0, 1, exclude_max=True)
some = st.lists(
    st.builds(
        Candidate, id=st.sampled_from("abcdefgh"), running=st.integers(0, 9), limit=st.integers(1, 9),
        running_tokens=st.integers(0, 10**6), weight=st.floats(0.01, 100),
    ),
    min_size=1, max_size=8, unique_by=lambda one: one.id,
)  # fmt: skip


@given(some, draws, st.integers(0, 10**9), st.sampled_from(sorted(POLICIES)))
def test_a_policy_gives_one_of_its_candidates(
    candidates: list[Candidate], draw: float, sequence: int, name: str
) -> None:
    query = Query(model="m", draw=draw, sequence=sequence)
    assert POLICIES[name](query, candidates) in candidates
    assert POLICIES[name](query, candidates) == POLICIES[name](query, tuple(candidates))


@given(
    some, draws, st.integers(0, 99), st.sampled_from(sorted(POLICIES)), st.sets(st.sampled_from("abcdefgh"))
)
def test_a_decision_never_overfills_and_waits_only_where_it_must(
    candidates: list[Candidate], draw: float, sequence: int, name: str, tried: set[str]
) -> None:
    query = Query(model="m", draw=draw, sequence=sequence, exclude=frozenset(tried))
    fresh = [one for one in candidates if one.id not in tried] or candidates
    free = {one.id for one in fresh if one.running < one.limit}
    match decide(query, candidates, POLICIES[name]):
        case Dispatch(chosen):
            assert chosen in free
        case Enqueue():
            assert not free
        case Reject():
            raise AssertionError("there were candidates")
