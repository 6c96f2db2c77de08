"""How one replica is picked."""

from collections import Counter
from typing import Any

import pytest

from routing.decision import Candidate, Policy, Query
from routing.policies import (
    OVERLOAD,
    POLICIES,
    adaptive,
    least_requests,
    least_tokens,
    peak_ewma,
    power_of_two,
    prefix_affine,
    round_robin,
    similar_length,
    weighted,
)
from routing.prefixes import marks

INF = float("inf")


def replica(name: str, running: int = 0, tokens: int = 0, **known: Any) -> Candidate:
    return Candidate(id=name, running=running, limit=99, running_tokens=tokens, **known)


def picked(policy: Policy, candidates: list[Candidate], **query: Any) -> str:
    """Give whom the policy picks whoever's turn it is."""
    ids = {policy(Query(model="m", sequence=turn, **query), candidates).id for turn in range(12)}
    assert len(ids) == 1
    return ids.pop()


@pytest.mark.parametrize(
    "policy", [round_robin, least_requests, least_tokens, peak_ewma, prefix_affine, similar_length, adaptive]
)
def test_equals_take_turns(policy: Policy) -> None:
    some = [replica(name) for name in "abc"]
    counts = Counter(policy(Query(model="m", sequence=number), some).id for number in range(300))
    assert counts == {"a": 100, "b": 100, "c": 100}


def test_the_least_loaded_for_its_weight_is_taken() -> None:
    some = [replica("a", 4, 100), replica("b", 6, 90, weight=2.0), replica("c", 5, 80)]
    assert picked(least_requests, some) == "b"
    assert picked(least_tokens, some) == "b"
    assert picked(least_tokens, [some[0], some[2]]) == "c"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_two_are_drawn_uniformly_and_never_the_same(count: int) -> None:
    """With loads that fall, the winner names the higher of the pair: count each over evenly spaced draws."""
    some = [replica(str(number), running=count - number) for number in range(count)]
    pairs = count * (count - 1)
    draws = [(number + 0.5) / (pairs * 10) for number in range(pairs * 10)]
    wins = Counter(int(power_of_two(Query(model="m", draw=draw), some).id) for draw in draws)
    assert wins == {number: 20 * number for number in range(1, count)}


def test_latency_counts_with_the_load() -> None:
    some = [replica("fast", 3, latency_s=0.1), replica("slow", 1, latency_s=0.3)]
    assert picked(peak_ewma, some) == "fast"
    assert picked(peak_ewma, [*some, replica("new", 5)]) == "new"
    busy = replica("fast", 6, latency_s=0.1)
    assert picked(peak_ewma, [busy, some[1]]) == "slow"


def test_a_warm_prompt_goes_where_it_is_warm_within_the_bound() -> None:
    some = [replica("a", 2, cached_tokens=300), replica("b", 1, cached_tokens=100), replica("c", 1)]
    assert picked(prefix_affine, some) == "a"
    over = [replica("a", 9, cached_tokens=300), *some[1:]]
    assert picked(prefix_affine, over) == "b"


def test_a_cold_prompt_has_a_home_that_only_its_own_loss_moves() -> None:
    names = "abcde"
    prompts = [marks(b"%04d" % number * 100, b"t") for number in range(400)]

    def homes(left: str) -> list[str]:
        some = [replica(name) for name in left]
        return [picked(prefix_affine, some, prefix=prompt) for prompt in prompts]

    before, after = homes(names), homes("abce")
    assert min(Counter(before).values()) > 400 / 5 / 2
    assert all(now == then for then, now in zip(before, after, strict=True) if then != "d")
    assert homes("ecba") == after


def test_the_home_heeds_the_weight() -> None:
    some = [replica("a", weight=3.0), replica("b")]
    prompts = [marks(b"%04d" % number * 100, b"t") for number in range(400)]
    counts = Counter(picked(prefix_affine, some, prefix=prompt) for prompt in prompts)
    assert 250 < counts["a"] < 350


def test_affinity_never_loads_a_replica_far_beyond_its_share() -> None:
    running = dict.fromkeys("abcd", 0)
    prompt = marks(b"same" * 1000, b"t")
    for number in range(400):
        warm = 1000 if number else 0
        some = [replica(name, count, cached_tokens=warm * (count > 0)) for name, count in running.items()]
        running[prefix_affine(Query(model="m", prefix=prompt, sequence=number), some).id] += 1
    assert max(running.values()) <= OVERLOAD * 400 / 4 + 1


def test_like_lengths_go_together() -> None:
    some = [replica("short", 10, 1000), replica("long", 10, 40_000), replica("idle", 9)]
    assert picked(similar_length, some[:2], prompt_tokens=150) == "short"
    assert picked(similar_length, some[:2], prompt_tokens=3000) == "long"
    crowded = [replica("short", 30, 3000), some[1]]
    assert picked(similar_length, crowded, prompt_tokens=150) == "long"


def test_adaptive_weighs_work_ahead_warmth_pace_and_kv_room() -> None:
    def choice(left: Candidate, right: Candidate, tokens: int = 400) -> str:
        return picked(adaptive, [left, right], prompt_tokens=tokens)

    assert choice(replica("a", 1, ahead_tokens=900), replica("b", 5)) == "b"
    assert choice(replica("a", 3, cached_tokens=390, ahead_tokens=300), replica("b", 3)) == "a"
    assert choice(replica("a", 3, cached_tokens=390, ahead_tokens=500), replica("b", 3)) == "b"
    assert choice(replica("a", 3, pace_s=0.01), replica("b", 3, pace_s=0.002)) == "b"
    assert choice(replica("a", 3, kv_usage=0.99), replica("b", 3, kv_usage=0.5)) == "b"
    assert choice(replica("a", outside=20), replica("b", outside=2)) == "b"
    assert choice(replica("a", 3, ahead_tokens=900, weight=4.0), replica("b", 3, ahead_tokens=500)) == "a"


def test_a_pace_that_was_slow_long_ago_is_forgotten() -> None:
    old = replica("a", pace_s=0.05, pace_age_s=200.0)
    assert picked(adaptive, [old, replica("b", 1, pace_s=0.002)], prompt_tokens=400) == "a"


def test_versions_get_their_shares_whatever_their_load() -> None:
    some = [
        replica("old-1", 9, weight=45.0, version="1"),
        replica("old-2", 1, weight=45.0, version="1"),
        replica("new", 50, weight=10.0, version="2"),
    ]
    draws = [(number + 0.5) / 1000 for number in range(1000)]
    counts = Counter(weighted(Query(model="m", draw=draw), some).id for draw in draws)
    assert counts == {"old-2": 900, "new": 100}


def test_a_version_that_is_wanted_is_taken_while_there_is_one() -> None:
    some = [replica("old", weight=99.0, version="1"), replica("new", 50, weight=1.0, version="2")]
    assert picked(weighted, some, version="2") == "new"
    assert picked(weighted, some[:1], version="2") == "old"


def test_the_policies_are_listed() -> None:
    assert set(POLICIES) == {
        "adaptive", "round_robin", "least_requests", "least_tokens", "power_of_two", "peak_ewma",
        "prefix_affine", "similar_length", "weighted",
    }  # fmt: skip
