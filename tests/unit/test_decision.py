"""Where a query goes."""

from routing.decision import Candidate, Dispatch, Enqueue, Query, Reject, decide
from routing.policies import round_robin


def replicas(*running: int, limit: int = 2) -> list[Candidate]:
    return [Candidate(id=f"r{number}", running=one, limit=limit) for number, one in enumerate(running)]


def test_no_replica_is_a_rejection() -> None:
    assert decide(Query(model="m"), [], round_robin) == Reject("no ready replica serves 'm'")


def test_full_replicas_make_it_wait() -> None:
    assert decide(Query(model="m"), replicas(2, 3), round_robin) == Enqueue()


def test_only_replicas_with_room_are_offered_to_the_policy() -> None:
    for sequence in range(4):
        assert decide(Query(model="m", sequence=sequence), replicas(2, 1, 2), round_robin) == Dispatch("r1")


def test_a_replica_that_was_tried_is_left_out_unless_there_is_no_other() -> None:
    query = Query(model="m", exclude=frozenset({"r0"}))
    assert decide(query, replicas(0, 1), round_robin) == Dispatch("r1")
    assert decide(query, replicas(0, 2), round_robin) == Enqueue()
    assert decide(query, replicas(0), round_robin) == Dispatch("r0")
    assert decide(Query(model="m", exclude=frozenset({"r0", "r1"})), replicas(2, 0), round_robin) == Dispatch(
        "r1"
    )
