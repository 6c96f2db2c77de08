"""How the head adds up what is known of kinds of work, what outcomes taught, and difficulty."""

import numpy as np
import pytest
from numpy.typing import NDArray

from routing.complexity import FALLS, RISES, Classifier, Head
from routing.features import NAMES
from routing.training.data import requests
from routing.training.head import _turns
from routing.training.learners import Growth, boost, mean

Floats = NDArray[np.float32]
LONG, OPTIONS = NAMES.index("chars"), NAMES.index("options")
PROVED, WRITTEN = (1.0, 0.0), (0.0, 1.0)  # the vectors of two kinds of work


def line(**slopes: float) -> Floats:
    row = np.zeros(len(NAMES) + 2, np.float32)
    for name, slope in slopes.items():
        row[NAMES.index(name)] = slope
    return row


def head(turn: float = 0.04, opens: bool = False, told: float | None = None) -> Head:
    """Two kinds: the first turns with difficulty, the second is open or not; outcomes taught digits.

    The line tells of the first that it turns so, too, or as ``told``.
    """
    turning = line()
    turning[len(NAMES) :] = turn if told is None else told, 0.04
    return Head(
        slopes=line(),
        learned=line(digits=1.0),
        hardness=np.stack([line(chars=1.0), line(chars=1.0)]),
        turning=turning,
        middles=np.zeros(5, np.float32),
        tree_features=np.zeros((1, 1), np.int32),
        tree_thresholds=np.full((1, 1), np.inf, np.float32),
        tree_leaves=np.zeros((1, 2), np.float32),
        centres=np.array([PROVED, WRITTEN], np.float32),
        values=np.array([1.0, 0.0], np.float32),
        turns=np.array([turn, 0.04], np.float32),
        opens=np.array([0.0, float(opens)], np.float32),
        sharpness=np.array(30.0, np.float32),
        knots=np.array([-100.0, 100.0]),
    )


def raw(of: Head, vector: tuple[float, float], **features: float) -> float:
    row = line(**features)
    row[len(NAMES) :] = vector
    return Classifier(of).raw(row)


def test_a_kind_has_its_gain() -> None:
    assert raw(head(), PROVED) == pytest.approx(1.0, abs=1e-3)
    assert raw(head(), WRITTEN) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    ("turn", "more"),
    [(-0.15, -0.15 - FALLS), (0.04, 0.0), (0.14, 0.14 - RISES)],
    ids=["falls", "rests", "rises"],
)
def test_the_gain_turns_with_difficulty_as_its_kind_does(turn: float, more: float) -> None:
    of = head(turn)
    assert raw(of, PROVED, chars=5.0) - raw(of, PROVED, chars=4.0) == pytest.approx(more, abs=1e-3)
    assert raw(of, WRITTEN, chars=5.0) == pytest.approx(raw(of, WRITTEN, chars=4.0), abs=1e-3)


def test_nearness_and_the_line_tell_half_each_how_the_gain_turns() -> None:
    for told, turn in ((0.04, -0.03), (-0.15, -0.125), (-9.0, -0.125)):
        of = head(-0.1, told=told)
        more = raw(of, PROVED, chars=5.0) - raw(of, PROVED, chars=4.0)
        assert more == pytest.approx(turn - FALLS, abs=1e-3)


def test_open_requests_hear_nothing_of_difficulty() -> None:
    of = head(turn=-0.15, opens=True, told=-0.15)
    half = (0.6, 0.8)  # near both kinds
    assert raw(of, half, chars=5.0) == pytest.approx(raw(of, half, chars=4.0), abs=1e-3)


def test_open_requests_hear_nothing_of_what_outcomes_taught() -> None:
    closed, opened = head(), head(opens=True)
    assert raw(closed, WRITTEN, digits=2.0) - raw(closed, WRITTEN) == pytest.approx(2.0, abs=1e-3)
    assert raw(opened, WRITTEN, digits=2.0) == pytest.approx(raw(opened, WRITTEN), abs=1e-3)
    assert raw(opened, PROVED, digits=2.0) - raw(opened, PROVED) == pytest.approx(2.0, abs=1e-3)


def test_a_question_with_options_is_never_open() -> None:
    opened = head(opens=True)
    asked = raw(opened, WRITTEN, options=1.6, digits=2.0) - raw(opened, WRITTEN, options=1.6)
    assert asked == pytest.approx(2.0, abs=1e-3)


def test_arrays_that_do_not_fit_are_refused() -> None:
    fields = {name: getattr(head(), name) for name in Head.__struct_fields__}
    for name, broken in {
        "turns": np.zeros(3),
        "opens": np.zeros(1),
        "learned": np.zeros(4),
        "turning": np.zeros(4),
    }.items():
        with pytest.raises(ValueError, match="fit together"):
            Classifier(Head(**fields | {name: broken.astype(np.float32)}))


def test_the_written_kinds_turn_both_ways() -> None:
    """Where even large models mostly fail the gain falls with difficulty, in school problems it rises."""
    kinds = requests()
    turns = {
        kinds.texts[int(np.flatnonzero(kinds.kind == k)[0])]: turn for k, turn in enumerate(_turns(kinds))
    }
    falls = next(turn for text, turn in turns.items() if text.startswith("Let $a, b, c$ be positive reals"))
    rises = next(turn for text, turn in turns.items() if text.startswith("A shop sells pens"))
    assert falls < FALLS < RISES < rises
    assert ((kinds.small >= 0) & (kinds.small + kinds.gain <= 1)).all()


def test_trees_find_a_step_and_more_questions_change_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((800, 9)).astype(np.float32)
    y = (x[:, 3] > 0.5) * 1.0 + rng.normal(0, 0.1, 800)
    units = np.arange(800).astype(str)
    grown = boost(x, y, np.ones(800), units, Growth(trees=60, leaf_rows=5.0, sample=0.7), seed=1)
    found = grown.predict(x)
    assert np.corrcoef(found, x[:, 3] > 0.5)[0, 1] > 0.95
    assert np.array_equal(grown.deepened(5).predict(x), found)
    assert grown.deepened(5).leaves.shape == (60, 32)


def test_the_mean_of_forests_says_what_they_say_in_the_mean() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.random((300, 9)).astype(np.float32), rng.normal(size=300)
    units = (np.arange(300) % 10).astype(str)
    grown = [boost(x, y, np.ones(300), units, Growth(9, 5.0, sample=0.7), seed) for seed in (1, 2)]
    assert np.allclose(mean(grown).predict(x), (grown[0].predict(x) + grown[1].predict(x)) / 2, atol=1e-5)


def test_a_tree_sees_a_unit_whole_or_not_at_all() -> None:
    """Nine of ten rows teach one column, the rest another; a tree that sees these alone asks the other."""
    rng = np.random.default_rng(0)
    x = rng.random((1000, 8)).astype(np.float32)
    units = np.where(np.arange(1000) < 900, "many", "few")
    y = np.where(units == "many", x[:, 3] > 0.5, x[:, 5] > 0.5) * 1.0
    growth = Growth(trees=1, leaf_rows=5.0, depth=1, sample=0.5)
    asked = {int(boost(x, y, np.ones(1000), units, growth, seed).features[0, 0]) for seed in range(20)}
    assert {3, 5} <= asked
