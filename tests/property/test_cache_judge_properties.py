"""The verdict is what its definitions say, however few steps it is computed in."""

import math
from collections import Counter

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from semantic_cache.judge import Judge
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds
from semantic_cache.metric import Metric
from semantic_cache.near import Near, Vectors
from semantic_cache.prior import PRIOR
from semantic_cache.reading import Reading, listed
from semantic_cache.stores.base import Alias
from semantic_cache.verdict import Verdict
from semantic_cache.verify import Evidence, Nearness, compare, rarities_of

SIZE = 6
WORDS = sorted(listed("how do i open close the a new old account card 7 9 not in Rome Oslo today"))
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
KEPT = st.lists(st.tuples(TEXTS, st.integers(0, 12)), min_size=2, max_size=40)


def unit(row: int, spread: float) -> Vectors:
    vector = np.random.default_rng(row).normal(size=SIZE).astype(np.float32) * np.float32(spread)
    vector[0] += 1
    return vector / np.linalg.norm(vector)


class Taught:
    """A judge of so many texts, and all it was told."""

    def __init__(self, kept: list[tuple[str, int]], apart: bool, spread: float) -> None:
        self.judge = Judge(Bounds(error=0.01), Learner(PRIOR), SIZE)
        self.metric = Metric(SIZE)
        self.vectors = np.array([unit(row, spread) for row in range(len(kept))])
        self.answers = [str(row) if apart else str(answer) for row, (_, answer) in enumerate(kept)]
        self.texts = [text for text, _ in kept]
        sums: dict[str, list[Vectors]] = {}
        for row, answer in enumerate(self.answers):
            others = sums.setdefault(answer, [])
            if others:
                self.metric.learn(self.vectors[row], np.mean(others, axis=0), len(others))
            others.append(self.vectors[row])
            self.judge.adopt(answer, self.vectors[row], str(row), Reading.of(self.texts[row]))
        self.centres = {answer: np.sum(rows, axis=0) for answer, rows in sums.items()}

    def near(self, vector: Vectors) -> Near[Alias]:
        cosines = self.vectors @ vector
        order = np.argsort(-cosines, kind="stable")
        return Near(list(map(self.alias, order.tolist())), self.vectors[order], cosines[order])

    def alias(self, row: int) -> Alias:
        return Alias(
            id=str(row), answer=self.answers[row], text=self.texts[row], vector=self.vectors[row], owner="",
            worth=0.0, stored_s=0.0, expires_s=1.0,
        )  # fmt: skip

    def turned(self, vector: Vectors, other: Vectors) -> float:
        """Give the cosine of two vectors in the learned metric."""
        if self.metric.projection is not None:
            vector, other = vector @ self.metric.projection, other @ self.metric.projection
        return float(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other))


def ahead(values: dict[str, float], answer: str) -> float:
    mine, others = values[answer], [value for name, value in values.items() if name != answer]
    return max(-0.4, min(0.4, mine - max(others, default=mine - 0.3)))


def by_the_book(taught: Taught, text: str, vector: Vectors) -> dict[str, Evidence]:
    """Give the evidence on each answer, straight from the definitions."""
    near, reading, counts = taught.near(vector), Reading.of(text), Counter(Reading.of(text).ordered)
    plain: dict[str, float] = {}
    closest: dict[str, float] = {}
    votes: dict[str, float] = {}
    nearest: dict[str, Alias] = {}
    for row, one in enumerate(near):
        learned = taught.turned(vector, near.vectors[row])
        plain[one.answer] = max(plain.get(one.answer, -1.0), float(near.cosines[row]))
        closest[one.answer] = max(closest.get(one.answer, -1.0), learned)
        votes[one.answer] = votes.get(one.answer, 0.0) + math.exp((learned - 1) * 15)
        nearest.setdefault(one.answer, one)
    central = {answer: taught.turned(vector, taught.centres[answer]) for answer in plain}
    found = {}
    for answer, one in nearest.items():
        rival = max([value for name, value in votes.items() if name != answer], default=votes[answer] * 1e-3)
        nearness = Nearness(
            cosine=plain[answer],
            margin=ahead(plain, answer),
            share=votes[answer] / sum(votes.values()),
            odds=math.log(votes[answer] / rival),
            learned=closest[answer],
            learned_margin=ahead(closest, answer),
            centre=central[answer],
            centre_margin=ahead(central, answer),
            rivals=len(plain),
            texts=taught.answers.count(answer),
            agreed=0.5,
            judged=0,
        )
        found[answer] = compare(reading, Reading.of(one.text), nearness, rarities_of(counts, 1))
    return found


def asked(taught: Taught, text: str, vector: Vectors) -> Verdict:
    taught.judge.ledger.threshold = -1e9  # all is weighed
    return taught.judge.consider(Reading.of(text), vector, taught.near(vector), 0.5, False)


