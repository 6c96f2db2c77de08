"""The verifier: the chance that an answer is right, learned online from judged comparisons. Pure.

A logistic model over the evidence, one for each route and pooled over its entries. It starts from shipped
weights (``prior``) and is pulled back to them where nothing speaks against.
Every judged comparison is also kept for a while and learned again: a few hundred have to suffice. All that is
learned from one question is one step, over rows of a table: a step costs the same for a few rows as for one.
"""

import math
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any

import numpy as np

from semantic_cache.lasting import Lasting
from semantic_cache.verify import BUCKETS, MOST_BUCKETS, NAMES, Evidence, Floats

_RATE = 0.15  # of the dense weights; AdaGrad divides it by what was learned before
_HASHED_RATE = 0.3
_PULL = 1e-4  # back to the prior
_HASHED_PULL = 1e-3
_MEMORY = 6_000  # comparisons
_FIRST = 64
_REHEARSALS = 2


class Learner(Lasting):
    """Learns from (evidence, right or wrong); everything it does follows from what it was given."""

    LASTS = ("_dense", "_dense_seen", "_hashed", "_hashed_seen")  # what is rehearsed comes anew

    def __init__(self, prior: Floats) -> None:
        """Start from `prior`, one weight for each of NAMES."""
        if prior.shape != (len(NAMES),):
            raise ValueError(f"the prior must have {len(NAMES)} weights, not {prior.shape}")
        self._prior = prior
        self._dense = prior.copy()
        self._dense_seen = np.ones(len(NAMES))
        self._hashed = np.zeros(BUCKETS)
        self._hashed_seen = np.ones(BUCKETS)
        self._kept = _Table(_FIRST)
        self._count = 0
        self._rehearsed = 0
        self._plain: list[float] | None = None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take what lasts."""
        super().resume(state)
        self._plain = None

    def _weights(self) -> list[float]:
        """Give the dense weights as plain numbers: a dozen calls of numpy would cost more than they do."""
        if self._plain is None:
            self._plain = self._dense.tolist()
        return self._plain

    def logits(self, examined: Sequence[Evidence]) -> list[float]:
        """Give the log odds that each answer is right."""
        dense, hashed = self._weights(), self._hashed.data.__getitem__
        return [
            sum(map(mul, dense, one.dense)) + sum(map(mul, map(hashed, one.buckets), one.weights))
            for one in examined
        ]

    def learn(self, judged: Sequence[tuple[Evidence, bool]], weight: float) -> None:
        """Learn from comparisons that were judged, each counting `weight`, and from some of the earlier."""
        rows = [self._keep(evidence, right, weight) for evidence, right in judged]
        size = min(self._count, _MEMORY)
        for _ in range(_REHEARSALS * len(judged)):
            self._rehearsed += 1
            rows.append(_spread(self._rehearsed) % size)
        self._step(rows)

    def _keep(self, evidence: Evidence, right: bool, weight: float) -> int:
        row = self._count % _MEMORY
        if row >= len(self._kept.right):
            self._kept = self._kept.grown(min(2 * row, _MEMORY))
        kept, count = self._kept, len(evidence.buckets)
        kept.dense[row] = evidence.dense
        kept.buckets[row, :count] = evidence.buckets
        kept.weights[row, :count] = evidence.weights
        kept.weights[row, count:] = 0.0
        kept.right[row] = right
        kept.counts[row] = weight
        self._count += 1
        return row

    def _step(self, judged: list[int]) -> None:
        """Go down the slope of the log loss of all rows (AdaGrad)."""
        kept, rows = self._kept, np.array(judged)
        dense, weights = kept.dense.take(rows, axis=0), kept.weights.take(rows, axis=0)
        buckets = kept.buckets.take(rows, axis=0).ravel().astype(np.intp)
        hashed = self._hashed.take(buckets).reshape(weights.shape)
        logits = dense @ self._dense + (hashed * weights).sum(axis=1)
        outcomes = zip(
            logits.tolist(), kept.right.take(rows).tolist(), kept.counts.take(rows).tolist(), strict=True
        )
        errors = np.array([(_chance(logit) - right) * count for logit, right, count in outcomes])[:, None]
        self._plain = None
        slopes = errors * dense
        slopes += _PULL * (self._dense - self._prior)
        self._dense_seen += np.einsum("ij,ij->j", slopes, slopes)
        self._dense -= _RATE * slopes.sum(axis=0) / np.sqrt(self._dense_seen)
        slope = ((errors + _HASHED_PULL * hashed) * weights).ravel()  # nothing where no weight is
        np.add.at(self._hashed_seen, buckets, slope * slope)
        np.subtract.at(self._hashed, buckets, _HASHED_RATE * slope / np.sqrt(self._hashed_seen.take(buckets)))


def _chance(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))


class _Table:
    """Comparisons in rows; a row's unused buckets have no weight."""

    def __init__(self, rows: int) -> None:
        self.dense = np.zeros((rows, len(NAMES)), np.float32)
        self.buckets = np.zeros((rows, MOST_BUCKETS), np.int16)
        self.weights = np.zeros((rows, MOST_BUCKETS), np.float32)
        self.right = np.zeros(rows, np.float32)
        self.counts = np.zeros(rows, np.float32)

    def grown(self, rows: int) -> "_Table":
        """Give the same table with room for more rows."""
        table = _Table(rows)
        for name, values in vars(self).items():
            getattr(table, name)[: len(values)] = values
        return table


def _spread(number: int) -> int:
    """Spread a counter evenly: rehearsal needs variety, not chance."""
    number = (number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return (number ^ (number >> 31)) * 0xBF58476D1CE4E5B9 >> 20 & 0xFFFFFFFF
