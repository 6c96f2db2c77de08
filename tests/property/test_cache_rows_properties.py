"""Vectors in blocks are what a plain list of them is, wherever the blocks begin and end."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_cache.stores.rows import Bytes, Rows

ADDED = -1


@settings(max_examples=80)
@given(st.integers(1, 20), st.lists(st.integers(ADDED, 60), max_size=120))
def test_rows_are_those_of_a_list_whose_gaps_the_last_one_fills(block: int, steps: list[int]) -> None:
    rows, model = Rows(4, block), list[np.ndarray]()
    chance = np.random.default_rng(len(steps))
    for step in steps:
        if step == ADDED or step >= len(model):
            model.append(chance.normal(size=4).astype(np.float32))
            rows.append(model[-1])
        else:
            last = model.pop()
            if step < len(model):
                model[step] = last
            rows.remove(step)
        assert len(rows) == len(model)
    wanted = np.arange(0, len(model), 2)
    assert np.array_equal(rows.take(wanted), np.array([model[at] for at in wanted]).reshape(-1, 4))
    asked = np.ones(4, np.float32)
    assert np.allclose(rows.cosines(asked), [one @ asked for one in model], atol=1e-5)  # float32 sums
    assert all(np.array_equal(rows[at], one) for at, one in enumerate(model))


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(2, 400), st.integers(0, 2**32))
def test_bytes_order_as_the_vectors_do_but_for_what_lies_close_together(
    block: int, count: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    vectors = chance.normal(size=(count + 1, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    plain, asked = Rows(256, block), vectors[-1]
    for vector in vectors[: count // 2]:
        plain.append(vector)
    rows = Bytes.of(plain)
    for vector in vectors[count // 2 : -1]:
        rows.append(vector)
    rows.remove(0)
    known = np.concatenate((vectors[count - 1 : count], vectors[1 : count - 1]))[: count - 1]
    cosines = rows.cosines(asked) / 400.0**2
    assert len(cosines) == count - 1
    assert np.abs(cosines - known @ asked).max() < 0.01
