"""The head: what is known of kinds of work, and what outcomes tell within each dataset, added up.

Learners that compare whole datasets learn which collection a text came from, and are about random on a
collection that they never saw. So the level of a kind of work comes from the requests written for it
(priors.toml), by nearness and by a line; and the outcomes teach mainly differences within a dataset or
subject (every mean is taken out), which carry over. Each learner's share is in standard deviations over the
training rows.

How the gain turns with difficulty follows from the one-parameter logistic model of item response theory
(Rasch, 1960): a model of ability t succeeds on an item of difficulty b with p = 1 / (1 + exp(b - t)), so the
gain p(large) - p(small) changes with b by p(small) (1 - p(small)) - p(large) (1 - p(large)). Where even the
large model mostly fails that is below 0 (competition mathematics: -0.16): the gain lies with the easier ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier, Head, bare
from routing.embedding import StaticEmbedder, join
from routing.features import NAMES
from routing.training import learners
from routing.training.data import Queries, Requests, requests

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHARES = {
    "near": 1.0, "kinds": 0.2,
    "vector": 0.5, "words": 0.2, "within": 0.2, "across": 0.8, "length": 0.3,
    "falling": 40.0, "rising": 40.0,  # times the turn beyond where it counts
}  # fmt: skip
SHARPNESS = 12.0
SEEDS = (
    1,
    3,
    5,
)  # of forests, of which each kind's mean is taken: one alone is up to a hundredth better or worse
_LENGTH = NAMES.index("chars")
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
        self.kinds = requests()
        self.requests = columns(self.kinds.texts, embedder, encode)


def fit(examples: Examples, rows: Mask) -> Head:
    """Fit the head on `rows` of the examples and on the written requests."""
    queries, x, kinds = examples.queries, examples.x[rows], examples.kinds
    forests = _forests(queries, x, rows)
    lines = _lines(examples, rows)
    centres, values = learners.prototypes(examples.requests[:, _WORDS:], kinds.gain[kinds.kind], kinds.kind)
    near = np.exp(SHARPNESS * (x[:, _WORDS:] @ centres.T - 1))
    outputs = {name: x @ line for name, line in lines.items()}
    outputs |= {name: forest.predict(x) for name, forest in forests.items()}
    outputs["near"] = near @ values / near.sum(axis=1)
    unit = {name: share / outputs[name].std() for name, share in SHARES.items()}
    told = {name: outputs[name].mean() * unit[name] for name in SHARES}
    head = Head(
        slopes=(lines["kinds"] * unit["kinds"] + lines["vector"] * unit["vector"]).astype(np.float32),
        learned=(lines["words"] * unit["words"] + lines["length"] * unit["length"]).astype(np.float32),
        hardness=np.stack([lines[name] * unit[name] for name in ("falling", "rising")]).astype(np.float32),
        turning=lines["turning"].astype(np.float32),
        middles=np.array(
            [
                told["kinds"] + told["vector"] + told["near"],
                told["words"] + told["length"] + sum(told[name] for name in forests),
                told["falling"],
                told["rising"],
                float((examples.requests @ lines["turning"]).mean() - _turns(kinds)[kinds.kind].mean()),
            ],
            np.float32,
        ),
        tree_features=np.concatenate([forest.features for forest in forests.values()]),
        tree_thresholds=np.concatenate([forest.thresholds for forest in forests.values()]),
        tree_leaves=np.concatenate(
            [forest.leaves * np.float32(unit[name]) for name, forest in forests.items()]
        ),
        centres=centres,
        values=(values * unit["near"]).astype(np.float32),
        turns=_turns(kinds).astype(np.float32),
        opens=kinds.opens.astype(np.float32),
        sharpness=np.array(SHARPNESS, np.float32),
        knots=np.array([-1.0, 1.0]),
    )
    return with_knots(head, raw(head, x))


def _forests(queries: Queries, x: Floats, rows: Mask) -> dict[str, learners.Forest]:
    """Give the trees over the lexical features, within each unit and across all rows; means of forests."""
    weights = learners.evened(queries.datasets[rows])
    units = queries.units[rows]
    centred = learners.centred(queries.target[rows][:, None], units)[:, 0]
    within = learners.Growth(trees=50, depth=3, leaf_rows=60.0)
    across = learners.Growth(trees=120, depth=5, leaf_rows=8.0, bins=32, sample=0.7)
    words, equal = x[:, :_WORDS], np.ones(len(x))
    return {
        "within": learners.mean(
            [learners.boost(words, centred, weights, units, within, seed) for seed in SEEDS]
        ).deepened(across.depth),
        "across": learners.mean(
            [learners.boost(words, queries.gain[rows], equal, units, across, seed + 1) for seed in SEEDS]
        ),
    }


def _lines(examples: Examples, rows: Mask) -> dict[str, Doubles]:
    """Give the slopes (features + d,) of each line."""
    queries, x, kinds = examples.queries, examples.x[rows], examples.kinds
    units, weights = queries.units[rows], learners.evened(queries.datasets[rows])
    spread = x.std(axis=0) + 1e-6
    spread[_WORDS:] = 1 / _VECTOR_UNIT
    within = learners.centred(x, units) / spread
    target, difficulty = (
        learners.centred(values[rows][:, None], units)[:, 0]
        for values in (queries.target, queries.difficulty)
    )
    words, vector = within[:, :_WORDS], within[:, _WORDS:]
    lines = {name: np.zeros(x.shape[1]) for name in ("vector", "words", "length", "falling")}
    lines["vector"][_WORDS:] = learners.ridge(vector, target, penalty=5.0, weights=weights)
    lines["words"][:_WORDS] = learners.ridge(words, target, penalty=0.1, weights=weights)
    lines["length"][_LENGTH] = 1.0
    lines["rising"] = lines["length"]  # such a problem has more steps the longer it is
    hard = learners.ridge(words, difficulty, penalty=0.1, weights=weights)
    lines["falling"][:_WORDS] = hard / (x[:, :_WORDS] / spread[:_WORDS] @ hard).std()
    lines["falling"] += lines["length"]
    for name, values in (("kinds", kinds.gain), ("turning", _turns(kinds))):
        lines[name] = learners.ridge(examples.requests / spread, values[kinds.kind], penalty=1.0)
    return {name: line / spread for name, line in lines.items()}


def _turns(kinds: Requests) -> Doubles:
    """Give how the gain of each kind changes with difficulty, see above."""
    small, large = kinds.small, np.minimum(kinds.small + kinds.gain, 0.97)
    return np.asarray(small * (1 - small) - large * (1 - large))


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
