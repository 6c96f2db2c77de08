"""The learners behind the head: each fits `y` on weighted rows `x` and gives arrays that numpy runs alone."""

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


def ridge(x: Floats, y: Doubles, weight: Doubles, penalty: float) -> tuple[Floats, float]:
    """Give slopes and intercept of the weighted ridge; `penalty` is per unit of weight."""
    mean, level = np.average(x, axis=0, weights=weight), float(np.average(y, weights=weight))
    z = (x - mean).astype(np.float64)
    gram = (z * weight[:, None]).T @ z + penalty * weight.sum() * np.eye(x.shape[1])
    slopes = np.linalg.solve(gram, (z * weight[:, None]).T @ (y - level))
    return slopes.astype(np.float32), level - float(mean @ slopes)


def logistic(
    x: Floats, y: Doubles, weight: Doubles, penalty: float, rounds: int = 12
) -> tuple[Floats, float]:
    """Give slopes and intercept of the weighted logistic regression of `y` in [0, 1] (Newton's method)."""
    z = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    brake = np.full(z.shape[1], penalty * weight.sum())
    brake[-1] = 1e-6
    slopes = np.zeros(z.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-np.clip(z @ slopes, -30, 30)))
        pull = z.T @ (weight * (y - chance)) - brake * slopes
        bend = (z * (weight * chance * (1 - chance))[:, None]).T @ z + np.diag(brake)
        slopes += np.linalg.solve(bend, pull)
    return slopes[:-1].astype(np.float32), float(slopes[-1])


def boost(
    x: Floats,
    y: Doubles,
    weight: Doubles,
    *,
    trees: int = 150,
    depth: int = 3,
    rate: float = 0.05,
    seed: int = 0,
) -> Forest:
    """Fit symmetric trees to `y` by least squares on 24 quantile bins, a third of the columns per tree."""
    bins, rng = 24, np.random.default_rng(seed)
    cuts = np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], axis=0).astype(np.float32)  # (bins - 1, d)
    binned = np.stack([np.searchsorted(cuts[:, j], x[:, j], side="left") for j in range(x.shape[1])], axis=1)
    rest = y - np.average(y, weights=weight)
    asked, limits, tables = [], [], []
    for _ in range(trees):
        columns = rng.choice(x.shape[1], max(8, x.shape[1] // 3), replace=False)
        leaf = np.zeros(len(x), np.int64)
        questions = []
        for level in range(depth):
            column, cut = _best_question(binned[:, columns], leaf, 1 << level, bins, weight * rest, weight)
            questions.append((int(columns[column]), float(cuts[cut, columns[column]])))
            leaf += (x[:, questions[-1][0]] > questions[-1][1]).astype(np.int64) << level
        mass = np.bincount(leaf, weight, 1 << depth)
        values = rate * np.bincount(leaf, weight * rest, 1 << depth) / (mass + 30.0)
        rest = rest - values[leaf]
        asked.append([question[0] for question in questions])
        limits.append([question[1] for question in questions])
        tables.append(values)
    return Forest(np.array(asked, np.int32), np.array(limits, np.float32), np.array(tables, np.float32))


def _best_question(
    binned: NDArray[np.int64], leaf: NDArray[np.int64], leaves: int, bins: int, pull: Doubles, mass: Doubles
) -> tuple[int, int]:
    """Give the column and the cut that lower the squared error most, asked in all leaves at once."""
    width = binned.shape[1]
    slot = ((leaf[:, None] * width + np.arange(width)) * bins + binned).ravel()
    shape = (leaves, width, bins)
    pulls = np.bincount(slot, np.repeat(pull, width), leaves * width * bins).reshape(shape).cumsum(axis=2)
    masses = np.bincount(slot, np.repeat(mass, width), leaves * width * bins).reshape(shape).cumsum(axis=2)
    left, right = pulls[..., :-1], pulls[..., -1:] - pulls[..., :-1]
    gain = left**2 / (masses[..., :-1] + 30.0) + right**2 / (masses[..., -1:] - masses[..., :-1] + 30.0)
    column, cut = np.unravel_index(int(gain.sum(axis=0).argmax()), (width, bins - 1))
    return int(column), int(cut)


def prototypes(
    vectors: Floats, y: Doubles, weight: Doubles, *, count: int, sharpness: float, seed: int = 0
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
    level = float(np.average(y, weights=weight))
    mass = share.T @ weight
    return centres.astype(np.float32), ((share.T @ (weight * (y - level))) / (mass + 20.0)).astype(np.float32)
