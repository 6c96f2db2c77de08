"""The head: weak learners that err differently, brought to one scale and added up.

All predict the gain of the large model. One forest reads the words' features alone, one all columns; a line
and prototypes read the vector. Each learner's share is its standard deviation over the training rows, so that
none rules by its units alone.
"""

import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier, Head, bare
from routing.embedding import StaticEmbedder
from routing.features import NAMES, lexical
from routing.training import learners
from routing.training.data import Queries

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHARES = {"words": 1.0, "all": 1.0, "line": 0.5, "prototypes": 0.5}
SHARPNESS = 12.0
_VECTOR_UNIT = 16.0  # brings a unit vector's columns to a spread of about one
_QUANTILES = 257


def columns(queries: Queries, embedder: StaticEmbedder) -> Floats:
    """Give the rows that the head reads, (n, features + d)."""
    texts = [bare(prompt) for prompt in queries.prompts]
    return np.stack([np.concatenate([lexical(text), embedder.embed(text)]) for text in texts])


def fit(x: Floats, queries: Queries, rows: Mask) -> Head:
    """Fit the head on `rows` of `x`."""
    some, gain = x[rows], queries.gain[rows]
    words, vectors = some[:, : len(NAMES)], some[:, len(NAMES) :]
    line = learners.ridge(vectors * _VECTOR_UNIT, gain, penalty=0.5) * _VECTOR_UNIT
    forests = {"words": learners.boost(words, gain, seed=1), "all": learners.boost(some, gain, seed=2)}
    centres, values = learners.prototypes(vectors, gain, count=128, sharpness=SHARPNESS)
    near = np.exp(SHARPNESS * (vectors @ centres.T - 1))
    spread = {name: forest.predict(some).std() for name, forest in forests.items()}
    spread |= {"line": (vectors @ line).std(), "prototypes": (near @ values / near.sum(axis=1)).std()}
    unit = {name: SHARES[name] / spread[name] for name in SHARES}
    head = Head(
        slopes=np.concatenate([np.zeros(len(NAMES)), line * unit["line"]]).astype(np.float32),
        tree_features=np.concatenate([forest.features for forest in forests.values()]),
        tree_thresholds=np.concatenate([forest.thresholds for forest in forests.values()]),
        tree_leaves=np.concatenate(
            [forest.leaves * np.float32(unit[name]) for name, forest in forests.items()]
        ),
        centres=centres,
        values=(values * unit["prototypes"]).astype(np.float32),
        sharpness=np.array(SHARPNESS, np.float32),
        knots=np.array([-1.0, 1.0]),
    )
    return with_knots(head, raw(head, some))


def with_knots(head: Head, scores: Doubles) -> Head:
    """Give the head with ranks taken from raw `scores`, and room of one spread on each side of them."""
    inner = np.maximum.accumulate(np.quantile(scores, np.linspace(0, 1, _QUANTILES - 2)))
    knots = np.concatenate([[inner[0] - scores.std()], inner, [inner[-1] + scores.std()]])
    knots += np.arange(_QUANTILES) * 1e-9  # strictly rising
    return Head(
        **{name: getattr(head, name) for name in Head.__struct_fields__ if name != "knots"}, knots=knots
    )


def raw(head: Head, x: Floats) -> Doubles:
    """Give the raw scores of the rows of `x`, by the code that serves."""
    classifier = Classifier(head)
    return np.array([classifier.raw(row) for row in x])
