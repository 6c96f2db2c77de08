"""The learners behind the head: each fits `y` on the rows `x` and gives arrays that numpy runs alone."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


_PRIOR_ROWS = 30.0  # rows of no gain that a leaf or a prototype starts with


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


def ridge(x: Floats, y: Doubles, penalty: float) -> Floats:
    """Give the slopes (d,) of a ridge; `penalty` is per row."""
    z = (x - x.mean(axis=0)).astype(np.float64)
    gram = z.T @ z + penalty * len(z) * np.eye(z.shape[1])
    return np.linalg.solve(gram, z.T @ (y - y.mean())).astype(np.float32)


def boost(
    x: Floats, y: Doubles, *, trees: int = 200, depth: int = 3, rate: float = 0.05, seed: int = 0
) -> Forest:
    """Fit symmetric trees to `y` by least squares on 24 quantile bins, a third of the columns per tree."""
    bins, rng = 24, np.random.default_rng(seed)
    cuts = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], axis=0).astype(np.float32)  # (bins - 1, d)
    binned = np.stack([np.searchsorted(cuts[:, j], x[:, j], side="left") for j in range(x.shape[1])], axis=1)
    rest = y - y.mean()
    asked, limits, tables = [], [], []
    for _ in range(trees):
        columns = rng.choice(x.shape[1], max(8, x.shape[1] // 3), replace=False)
        leaf = np.zeros(len(x), np.int64)
        questions = []
        for level in range(depth):
            column, cut = _best_question(binned[:, columns], leaf, 1 << level, bins, rest)
            questions.append((int(columns[column]), float(cuts[cut, columns[column]])))
            leaf += (x[:, questions[-1][0]] > questions[-1][1]).astype(np.int64) << level
        values = (
            rate
            * np.bincount(leaf, rest, 1 << depth)
            / (np.bincount(leaf, minlength=1 << depth) + _PRIOR_ROWS)
        )
        rest = rest - values[leaf]
        asked.append([question[0] for question in questions])
        limits.append([question[1] for question in questions])
        tables.append(values)
    return Forest(np.array(asked, np.int32), np.array(limits, np.float32), np.array(tables, np.float32))


def _best_question(
    binned: NDArray[np.int64], leaf: NDArray[np.int64], leaves: int, bins: int, rest: Doubles
) -> tuple[int, int]:
    """Give the column and the cut that lower the squared error most, asked in all leaves at once."""
    width = binned.shape[1]
    slot = ((leaf[:, None] * width + np.arange(width)) * bins + binned).ravel()
    shape = (leaves, width, bins)
    sums = np.bincount(slot, np.repeat(rest, width), leaves * width * bins).reshape(shape).cumsum(axis=2)
    rows = np.bincount(slot, minlength=leaves * width * bins).reshape(shape).cumsum(axis=2)
    left, right = sums[..., :-1], sums[..., -1:] - sums[..., :-1]
    gain = left**2 / (rows[..., :-1] + _PRIOR_ROWS) + right**2 / (
        rows[..., -1:] - rows[..., :-1] + _PRIOR_ROWS
    )
    column, cut = np.unravel_index(int(gain.sum(axis=0).argmax()), (width, bins - 1))
    return int(column), int(cut)


def prototypes(
    vectors: Floats, y: Doubles, *, count: int, sharpness: float, seed: int = 0
) -> tuple[Floats, Floats]:
    """Give unit centres (count, d) and the smoothed mean of `y` around each: a kNN that fits in a few kB."""
    rng = np.random.default_rng(seed)
    centres = vectors[rng.choice(len(vectors), count, replace=False)].copy()
    for _ in range(25):
        owner = (vectors @ centres.T).argmax(axis=1)
        for k in range(count):
            if (owner == k).any():
                centres[k] = vectors[owner == k].mean(axis=0)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-9
    share = np.exp(sharpness * (vectors @ centres.T - 1))
    share /= share.sum(axis=1, keepdims=True)
    values = share.T @ (y - y.mean()) / (share.sum(axis=0) + _PRIOR_ROWS)
    return centres.astype(np.float32), values.astype(np.float32)
