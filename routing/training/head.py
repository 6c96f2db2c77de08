"""The head: several weak learners that err differently, brought to one scale and added up.

Each learner's share is its standard deviation over the training rows, so none rules by its units alone. Rows
are weighted by 1 / sqrt(rows of their dataset): a large dataset counts for more than a small one, but not in
proportion.
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

SHARES = {"gain": 1.0, "failure": 1.0, "trees": 1.0, "prototypes": 0.5}
SHARPNESS = 12.0
_VECTOR_UNIT = 8.0  # brings a unit vector's columns to about half the spread of standardised features
_QUANTILES = 257


def columns(queries: Queries, embedder: StaticEmbedder) -> Floats:
    """Give the rows that the head reads, (n, features + d)."""
    texts = [bare(prompt) for prompt in queries.prompts]
    return np.stack([np.concatenate([lexical(text), embedder.embed(text)]) for text in texts])


def fit(x: Floats, queries: Queries, rows: Mask) -> Head:
    """Fit the head on `rows` of `x`."""
    some, gain = x[rows], queries.gain[rows]
    weight = _weights(queries.datasets[rows])
    words = len(NAMES)
    vectors = some[:, words:]
    scale = np.concatenate([some[:, :words].std(axis=0) + 1e-6, np.full(vectors.shape[1], 1 / _VECTOR_UNIT)])
    scaled = (some / scale).astype(np.float32)
    gain_line = learners.ridge(scaled, gain, weight, 0.3)[0] / scale
    fail_line = learners.logistic(scaled, 1 - queries.small[rows], weight, 0.01)[0] / scale
    forest = learners.boost(some[:, :words], gain, weight)
    centres, values = learners.prototypes(vectors, gain, weight, count=128, sharpness=SHARPNESS)
    near = np.exp(SHARPNESS * (vectors @ centres.T - 1))
    slopes = SHARES["gain"] * gain_line / (some @ gain_line).std()
    slopes = slopes + SHARES["failure"] * fail_line / (some @ fail_line).std()
    head = Head(
        slopes=slopes.astype(np.float32),
        tree_features=forest.features,
        tree_thresholds=forest.thresholds,
        tree_leaves=(SHARES["trees"] * forest.leaves / forest.predict(some).std()).astype(np.float32),
        centres=centres,
        values=(SHARES["prototypes"] * values / (near @ values / near.sum(axis=1)).std()).astype(np.float32),
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


def _weights(datasets: NDArray[np.str_]) -> Doubles:
    _, place, counts = np.unique(datasets, return_inverse=True, return_counts=True)
    weight = counts[place].astype(np.float64) ** -0.5
    normal: Doubles = weight / weight.mean()
    return normal
