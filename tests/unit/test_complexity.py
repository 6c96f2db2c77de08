"""The shipped classifier on the validation rows, the text it reads, the choice, the share on target."""

import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from routing.complexity import (
    ShareController,
    bare,
    calibrate,
    choose,
    query_text,
    share_for_quality,
    tier_shares,
)
from routing.embedding import WEIGHTS, StaticEmbedder, load_classifier, load_facts
from routing.features import MAX_CHARS, NAMES, clip
from routing.training.data import Queries, read
from routing.training.measure import apgr, measure

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "routing"
Doubles = NDArray[np.float64]


@cache
def outcomes() -> Queries:
    """All validation rows and every third training row."""
    queries = read(DATA)
    keep = np.flatnonzero(queries.validation | (np.arange(len(queries.ids)) % 3 == 0))
    return Queries(
        ids=[queries.ids[row] for row in keep],
        prompts=[queries.prompts[row] for row in keep],
        datasets=queries.datasets[keep],
        units=queries.units[keep],
        target=queries.target[keep],
        difficulty=queries.difficulty[keep],
        small=queries.small[keep],
        large=queries.large[keep],
        pairs=queries.pairs[keep],
        validation=queries.validation[keep],
    )


@cache
def scores() -> Doubles:
    embedder, classifier = StaticEmbedder.load(), load_classifier()
    texts = [query_text([{"role": "user", "content": prompt}]) for prompt in outcomes().prompts]
    return np.array([classifier.score(embedder.columns(text)) for text in texts])


def assert_better_than_length(values: Doubles) -> None:
    """Hold APGRs on the validation rows against floors that prompt length (.597, .569, .690) stays under."""
    queries = outcomes()
    for group, floor in {"": 0.64, "mmlu": 0.6, "ulab": 0.7}.items():
        rows = queries.validation & ((queries.groups == group) | (group == ""))
        assert apgr(values[rows], queries.gain[rows]) > floor, group


def test_shipped_weights_beat_prompt_length() -> None:
    assert_better_than_length(scores())


def test_prompt_length_in_the_models_place_is_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_better_than_length(np.array([float(len(prompt)) for prompt in outcomes().prompts]))


def test_open_requests_that_no_weight_was_fitted_on_stay_over_the_floor() -> None:
    """All of AlpacaEval's rows that are here: scored, never learned from."""
    embedder, classifier, queries = StaticEmbedder.load(), load_classifier(), read(DATA)
    rows = np.flatnonzero(queries.datasets == "alpaca_eval")
    assert len(rows) > 400
    found = np.array([classifier.score(embedder.columns(query_text(queries.prompts[row]))) for row in rows])
    assert apgr(found, queries.gain[rows]) > 0.45


def test_apgr_of_a_constant_is_a_half_and_of_the_gain_itself_the_most() -> None:
    gain = np.array([0.0, 1.0, 0.0, 1.0, -1.0, 1.0])
    assert apgr(np.zeros(6), gain) == pytest.approx(0.5)
    assert apgr(gain, gain) > apgr(np.arange(6.0), gain)


def test_a_measured_row_reads_its_curve() -> None:
    found, _ = measure(np.array([4.0, 3.0, 2.0, 1.0]), np.zeros(4), np.array([1.0, 0.0, 0.0, 1.0]))
    assert (found.cpt50, found.cpt80, found.cpt95) == (0.25, 1.0, 1.0)
    assert (found.pgr25, found.pgr50, found.apgr, found.oracle) == (0.5, 0.5, 0.5, 0.75)
    assert found.low <= found.apgr <= found.high


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("order", ["dataset", "score", "mixed"])
def test_share_stays_on_target_over_any_2000_queries(share: float, order: str) -> None:
    rng = np.random.default_rng(7)
    places = {
        "dataset": np.argsort(outcomes().datasets, kind="stable"),
        "score": np.argsort(scores(), kind="stable"),
        "mixed": rng.permutation(len(scores())),
    }[order]
    controller = ShareController.start(share, load_facts().score_quantiles)
    sent = np.array([controller.decide(float(score)).above for score in scores()[places]])
    windows = np.convolve(sent, np.ones(2000), "valid") / 2000
    assert np.abs(windows - share).max() <= 0.01


def test_first_queries_follow_the_prior() -> None:
    controller = ShareController.start(0.3, load_facts().score_quantiles)
    assert not controller.decide(0.1).above
    assert controller.decide(0.95).above
    assert controller.threshold() == pytest.approx(0.7, abs=0.1)


def test_share_of_none_and_of_all() -> None:
    none, every = (ShareController.start(share, [0.0, 1.0]) for share in (0.0, 1.0))
    assert not any(none.decide(1.0).above for _ in range(100))
    assert all(every.decide(0.0).above for _ in range(100))
    with pytest.raises(ValueError, match="share"):
        ShareController.start(1.5, [0.0, 1.0])


def test_control_keeps_most_of_what_the_score_is_worth() -> None:
    """In a mixed stream the controller's choice gains nearly what one threshold in hindsight would."""
    places = np.random.default_rng(1).permutation(np.flatnonzero(outcomes().validation))
    controller = ShareController.start(0.3, load_facts().score_quantiles)
    sent = np.array([controller.decide(float(scores()[place])).above for place in places])
    gain = outcomes().gain[places]
    best = np.argsort(-scores()[places], kind="stable")[: int(sent.sum())]
    assert gain[sent].sum() > 0.85 * gain[best].sum()
    assert gain[sent].mean() > gain.mean() * 1.25


