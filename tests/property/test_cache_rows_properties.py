"""Vectors in blocks are what a plain list of them is, wherever the blocks begin and end."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_cache.stores.rows import Rows

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
    wanted = list(range(0, len(model), 2))
    assert np.array_equal(rows.take(wanted), np.array([model[at] for at in wanted]).reshape(-1, 4))
    asked = np.ones(4, np.float32)
    assert np.allclose(rows.cosines(asked), [one @ asked for one in model])
    assert all(np.array_equal(rows[at], one) for at, one in enumerate(model))