@settings(max_examples=150, deadline=None)
@given(KEPT, st.booleans(), TEXTS, st.integers(1000, 2000), st.floats(0.2, 0.6))
def test_what_is_weighed_is_what_the_definitions_say(
    kept: list[tuple[str, int]], apart: bool, text: str, number: int, spread: float
) -> None:
    taught, vector = Taught(kept, apart, spread), unit(number, spread)
    assume(taught.near(vector).cosines[0] >= 0.4)
    verdict, book = asked(taught, text, vector), by_the_book(taught, text, vector)
    assert 1 <= len(verdict.examined) <= 4
    for answer, evidence in verdict.examined:
        assert np.allclose(evidence.dense, book[answer].dense, atol=2e-4)
        assert evidence.buckets == book[answer].buckets
        assert evidence.weights == book[answer].weights
    scores = [float(PRIOR @ np.array(evidence.dense)) for _, evidence in verdict.examined]
    assert math.isclose(verdict.score, max(scores), rel_tol=1e-9, abs_tol=1e-9)
    assert verdict.answer == verdict.examined[0][0]
    # the nearest text's answer, and those of most votes that are near at all
    shares = {answer: book[answer].dense[5] for answer in book if book[answer].dense[1] >= 0.4 * 4 - 3 + 1e-5}
    assert taught.near(vector)[0].answer in dict(verdict.examined)
    assert max(shares, key=shares.__getitem__) in dict(verdict.examined)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=4), max_size=20),
    st.integers(0, 1000),
)
def test_a_score_is_the_sum_of_what_was_learned_of_each_piece(
    lessons: list[list[tuple[int, bool]]], number: int
) -> None:
    learner = Learner(PRIOR)
    learner.logits([piece(1)])
    for lesson in lessons:
        learner.learn([(piece(seed), right) for seed, right in lesson], 1.0)
    state, one = learner.state(), piece(number)
    dense, hashed = np.frombuffer(state["_dense"]), np.frombuffer(state["_hashed"])
    expected = float(dense @ np.array(one.dense) + hashed[one.buckets] @ np.array(one.weights))
    resumed = Learner(PRIOR)
    resumed.logits([one])
    resumed.resume(state)
    for learned in (learner, resumed):
        assert math.isclose(learned.logits([one, piece(0)])[0], expected, rel_tol=1e-9, abs_tol=1e-9)


def piece(seed: int) -> Evidence:
    chance = np.random.default_rng(seed)
    buckets = chance.integers(0, 1 << 14, chance.integers(0, 9)).tolist()
    return Evidence(chance.normal(size=len(PRIOR)).tolist(), buckets, chance.random(len(buckets)).tolist())


def test_what_is_hardly_alike_is_not_weighed_and_counts_as_a_query() -> None:
    taught = Taught([("open the account", 1), ("close the card", 2)], False, 0.0)
    vector = np.zeros(SIZE, np.float32)
    vector[:2] = 0.39, math.sqrt(1 - 0.39**2)
    verdict = asked(taught, "open the account", vector)
    assert (verdict.told, verdict.examined) == ("nothing_near", ())
    assert taught.judge.ledger.total == 1
    vector[:2] = 0.41, math.sqrt(1 - 0.41**2)
    assert asked(taught, "open the account", vector).told == "served"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(KEPT, TEXTS, st.integers(1000, 2000), st.floats(-4.0, 4.0))
def test_where_the_leaders_are_far_from_serving_the_others_are_not_weighed_on_the_way(
    kept: list[tuple[str, int]], text: str, number: int, above: float
) -> None:
    whole, taught, vector = Taught(kept, False, 0.4), Taught(kept, False, 0.4), unit(number, 0.4)
    near = taught.near(vector)
    assume(0.4 <= near.cosines[0] < 0.75)
    book, judged = by_the_book(taught, text, vector), asked(whole, text, vector)
    most = max(book, key=lambda answer: book[answer].dense[5])  # of the votes
    scores = {answer: float(PRIOR @ np.array(book[answer].dense)) for answer in (near[0].answer, most)}
    assume(abs(above) > 1e-3)
    taught.judge.ledger.threshold = max(scores.values()) + 2.0 + above
    verdict = taught.judge.consider(Reading.of(text), vector, near, 0.5, False)
    if above > 0:
        assert (verdict.told, verdict.examined) == ("refused", ())
    else:
        assert dict(verdict.examined).keys() == dict(judged.examined).keys()


@settings(max_examples=30, deadline=None)
@given(KEPT, st.lists(st.tuples(TEXTS, st.integers(1000, 2000), st.integers(0, 12)), max_size=90))
def test_what_is_weighed_later_is_learned_as_if_it_had_been_on_its_way(
    kept: list[tuple[str, int]], queries: list[tuple[str, int, int]]
) -> None:
    closed, open_ = Taught(kept, False, 0.3), Taught(kept, False, 0.3)
    for text, number, answer in queries:
        vector, reading = unit(number, 0.3), Reading.of(text)
        open_.judge.ledger.threshold = 5.0
        on_the_way = open_.judge.consider(reading, vector, open_.near(vector), 0.5, False)
        assume(on_the_way.examined and not on_the_way.serve)
        closed.judge.ledger.threshold = math.inf
        assert closed.judge.consider(reading, vector, closed.near(vector), 0.5, False).told == "refused"
        open_.judge.ledger.threshold = math.inf
        open_.judge.learn(on_the_way, str(answer))
        closed.judge.learn_later(reading, vector, closed.near(vector), str(answer))
    open_.judge.ledger.threshold = closed.judge.ledger.threshold = math.inf
    assert open_.judge.state() == closed.judge.state()


def test_one_that_is_learned_stands_for_those_before_it_that_were_not() -> None:
    taught = Taught([("open the account", 1), ("close the card", 2)], False, 0.3)
    text, near = Reading.of("open the account"), taught.near(taught.vectors[0])
    for _ in range(5):
        assert taught.judge.consider(text, taught.vectors[0], near, 0.5, False).told == "refused"
    taught.judge.learn_later(text, taught.vectors[0], near, "1")
    seen = np.frombuffer(taught.judge.ledger.state()["_long"]).reshape(3, -1)
    assert seen[0].sum() == 5
    assert taught.judge.ledger.total == 5
