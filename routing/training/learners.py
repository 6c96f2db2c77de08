"""The learners behind the head: each fits `y` on the rows `x` and gives arrays that numpy runs alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Forest(NamedTuple):
    """Boosted symmetric trees: all nodes of one depth ask the same question, so a tree is a small table."""

    features: NDArray[np.int32]  # (trees, depth) columns asked
    thresholds: Floats  # (trees, depth) yes where greater
    leaves: Floats  # (trees, 2 ** depth)

    def predict(self, x: Floats) -> Doubles:
        """Give the sum of the trees for each row of `x`."""
        total = np.zeros(len(x))
        powers = 1 << np.arange(self.features.shape[1])
        for columns, limits, leaves in zip(self.features, self.thresholds, self.leaves, strict=True):
            total += leaves[(x[:, columns] > limits) @ powers]
        return total

    def deepened(self, depth: int) -> "Forest":
        """Give the same trees with further questions, up to `depth` of them, whose answer is always no."""
        had = self.features.shape[1]
        questions = [(0, 0), (0, depth - had)]
        return Forest(
            np.pad(self.features, questions),
            np.pad(self.thresholds, questions, constant_values=np.inf),
            np.pad(self.leaves, [(0, 0), (0, (1 << depth) - (1 << had))]),
        )


def mean(forests: Sequence[Forest]) -> Forest:
    """Give the trees of all forests, whose sum is the mean of theirs."""
    return Forest(
        np.concatenate([forest.features for forest in forests]),
        np.concatenate([forest.thresholds for forest in forests]),
        np.concatenate([forest.leaves for forest in forests]) * np.float32(1 / len(forests)),
    )


def evened(names: NDArray[np.str_]) -> Doubles:
    """Give each row the weight 1 / sqrt(rows of its name), of mean 1: large datasets count more, not all."""
    _, place, count = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(count[place])
    return np.asarray(weights / weights.mean())


def centred(x: NDArray[np.floating], units: NDArray[np.str_]) -> Doubles:
    """Give the rows of `x` (n, d) minus the mean of their unit: what differs within a unit."""
    _, place, count = np.unique(units, return_inverse=True, return_counts=True)
    means = np.zeros((len(count), x.shape[1]))
    np.add.at(means, place, x)
    return np.asarray(x - (means / count[:, None])[place])


def ridge(x: NDArray[np.floating], y: Doubles, penalty: float, weights: Doubles | None = None) -> Doubles:
    """Give the slopes (d,) of a ridge; `penalty` is per row, `weights` have mean 1."""
    share = np.ones(len(y)) if weights is None else weights
    z = x - np.average(x, axis=0, weights=share)
    gram = (z * share[:, None]).T @ z + penalty * len(z) * np.eye(z.shape[1])
    slopes = np.linalg.solve(gram, (z * share[:, None]).T @ (y - np.average(y, weights=share)))
    return np.asarray(slopes, np.float64)


class Growth(NamedTuple):
    """How a forest grows."""

    trees: int
    leaf_rows: float  # rows of no gain that every leaf starts with
    depth: int = 3
    bins: int = 24
    sample: float = 1.0  # share of the units that a tree sees


def boost(
    x: Floats, y: Doubles, weights: Doubles, units: NDArray[np.str_], growth: Growth, seed: int
) -> Forest:
    """Fit symmetric trees to `y` by least squares, each on a third of the columns.

    A tree sees a unit whole or not at all, so what only one of them teaches is asked by fewer trees.
    """
    depth, bins, rate = growth.depth, growth.bins, 0.1
    rng = np.random.default_rng(seed)
    cuts = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], axis=0).astype(np.float32)  # (bins - 1, d)
    binned = np.stack([np.searchsorted(cuts[:, j], x[:, j], side="left") for j in range(x.shape[1])], axis=1)
    rest = y - np.average(y, weights=weights)
    _, unit = np.unique(units, return_inverse=True)
    asked, limits, tables = [], [], []
    for _ in range(growth.trees):
        columns = rng.choice(x.shape[1], max(8, x.shape[1] // 3), replace=False)
        seen = weights * (rng.random(unit.max() + 1) < growth.sample)[unit]
        leaf = np.zeros(len(x), np.int64)
        questions = []
        for level in range(depth):
            column, cut = _best_question(
                binned[:, columns], leaf, bins, (rest * seen, seen), growth.leaf_rows
            )
            questions.append((int(columns[column]), float(cuts[cut, columns[column]])))
            leaf += (x[:, questions[-1][0]] > questions[-1][1]).astype(np.int64) << level
        values = (
            rate
            * np.bincount(leaf, rest * seen, 1 << depth)
            / (np.bincount(leaf, seen, 1 << depth) + growth.leaf_rows)
        )
        rest = rest - values[leaf]
        asked.append([question[0] for question in questions])
        limits.append([question[1] for question in questions])
        tables.append(values)
    return Forest(np.array(asked, np.int32), np.array(limits, np.float32), np.array(tables, np.float32))


def _best_question(
    binned: NDArray[np.int64],
    leaf: NDArray[np.int64],
    bins: int,
    rest: tuple[Doubles, Doubles],
    leaf_rows: float,
) -> tuple[int, int]:
    """Give the column and the cut that lower the squared error most, asked in all leaves at once.

    `rest` are what is left of each row, weighted, and its weight.
    """
    width, leaves = binned.shape[1], int(leaf.max()) + 1
    slot = ((leaf[:, None] * width + np.arange(width)) * bins + binned).ravel()
    sums, rows = (
        np.bincount(slot, np.repeat(values, width), leaves * width * bins)
        .reshape(leaves, width, bins)
        .cumsum(axis=2)
        for values in rest
    )
    left, right = sums[..., :-1], sums[..., -1:] - sums[..., :-1]
    gain = left**2 / (rows[..., :-1] + leaf_rows) + right**2 / (rows[..., -1:] - rows[..., :-1] + leaf_rows)
    column, cut = np.unravel_index(int(gain.sum(axis=0).argmax()), (width, bins - 1))
    return int(column), int(cut)


def prototypes(vectors: Floats, y: Doubles, kinds: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Give a unit centre for each kind, (kinds, d), and its mean of `y` about the mean of all."""
    centres = np.stack([vectors[kinds == kind].mean(axis=0) for kind in np.unique(kinds)])
    values = np.array([y[kinds == kind].mean() for kind in np.unique(kinds)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return centres.astype(np.float32), (values - values.mean()).astype(np.float32)
