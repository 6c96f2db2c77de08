"""What outcomes of one's own traffic teach: quality by share, regret, and a challenger for the shipped order.

Pure. A label tells how good the smallest and the largest tier's answers to one query were, or one of the two:
then the other counts as its mean. The challenger is judged on labels that it was not fitted on, and is in
force only while it orders them better by a margin.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.complexity import quality_curve
from routing.feedback import LEAST_LABELS, Feedback

Doubles = NDArray[np.float64]
LEAST_FOR_CURVE = 50  # labels with both outcomes
LEAST_FOR_TRIAL = 100
MARGIN = 0.01  # of APGR
_FOLDS = 5
_STEPS = 101


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """One query's outcomes in [0, 1]; `columns` are float16 bytes, `large_served` which tier answered.

    Score and columns are those of `weights`: with others they say nothing.
    """

    ts: float
    route: str
    tenant: str
    source: str
    score: float
    large_served: bool
    small: float | None = None
    large: float | None = None
    columns: bytes = b""
    weights: str = ""


class Trial(msgspec.Struct, frozen=True):
    """The challenger on labels left out: APGRs of both orders, random = 0.5; `better` by the margin."""

    labels: int
    shipped: float
    challenger: float

    @property
    def better(self) -> bool:
        """Whether the challenger is put in force."""
        return self.challenger >= self.shipped + MARGIN


def outcomes(labels: Sequence[Label]) -> tuple[Doubles, Doubles]:
    """Give the outcomes of both tiers, (n,) each; one that is not known is the mean of those that are."""
    small = np.array([one.small for one in labels], np.float64)
    large = np.array([one.large for one in labels], np.float64)
    for values, otherwise in ((small, 0.5), (large, 0.75)):
        unknown = np.isnan(values)
        values[unknown] = values[~unknown].mean() if not unknown.all() else otherwise
    return small, large


def known_both(labels: Sequence[Label]) -> list[Label]:
    """Give the labels with both outcomes."""
    return [one for one in labels if one.small is not None and one.large is not None]


def calibrated(labels: Sequence[Label]) -> list[float] | None:
    """Give the quality by share, even steps from 0 to 1, that labels with both outcomes tell; None of few.

    Gains are made to rise with the score first (isotonic), so that noise makes no steps.
    """
    both = known_both(labels)
    if len(both) < LEAST_FOR_CURVE:
        return None
    scores = np.array([one.score for one in both])
    small, large = outcomes(both)
    order = np.argsort(scores, kind="stable")
    rising = np.empty(len(both))
    rising[order] = isotonic((large - small)[order])
    curve = quality_curve(scores, small, small + rising)
    curve *= (small + rising).sum() / max(1e-9, large.sum())
    steps = np.linspace(0, len(curve) - 1, _STEPS).round().astype(int)
    found: list[float] = np.maximum.accumulate(curve[steps]).round(6).tolist()
    return found


def isotonic(values: Doubles) -> Doubles:
    """Give the rising sequence nearest to `values` (n,), by pooling neighbours that fall."""
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (above, many), (below, few) = pools.pop(), pools.pop()
            pools.append(((above * many + below * few) / (many + few), many + few))
    return np.repeat([mean for mean, _ in pools], [count for _, count in pools])


def regret(labels: Sequence[Label]) -> float | None:
    """Give by how much the better tier of each query beat the one that served, in the mean; None of none."""
    both = known_both(labels)
    if not both:
        return None
    small, large = outcomes(both)
    served = np.where([one.large_served for one in both], large, small)
    return float((np.maximum(small, large) - served).mean())


def drift(recent: Sequence[float], prior: Sequence[float]) -> float:
    """Give how far live scores are from the prior's quantiles: Kolmogorov-Smirnov distance in [0, 1]."""
    if not recent:
        return 0.0
    live = np.sort(np.asarray(recent))
    at = np.interp(live, prior, np.linspace(0, 1, len(prior)))
    below = np.arange(len(live)) / len(live)
    return float(max(np.abs(at - below).max(), np.abs(at - below - 1 / len(live)).max()))


def tried(labels: Sequence[Label]) -> tuple[Trial, Feedback | None]:
    """Give the challenger's trial, and the challenger itself, fitted on all labels, where it is better."""
    usable = [one for one in labels if one.columns]
    columns = np.stack([np.frombuffer(one.columns, np.float16) for one in usable]).astype(np.float32)
    scores = np.array([one.score for one in usable])
    small, large = outcomes(usable)
    gain = large - small
    predicted = np.zeros(len(usable))
    fold = np.random.default_rng(0).permutation(len(usable)) % _FOLDS
    for number in range(_FOLDS):
        left = fold == number
        fitted = Feedback(columns[~left], scores[~left], gain[~left])
        predicted[left] = fitted.score(columns[left], scores[left])
    trial = Trial(len(usable), round(apgr(scores, gain), 4), round(apgr(predicted, gain), 4))
    return trial, Feedback(columns, scores, gain) if trial.better else None


def apgr(scores: Doubles, gain: Doubles) -> float:
    """Give the area under the share of the gain reached over the share sent up; 0.5 where there is none."""
    if gain.sum() < 1e-9:
        return 0.5
    curve = np.concatenate([[0.0], np.cumsum(gain[np.argsort(-scores, kind="stable")])]) / gain.sum()
    return float((curve[1:] + curve[:-1]).mean() / 2)


assert LEAST_FOR_TRIAL * (_FOLDS - 1) / _FOLDS >= LEAST_LABELS
