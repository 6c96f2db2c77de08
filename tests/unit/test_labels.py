"""What labels teach: a rising curve, regret, drift, a challenger that must win where it was not fitted."""

from itertools import pairwise

import numpy as np
import pytest

from routing.feedback import Feedback
from routing.labels import (
    Label,
    apgr,
    calibrated,
    drift,
    isotonic,
    outcomes,
    regret,
    tried,
)
from routing.training import measure
from routing.training.data import Queries


def label(score: float, small: float | None, large: float | None, **fields: object) -> Label:
    told = {"ts": 0.0, "route": "r", "tenant": "t", "source": "shadow", "large_served": False, **fields}
    return Label(score=score, small=small, large=large, **told)  # type: ignore[arg-type]  # told as a mapping


def world(rule: int, count: int = 300) -> list[Label]:
    """Labels whose gain follows a column, and the score where ``rule`` is 0."""
    draw = np.random.default_rng(rule)
    columns = draw.normal(size=(count, 12)).astype(np.float32)
    scores = draw.uniform(size=count)
    signal = scores if rule == 0 else (columns[:, 3] > 0).astype(float)
    small = (draw.uniform(size=count) > signal).astype(float)
    return [
        label(float(s), float(a), 1.0, columns=row.astype(np.float16).tobytes())
        for s, a, row in zip(scores, small, columns, strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_rises_keeps_the_mean_and_leaves_what_rises(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=50)
    found = isotonic(values)
    assert (np.diff(found) >= -1e-12).all()
    assert found.mean() == pytest.approx(values.mean())
    assert isotonic(np.sort(values)) == pytest.approx(np.sort(values))


def test_an_outcome_that_is_not_known_is_the_mean_of_those_that_are() -> None:
    small, large = outcomes([label(0.1, 0.2, None), label(0.2, None, 0.9), label(0.3, 0.4, None)])
    assert small.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert large.tolist() == pytest.approx([0.9] * 3)
    assert outcomes([label(0.1, None, None)])[0].tolist() == [0.5]


def test_a_curve_needs_labels_with_both_outcomes_and_ends_at_the_large_model() -> None:
    assert calibrated([label(0.5, 0.5, None)] * 200) is None
    assert calibrated(world(0, 49)) is None
    curve = calibrated(world(0))
    assert curve is not None
    assert len(curve) == 101
    assert all(after >= before for before, after in pairwise(curve))
    assert curve[-1] == pytest.approx(1.0, abs=1e-6)
    assert curve[50] > (curve[0] + curve[-1]) / 2 + 0.02  # better than a random half


def test_regret_is_what_the_better_tier_would_have_added() -> None:
    assert regret([label(0.5, 0.5, None)]) is None
    found = regret([label(0.1, 0.0, 1.0), label(0.1, 1.0, 1.0), label(0.1, 1.0, 0.5, large_served=True)])
    assert found == pytest.approx((1.0 + 0.0 + 0.5) / 3)


def test_drift_is_none_of_the_same_and_nearly_all_of_another() -> None:
    prior = np.linspace(0, 1, 65).tolist()
    assert drift([], prior) == 0.0
    assert drift(np.random.default_rng(0).uniform(size=2000).tolist(), prior) < 0.05
    assert drift([0.99] * 100, prior) > 0.9


def test_a_challenger_wins_only_where_the_labels_say_more_than_the_shipped_order() -> None:
    trial, challenger = tried(world(1))
    assert challenger is not None
    assert trial.better
    assert trial.challenger > trial.shipped + 0.1
    trial, challenger = tried(world(0))
    assert challenger is None
    assert not trial.better


@pytest.mark.parametrize("count", [25, 60, 250])
def test_labels_that_tell_nothing_leave_the_shipped_order(count: int) -> None:
    """Without a belief in it beforehand noise turns it round in half of the draws."""
    alike = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        columns = draw.normal(size=(count + 200, 90)).astype(np.float32)
        scores, gain = draw.uniform(size=count + 200), draw.choice([-1.0, 0.0, 1.0], size=count)
        found = Feedback(columns[:count], scores[:count], gain).score(columns[count:], scores[count:])
        alike.append(float(np.corrcoef(found, scores[count:])[0, 1]))
    assert np.median(alike) > 0.7
    assert sum(one < 0.0 for one in alike) <= 3


def test_what_labels_add_is_measured_on_the_rows_without_one() -> None:
    """One part's gain follows a column that the score knows nothing of, the other's nothing at all."""
    draw, count = np.random.default_rng(6), 800
    columns, scores = draw.normal(size=(count, 12)).astype(np.float32), draw.uniform(size=count)
    follows = np.arange(count) < 400
    large = np.where(follows, columns[:, 3] > 0, draw.uniform(size=count) < 0.5).astype(float)
    names = np.where(follows, "follows", "random")
    queries = Queries(
        ids=[], prompts=[], datasets=names, units=names, small=np.zeros(count), large=large, target=large,
        difficulty=large, pairs=np.stack([large, large], axis=1), validation=follows,
    )  # fmt: skip
    parts = {name: names == name for name in ("follows", "random")}
    found = measure.with_labels(dict.fromkeys(parts, scores), parts, columns, queries)
    assert (found["follows"].labels, found["follows"].better) == (200, 12)
    assert found["follows"].taught > 0.7 > 0.55 > found["follows"].shipped
    assert found["random"].taught == pytest.approx(0.5, abs=0.05)
    assert found["macro"].taught == pytest.approx((found["follows"].taught + found["random"].taught) / 2)


def test_the_area_is_that_of_the_training_code() -> None:
    draw = np.random.default_rng(4)
    scores, gain = draw.uniform(size=200), draw.uniform(size=200)
    assert apgr(scores, gain) == pytest.approx(measure.apgr(scores, gain))
    assert apgr(scores, np.zeros(200)) == 0.5
