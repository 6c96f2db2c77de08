"""The head: what is known of kinds of work, and what outcomes tell within each dataset, added up.

Learners that compare whole datasets learn which collection a text came from, and are about random on a
collection that they never saw. So the level of a kind of work comes from the requests written for it
(priors.toml), by nearness and by a line; and the outcomes teach mainly differences within a dataset or
subject (every mean is taken out), which carry over. Each learner's share is in standard deviations over the
training rows.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier, Head, bare
from routing.embedding import StaticEmbedder, join
from routing.features import NAMES
from routing.training import learners
from routing.training.data import Queries, requests

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHARES = {"near": 1.0, "kinds": 0.4, "vector": 0.5, "words": 0.3, "within": 0.4, "across": 0.5}
SHARPNESS = 12.0
_QUANTILES = 257
_VECTOR_UNIT = 16.0  # brings a unit vector's columns to a spread of about one
_WORDS = len(NAMES)


Encode = Callable[[Sequence[str]], Floats]


def columns(prompts: Sequence[str], embedder: StaticEmbedder, encode: Encode | None) -> Floats:
    """Give the rows that the head reads, (n, features + d); with `encode` those of the precise grade."""
    texts = [bare(prompt) for prompt in prompts]
    rows = np.stack([embedder.columns(text) for text in texts])
    return rows if encode is None else join(rows, encode(texts))


class Examples:
    """All that heads are fitted on, computed once: columns of the queries and of the written requests."""

    def __init__(self, queries: Queries, embedder: StaticEmbedder, encode: Encode | None = None) -> None:
        self.queries = queries
        self.x = columns(queries.prompts, embedder, encode)
        texts, self.expected, self.kinds = requests()
        self.requests = columns(texts, embedder, encode)


def fit(examples: Examples, rows: Mask) -> Head:
    """Fit the head on `rows` of the examples and on the written requests."""
    queries, x = examples.queries, examples.x[rows]
    target, units = queries.target[rows], queries.units[rows]
    weights = learners.evened(queries.datasets[rows])
    within, centred = learners.centred(x, units), learners.centred(target[:, None], units)[:, 0]
    spread = x.std(axis=0) + 1e-6
    spread[_WORDS:] = 1 / _VECTOR_UNIT
    lines = {
        "kinds": learners.ridge(examples.requests / spread, examples.expected, penalty=1.0),
        "vector": learners.ridge(within[:, _WORDS:] * _VECTOR_UNIT, centred, penalty=5.0, weights=weights),
        "words": learners.ridge(within[:, :_WORDS] / spread[:_WORDS], centred, penalty=0.1, weights=weights),
    }
    lines["vector"] = np.concatenate([np.zeros(_WORDS), lines["vector"]])
    lines["words"] = np.concatenate([lines["words"], np.zeros(x.shape[1] - _WORDS)])
    lines = {name: line / spread for name, line in lines.items()}
    forests = {
        "within": learners.boost(x[:, :_WORDS], centred, weights, trees=50, leaf_rows=60.0, seed=1),
        "across": learners.boost(
            x[:, :_WORDS], target, np.ones(len(target)), trees=50, leaf_rows=30.0, seed=2
        ),
    }
    centres, values = learners.prototypes(examples.requests[:, _WORDS:], examples.expected, examples.kinds)
    near = np.exp(SHARPNESS * (x[:, _WORDS:] @ centres.T - 1))
    outputs = {name: x @ line for name, line in lines.items()}
    outputs |= {name: forest.predict(x) for name, forest in forests.items()}
    outputs["near"] = near @ values / near.sum(axis=1)
    unit = {name: share / outputs[name].std() for name, share in SHARES.items()}
    head = Head(
        slopes=sum(line * unit[name] for name, line in lines.items()).astype(np.float32),
        tree_features=np.concatenate([forest.features for forest in forests.values()]),
        tree_thresholds=np.concatenate([forest.thresholds for forest in forests.values()]),
        tree_leaves=np.concatenate(
            [forest.leaves * np.float32(unit[name]) for name, forest in forests.items()]
        ),
        centres=centres,
        values=(values * unit["near"]).astype(np.float32),
        sharpness=np.array(SHARPNESS, np.float32),
        knots=np.array([-1.0, 1.0]),
    )
    return with_knots(head, raw(head, x))


def with_knots(head: Head, scores: Doubles) -> Head:
    """Give the head with ranks taken from raw `scores`, and room of one spread on each side of them."""
    inner = np.maximum.accumulate(np.quantile(scores, np.linspace(0, 1, _QUANTILES - 2)))
    knots = np.concatenate([[inner[0] - scores.std()], inner, [inner[-1] + scores.std()]])
    knots += np.arange(_QUANTILES) * 1e-9  # strictly rising
    return Head(
        **{name: getattr(head, name) for name in Head.__struct_fields__ if name != "knots"}, knots=knots
    )


def raw(head: Head, x: Floats) -> Doubles:
    """Give the raw score of the rows of `x`, by the code that serves."""
    classifier = Classifier(head)
    return np.array([classifier.raw(row) for row in x])
