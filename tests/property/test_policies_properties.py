"""Every policy gives one of the candidates it was offered, whatever their loads."""

from hypothesis import given
from hypothesis import strategies as st

from routing.decision import Candidate, Dispatch, Enqueue, Query, Reject, decide
from routing.policies import POLICIES

draws = st.floats(0, 1, exclude_max=True)
seconds = st.floats(0, 1000)
tokens = st.integers(0, 10**6)
some = st.lists(
    st.builds(
        Candidate, id=st.sampled_from("abcdefgh"), running=st.integers(0, 9), limit=st.integers(1, 9),
        running_tokens=tokens, ahead_tokens=tokens, cached_tokens=tokens, outside=st.integers(0, 99),
        kv_usage=st.floats(0, 1), latency_s=seconds, pace_s=seconds, pace_age_s=seconds,
        weight=st.floats(0.01, 100), version=st.sampled_from(["", "1", "2"]),
    ),
    min_size=1, max_size=8, unique_by=lambda one: one.id,
)  # fmt: skip
queries = st.builds(
    Query,
    model=st.just("m"),
    prompt_tokens=tokens,
    prefix=st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple),
    draw=draws,
    sequence=st.integers(0, 10**9),
    exclude=st.frozensets(st.sampled_from("abcdefgh")),
)


@given(some, queries, st.sampled_from(sorted(POLICIES)))
def test_a_policy_gives_one_of_its_candidates(candidates: list[Candidate], query: Query, name: str) -> None:
    pick = POLICIES[name].pick
    assert pick(query, candidates) in candidates
    assert pick(query, candidates) == pick(query, tuple(candidates))


@given(some, queries, st.sampled_from(sorted(POLICIES)))
def test_a_decision_never_overfills_and_waits_only_where_it_must(
    candidates: list[Candidate], query: Query, name: str
) -> None:
    fresh = [one for one in candidates if one.id not in query.exclude] or candidates
    free = {one.id for one in fresh if one.running < one.limit}
    match decide(query, candidates, POLICIES[name].pick):
        case Dispatch(chosen):
            assert chosen in free
        case Enqueue():
            assert not free
        case Reject():
            raise AssertionError("there were candidates")
