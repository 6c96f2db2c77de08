"""The verifier: the chance that an answer is right, learned online from judged comparisons. Pure.

A logistic model over the evidence, one for each route and pooled over its entries. It starts from shipped
weights (``prior``) and is pulled back to them where nothing speaks against.
Every judged comparison is also kept for a while and learned again: a few hundred have to suffice.
"""

import math
from collections.abc import Sequence

import numpy as np

from semantic_cache.lasting import Lasting
from semantic_cache.verify import BUCKETS, NAMES, Evidence, Floats

_RATE = 0.15  # of the dense weights; AdaGrad divides it by what was learned before
_HASHED_RATE = 0.3
_PULL = 1e-4  # back to the prior
_HASHED_PULL = 1e-3
_MEMORY = 6_000  # comparisons
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
        self._kept: list[tuple[Evidence, float, float]] = []
        self._count = 0

    def logit(self, evidence: Evidence) -> float:
        """Give the log odds that the answer is right."""
        return float(self._dense @ evidence.dense + self._hashed[evidence.buckets] @ evidence.weights)

    def learn(self, judged: Sequence[tuple[Evidence, bool]], weight: float) -> None:
        """Learn from comparisons that were judged, each counting `weight`."""
        for evidence, right in judged:
            self._step(evidence, float(right), weight)
            self._keep((evidence, float(right), weight))
            for rehearsal in range(_REHEARSALS):
                draw = _spread(self._count * _REHEARSALS + rehearsal)
                self._step(*self._kept[draw % len(self._kept)])

    def _keep(self, item: tuple[Evidence, float, float]) -> None:
        if len(self._kept) < _MEMORY:
            self._kept.append(item)
        else:
            self._kept[self._count % _MEMORY] = item
        self._count += 1

    def _step(self, evidence: Evidence, right: float, weight: float) -> None:
        error = (_chance(self.logit(evidence)) - right) * weight
        slope = error * evidence.dense + _PULL * (self._dense - self._prior)
        self._dense_seen += slope * slope
        self._dense -= _RATE * slope / np.sqrt(self._dense_seen)
        at = evidence.buckets
        slope = (error + _HASHED_PULL * self._hashed[at]) * evidence.weights
        self._hashed_seen[at] += slope * slope
        self._hashed[at] -= _HASHED_RATE * slope / np.sqrt(self._hashed_seen[at])


def _spread(number: int) -> int:
    """Spread a counter evenly: rehearsal needs variety, not chance."""
    number = (number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    return (number ^ (number >> 31)) * 0xBF58476D1CE4E5B9 >> 20 & 0xFFFFFFFF


def _chance(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, logit))))
