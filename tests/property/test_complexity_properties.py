"""Any text and any messages give a score in bounds; any stream keeps its share."""

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.complexity import SLACK, Classifier, ShareController, calibrate, choose, query_text
from routing.embedding import StaticEmbedder, load_classifier
from routing.features import NAMES, tokens

anything = st.text(st.characters(exclude_categories=()), max_size=400)  # lone surrogates and controls as well
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner)
    ),
    max_leaves=12,
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", 3, None]), "content": json_values}
)
unit = st.floats(0, 1)


@cache
def parts() -> tuple[StaticEmbedder, Classifier]:
    return StaticEmbedder.load(), load_classifier()


@cache
def small_table() -> StaticEmbedder:
    return StaticEmbedder.load()


def fresh() -> StaticEmbedder:
    """A reader with an empty memo over the same table."""
    shared = small_table()
    return StaticEmbedder(shared.table, shared.scales, shared.vocabulary)


@given(anything)
def test_the_quick_pattern_finds_the_same_tokens(text: str) -> None:
    ascii_only = "".join(character for character in text if character.isascii())
    assert tokens(ascii_only) == tokens(f"{ascii_only} é")[:-1]


@given(anything)
def test_any_text_has_a_unit_vector_and_a_score(text: str) -> None:
    embedder, classifier = parts()
    columns = embedder.columns(text)
    assert columns.shape == (len(NAMES) + embedder.dimensions,)
    assert abs(float(np.linalg.norm(columns[len(NAMES) :])) - 1) < 1e-3
    assert np.isfinite(columns).all()
    assert 0.0 <= classifier.score(columns) <= 1.0


@given(anything)
def test_the_memo_changes_nothing(text: str) -> None:
    embedder, _ = parts()
    first = embedder.columns(text)
    assert np.array_equal(first, embedder.columns(text))
    assert np.allclose(first, fresh().columns(text), atol=1e-5)


@given(json_values | st.lists(turns, max_size=6))
def test_any_messages_give_a_text(messages: object) -> None:
    assert isinstance(query_text(messages), str)


@given(st.lists(unit, min_size=1, max_size=5), unit, unit)
def test_a_higher_score_never_gets_a_cheaper_tier(thresholds: list[float], one: float, other: float) -> None:
    thresholds.sort()
    low, high = sorted((one, other))
    assert choose(low, thresholds) <= choose(high, thresholds)


@settings(max_examples=40, deadline=None)
@given(unit, st.lists(st.tuples(unit, st.integers(1, 300)), min_size=1, max_size=12))
def test_any_stream_stays_within_the_bucket(share: float, runs: list[tuple[float, int]]) -> None:
    controller = ShareController.start(share, [0.0, 0.5, 1.0])
    sent = total = 0
    for score, length in runs:
        for _ in range(length):
            total += 1
            sent += controller.decide(score).above
            assert abs(sent - share * total) <= SLACK + 1 + 1e-6
    assert controller.ordered == sorted(controller.recent)


@given(st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=30), unit)
def test_calibration_reports_what_its_threshold_gives(
    rows: list[tuple[float, float, float]], share: float
) -> None:
    scores, small, large = (list(column) for column in zip(*rows, strict=True))
    found = calibrate(scores, small, large, large_share=share)
    assert found.share == np.mean(np.array(scores) >= found.threshold)
    assert found.share >= round(share * len(rows)) / len(rows) - 1e-9
