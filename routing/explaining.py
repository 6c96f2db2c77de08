"""Why a query has its score: the features that mattered, the kinds of work and the known examples it is near.

Pure. A feature matters as much as the raw score changes when it is set to what is typical; the raw score is
in units of its own, so that effects are told as shares of all of them.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier
from routing.features import NAMES

Floats = NDArray[np.float32]
MOST = 5


class Effect(msgspec.Struct, frozen=True):
    """A feature's share of what moved the score: above 0 it raised it; ``value`` is the feature's."""

    feature: str
    value: float
    share: float


class Near(msgspec.Struct, frozen=True):
    """A known example: its text, the kind of work, the gain expected of that, how alike (cosine)."""

    text: str
    kind: str
    gain: float
    similarity: float


class Explanation(msgspec.Struct, frozen=True):
    """The largest effects first, the nearest examples first."""

    effects: list[Effect]
    examples: list[Near]


class Example(msgspec.Struct, frozen=True):
    """A written request, the kind of work that it stands for, and the gain expected there."""

    text: str
    kind: str
    gain: float


def effects(classifier: Classifier, columns: Floats, typical: Floats) -> list[Effect]:
    """Give the effects of the lexical features of ``columns``, and of the meaning: all of the vector at once.

    ``typical`` are the lexical features of a typical query, (features,).
    """
    whole = classifier.raw(columns)
    changed = columns.copy()
    found = []
    for place, name in enumerate(NAMES):
        kept = float(columns[place])
        changed[place] = typical[place]
        found.append((name, kept, whole - classifier.raw(changed)))
        changed[place] = kept
    changed[len(NAMES) :] = 0.0
    found.append(("meaning", 1.0, whole - classifier.raw(changed)))
    total = sum(abs(effect) for _, _, effect in found) or 1.0
    found.sort(key=lambda one: -abs(one[2]))
    return [
        Effect(name, round(value, 3), round(effect / total, 3))
        for name, value, effect in found[:MOST]
        if effect
    ]


def nearest(vector: Floats, known: Floats, examples: list[Example]) -> list[Near]:
    """Give the examples whose unit vectors ``known`` (n, d) are nearest to ``vector`` (d,)."""
    alike = known @ vector
    return [
        Near(examples[place].text, examples[place].kind, examples[place].gain, round(float(alike[place]), 3))
        for place in np.argsort(-alike)[:3].tolist()
    ]
