"""How long answers last: what is learned of it from the exact repeats that are asked anew."""

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_cache.constancy import Constancy

SEEDS = st.integers(0, 2**32)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 100_000), max_size=300), st.sampled_from([0.005, 0.01, 0.02]))
def test_answers_that_never_changed_last_for_ever(ages: list[int], bound: float) -> None:
    constancy = Constancy()
    assert sum(constancy.note(age, True, 0.0) for age in ages) == 0
    assert constancy.lasting(1e9, bound)
    assert math.isclose(constancy.share(bound), max(0.03, 3e-4 / bound))


@settings(max_examples=30)
@given(st.integers(0, 500))
def test_a_change_of_all_is_told_by_the_second_answer_that_differs(quiet: int) -> None:
    constancy = Constancy()
    for _ in range(quiet):
        constancy.note(1000, True, 0.0)
    assert not constancy.note(1000, False, 0.0)
    assert constancy.share(0.01) > 0.5  # the first makes it look closely
    assert constancy.note(1000, False, 0.0)
    assert constancy.changes == 1
    assert math.isclose(constancy.share(0.01), 0.03)


def test_one_answer_that_differs_is_soon_forgiven() -> None:
    constancy = Constancy()
    constancy.note(1000, False, 0.0)
    for _ in range(12):
        constancy.note(1000, True, 0.0)
    assert math.isclose(constancy.share(0.01), 0.03)
    assert constancy.changes == 0
    assert not constancy.lasting(1000, 0.01)  # but answers of that age have been seen to change
    assert constancy.lasting(10, 0.01)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.0001, 0.002))
def test_the_life_time_of_answers_that_change_one_by_one_is_learned(seed: int, rate: float) -> None:
    chance, constancy = random.Random(seed), Constancy()
    for _ in range(600):
        age = chance.randrange(1, 400)
        constancy.note(age, chance.random() >= rate * age, 0.0)
    allowed = max(age for age in range(3000) if constancy.lasting(age, 0.02))
    assert allowed < 8 * 0.02 / rate
    assert constancy.lasting(allowed // 2, 0.02)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([0.05, 0.2]))
def test_what_two_fresh_answers_differ_by_is_no_change(seed: int, noise: float) -> None:
    chance, blind, told = random.Random(seed), Constancy(), Constancy()
    for _ in range(600):
        same = chance.random() >= noise
        blind.note(1000, same, 0.0)
        told.note(1000, same, noise)
    ages = range(0, 3000, 10)
    assert not blind.lasting(1000, 0.01)
    assert sum(told.lasting(age, 0.01) for age in ages) > sum(blind.lasting(age, 0.01) for age in ages)
    assert told.changes <= blind.changes