def test_choose_takes_the_highest_tier_reached() -> None:
    assert [choose(score, [0.4, 0.8]) for score in (0.0, 0.39, 0.4, 0.8, 1.0)] == [0, 0, 1, 2, 2]
    assert tier_shares(0.3, 2) == [0.3]
    middle, top = tier_shares(0.25, 3)
    assert middle == pytest.approx(0.5)
    assert top == 0.25


def test_calibrate_for_a_share_and_for_a_quality() -> None:
    values = [0.9, 0.7, 0.5, 0.3]
    small, large = [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]
    half = calibrate(values, small, large, large_share=0.5)
    assert (half.threshold, half.share, half.quality) == (0.7, 0.5, 1.0)
    assert calibrate(values, small, large, quality=0.75).share == 0.25
    assert calibrate(values, small, large, large_share=0.0).share == 0.0
    level = calibrate(values, large, large, quality=1.0)
    assert (level.share, level.quality, level.ci) == (0.0, 1.0, (1.0, 1.0))
    with pytest.raises(ValueError, match="at least one"):
        calibrate([], [], [], quality=0.9)


def test_share_for_quality_reads_between_the_steps() -> None:
    assert share_for_quality([0.5, 0.7, 0.9], 0.8) == pytest.approx(0.75)
    assert share_for_quality([0.5, 0.7, 0.9], 0.2) == 0.0
    assert share_for_quality([0.5, 0.7, 0.9], 0.95) == 1.0
    curve = load_facts().quality_by_share
    assert share_for_quality(curve, 0.99) > share_for_quality(curve, 0.9) > 0


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why is the sky blue at noon here?"},
            ],
            "Why is the sky blue at noon here?",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"text": "What is on"}, {"type": "image_url"}, 7, {"text": "it?"}],
                },
            ],
            "What is on\nit?",
        ),
        (
            [
                {"role": "user", "content": "Prove that the square root of two is irrational."},
                {"role": "assistant", "content": "Suppose it were."},
                {"role": "user", "content": "and why?"},
            ],
            "Prove that the square root of two is irrational.\nand why?",
        ),
        ([{"role": "user", "content": None}], ""),
        (["hello", None, {"content": "x"}], ""),
        (None, ""),
        (17, ""),
        ("Q: What is 2 + 2?\nA:", "What is 2 + 2?"),
    ],
)
def test_query_text(messages: object, text: str) -> None:
    assert query_text(messages) == text


def test_solved_examples_before_the_question_are_left_out() -> None:
    shots = "Question: one?\nAnswer: 1\n\nQuestion: two?\nAnswer: 2\n\nQuestion: how many are three?\nAnswer:"
    assert bare(shots) == "how many are three?"
    assert bare("Which one?\nA. this\nB. that\nAnswer:") == "Which one?\nA. this\nB. that"


def test_megabytes_take_bounded_time_and_space() -> None:
    embedder, classifier = StaticEmbedder.load(), load_classifier()
    for unit in (
        "word ",
        "x",
        "\x00\xff",
        "漢字",
        "é̂",
        "\ud800",
        "1. ",
        "Q: a\n",
        "<|",
        " " * 9,
        "A. b\n",
        "\n",
        "A",
    ):
        huge = unit * (1_000_000 // len(unit))
        before = time.process_time()
        text = query_text(
            [{"role": "user", "content": huge}, {"role": "user", "content": [{"text": huge}] * 9}]
        )
        score = classifier.score(embedder.columns(text))
        direct = classifier.score(embedder.columns(huge))
        assert time.process_time() - before < 1.0, unit
        assert 0.0 <= score <= 1.0
        assert 0.0 <= direct <= 1.0


def test_features_have_their_names_and_are_finite() -> None:
    row = StaticEmbedder.load().columns("Write a function.\nA. def f(): return 1\nB. 2,000 $ __ ? “x”")
    assert row.dtype == np.float32
    assert np.isfinite(row).all()
    assert row[NAMES.index("options")] == pytest.approx(np.log1p(2))
    assert row[NAMES.index("write")] > 0
    assert len(clip("x" * 10_000, MAX_CHARS)) == MAX_CHARS + 1


def test_near_texts_are_near() -> None:
    embed = StaticEmbedder.load().embed
    question = embed("How do I reset my password?")
    assert question @ embed("I forgot my password, how can I reset it?") > 0.6
    assert question @ embed("The mitochondria is the powerhouse of the cell.") < 0.3
    assert np.allclose(embed("Crème brûlée"), embed("creme brulee"))


def test_weights_are_small_and_need_no_torch() -> None:
    load_classifier()
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 12_000_000
    assert "torch" not in sys.modules


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="table"):
        StaticEmbedder.load(tmp_path)
    np.save(tmp_path / "table.npy", np.zeros((3, 2), np.int8))
    np.save(tmp_path / "scales.npy", np.zeros(2, np.float32))
    (tmp_path / "vocabulary.txt").write_text("a\nb\nc")
    with pytest.raises(ValueError, match="vocabulary"):
        StaticEmbedder.load(tmp_path)
