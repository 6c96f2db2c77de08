"""How one replica is picked."""

from collections import Counter

import pytest

from routing.decision import Candidate, Policy, Query
from routing.policies import POLICIES, least_requests, least_tokens, power_of_two, round_robin


def replica(name: str, running: int = 0, tokens: int = 0, weight: float = 1.0) -> Candidate:
    return Candidate(id=name, running=running, limit=99, running_tokens=tokens, weight=weight)


@pytest.mark.parametrize("policy", [round_robin, least_requests, least_tokens])
def test_equals_take_turns(policy: Policy) -> None:
    some = [replica(name) for name in "abc"]
    counts = Counter(policy(Query(model="m", sequence=number), some).id for number in range(300))
    assert counts == {"a": 100, "b": 100, "c": 100}


def test_the_least_loaded_for_its_weight_is_taken() -> None:
    some = [replica("a", 4, 100), replica("b", 6, 90, weight=2.0), replica("c", 5, 80)]
    for sequence in range(3):
        assert least_requests(Query(model="m", sequence=sequence), some).id == "b"
        assert least_tokens(Query(model="m", sequence=sequence), some).id == "b"
    assert least_tokens(Query(model="m"), [some[0], some[2]]).id == "c"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_two_are_drawn_uniformly_and_never_the_same(count: int) -> None:
    """With loads that fall, the winner names the higher of the pair: count each over evenly spaced draws."""
    some = [replica(str(number), running=count - number) for number in range(count)]
    pairs = count * (count - 1)
    draws = [(number + 0.5) / (pairs * 10) for number in range(pairs * 10)]
    wins = Counter(int(power_of_two(Query(model="m", draw=draw), some).id) for draw in draws)
    assert wins == {number: 20 * number for number in range(1, count)}


def test_the_default_policy_is_listed() -> None:
    assert set(POLICIES) == {"adaptive", "round_robin", "least_requests", "least_tokens", "power_of_two"}
