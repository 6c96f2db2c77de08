"""APGR with bootstrap intervals: the validation table, and leaving one family out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routing.training.data import FAMILIES, Queries

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Measured(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def apgr(scores: Doubles, gain: Doubles) -> float:
    """Give the area under the share of the gain reached, over the share sent to the large model; random: 0.5.

    Queries with the same score count as their mean, as under a random order among them.
    """
    _, place = np.unique(-scores, return_inverse=True)
    levels = np.bincount(place, gain) / np.bincount(place)
    reached = np.concatenate([[0.0], np.cumsum(levels[np.sort(place)])])
    return float((reached[1:] + reached[:-1]).sum() / 2 / len(gain) / reached[-1])


def samples(scores: Doubles, gain: Doubles, draws: int = 300) -> Doubles:
    """Give bootstrap APGRs, (draws,); draws whose total gain is about none repeat the whole's value."""
    rng = np.random.default_rng(0)
    whole = apgr(scores, gain)
    values = np.full(draws, whole)
    for number in range(draws):
        chosen = rng.integers(0, len(gain), len(gain))
        if gain[chosen].mean() > 1e-3:
            values[number] = apgr(scores[chosen], gain[chosen])
    return values


def summary(parts: dict[str, tuple[Doubles, Doubles]]) -> dict[str, Measured]:
    """Give each part's APGR from its (scores, gain), and their plain mean as `macro`."""
    drawn = {name: samples(*part) for name, part in parts.items()}
    values = {name: apgr(*part) for name, part in parts.items()}
    drawn["macro"] = np.mean(list(drawn.values()), axis=0)
    values["macro"] = float(np.mean(list(values.values())))
    return {name: Measured(values[name], *np.percentile(drawn[name], [2.5, 97.5])) for name in values}


def validation(scores: Doubles, queries: Queries) -> dict[str, Measured]:
    """Give the validation rows by group, their macro mean, and `pooled`: one threshold over all."""
    groups = {name: queries.validation & (queries.groups == name) for name in sorted(set(queries.groups))}
    table = summary({name: (scores[rows], queries.gain[rows]) for name, rows in groups.items()})
    pooled = summary({"pooled": (scores[queries.validation], queries.gain[queries.validation])})
    return table | {"pooled": pooled["pooled"]}


def leave_one_family_out(fit: Callable[[Mask], Doubles], queries: Queries) -> dict[str, Measured]:
    """Give the APGR on all rows of each family by a head that `fit` trained without that family."""
    parts = {}
    for family, datasets in FAMILIES.items():
        rows = np.isin(queries.datasets, datasets)
        parts[family] = (fit(queries.learnable() & ~rows)[rows], queries.gain[rows])
    return summary(parts)
