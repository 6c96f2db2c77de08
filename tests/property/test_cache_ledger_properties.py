"""The ledger of the semantic cache: whatever it is told, it opens only as far as its bounds allow."""

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_cache.ledger import Bounds, Ledger


def run(bounds: Bounds, wrong_at: float, seed: int, queries: int) -> tuple[Ledger, int, int]:
    """Play queries whose share of wrong ones falls with the score; gives the ledger, hits and wrong hits."""
    chance = random.Random(seed)
    ledger, hits, wrong = Ledger(bounds), 0, 0
    for _ in range(queries):
        score = chance.gauss(1.0, 2.5)
        right = chance.random() >= wrong_at / (1 + math.exp(score))
        serve = score >= ledger.threshold
        ledger.enter(score, serve)
        hits += serve
        wrong += serve and not right
        if not serve or chance.random() < 0.1:
            ledger.judge(score, right, serve)
    return ledger, hits, wrong


@settings(max_examples=12)
@given(st.sampled_from([0.005, 0.01, 0.02]), st.floats(0.2, 2.0), st.integers(0, 2**32))
def test_what_is_wrong_stays_within_the_error_bound(error: float, wrong_at: float, seed: int) -> None:
    ledger, _, wrong = run(Bounds(error=error), min(wrong_at, 2.0), seed, 3000)
    assert wrong <= 1.5 * error * 3000 + 3
    assert ledger.total == 3000


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_an_honest_score_opens_it(seed: int) -> None:
    _, hits, _ = run(Bounds(error=0.02), 1.0, seed, 3000)
    assert hits > 300


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_a_bound_on_precision_only_narrows(seed: int) -> None:
    _, hits, _ = run(Bounds(error=0.02), 1.0, seed, 1500)
    _, fewer, wrong = run(Bounds(error=0.02, precision=0.02), 1.0, seed, 1500)
    assert fewer <= hits + 30
    assert wrong <= 0.06 * max(fewer, 50)


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_it_closes_when_every_hit_turns_out_wrong(seed: int) -> None:
    ledger, _, _ = run(Bounds(error=0.02), 1.0, seed, 1500)
    before = ledger.threshold
    for _ in range(60):
        ledger.enter(6.0, True)
        ledger.judge(6.0, False, True)
    assert before < math.inf
    assert ledger.threshold > before
    assert ledger.alarms > 0
    assert ledger.wrong_estimate() >= 60


def test_without_evidence_it_is_closed() -> None:
    ledger = Ledger(Bounds(error=0.01))
    assert ledger.threshold == math.inf
    for _ in range(40):
        ledger.enter(9.0, False)
        ledger.judge(9.0, True, False)
    assert ledger.threshold == math.inf


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_hits_before_a_change_was_noticed_are_booked_as_it_turned_out(seed: int) -> None:
    ledger, _, _ = run(Bounds(error=0.02), 1.0, seed, 1500)
    noticed, before, hits = ledger.alarms, ledger.wrong_estimate(), 0
    while ledger.alarms == noticed:  # all are wrong from here on, and one in five is audited
        ledger.enter(6.0, True)
        hits += 1
        if hits % 5 == 0:
            ledger.judge(6.0, False, True)
    assert 10 <= hits <= 100
    assert ledger.wrong_estimate() - before >= 0.7 * hits


@settings(max_examples=12)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_turns_that_follow_tighten_the_bound_on_lone_questions(seed: int, following: int) -> None:
    alone, among = (run(Bounds(error=0.01), 1.0, seed, 1500)[0] for _ in range(2))
    opened = among.threshold
    for _ in range(1600):
        among.pass_aside()
    assert among.total == alone.total  # they are none of the queries
    for ledger in (alone, among):
        for n in range(16 * following):
            ledger.pass_empty()
            if ledger is among and n % 2:
                among.pass_aside()
    assert among.threshold >= alone.threshold
    assert opened <= among.threshold
