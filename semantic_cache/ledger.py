"""How wrong the cache is, and how far it may open: the threshold that an error bound allows. Pure.

Every query falls into a bin by the score that it had before its outcome was known (prequential: nothing is
scored by a model that learned from it). Misses are judged for free, hits where an audit was drawn; within a
bin that is a fair sample, so the share of wrong ones among the judged stands for all of it, with an upper
confidence bound. Where nobody has judged yet, the model's own word counts for a few, at a discount.

Two bounds: wrong hits / all queries, and (optionally) wrong hits / hits. Evidence fades over a long window; a
short one beside it is heard where it says something worse; and when what is judged goes wrong faster than the
bins say, most of the evidence is forgotten and the model's word is doubted more: the cache narrows or closes
until trust has been earned again.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from semantic_cache.lasting import Lasting
from semantic_cache.verify import Floats

_LOWEST, _STEP, _BINS = -3.0, 0.25, 52  # log odds: up to 10
_LEVELS = _LOWEST + _STEP * np.arange(_BINS)
_WORD = 1 / (1 + np.exp(_LEVELS + _STEP / 2))  # the model's own word on how many of a bin are wrong
_REPEATS = 64  # exact ones that are counted together: they only widen what is allowed
_PATIENCE = 8  # right outcomes after which the threshold is set anew; after a wrong one it is at once


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows: wrong hits / all queries, wrong hits / hits (1.0: not bounded)."""

    error: float
    precision: float = 1.0


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How cautious the ledger is; the same everywhere."""

    aim: float = 0.7  # of the bound
    confidence: float = 1.28  # standard deviations above the estimate of wrong hits / all queries
    focus: float = 0.9  # of the bound on wrong hits / hits
    assurance: float = 1.0  # standard deviations of their number, chance included
    window: float = 3000.0  # queries
    short: float = 400.0
    horizon: float = 2000.0  # queries over which what was not spent may be spent
    most: float = 1.5  # of the bound: what a stretch may be allowed at the most
    prior: float = 6.0  # judged hits that the model's own word counts as
    doubt: float = 1.5  # the model's own word times this,
    least: float = 0.025  # but never below this: what the evidence cannot see
    slack: float = 1.5  # wrong hits that nobody has seen yet
    alarm: float = 4.0
    worst: float = 0.2  # share of wrong ones at which a hit is never worth it, whatever the bounds


STANDARD = Tuning()


class Ledger(Lasting):
    """Keeps the bins and gives the threshold. Scores are log odds of being right."""

    LASTS = (
        "_long", "_short", "_queries", "_short_queries", "_faded_hits", "total", "served", "audited",
        "wrong_found", "_unjudged", "_life", "_suspicion", "alarms", "_doubt", "threshold",
        "_charged", "_alone",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, tuning: Tuning = STANDARD) -> None:
        self.bounds = bounds
        self._tuning = tuning
        self._long = np.zeros((3, _BINS))  # seen, judged, wrong: faded
        self._short = np.zeros((3, _BINS))
        self._queries = self._short_queries = 0.0  # faded
        self._faded_hits = 0.0  # exact ones
        self.total = 0
        self.served = 0
        self.audited = 0
        self.wrong_found = 0
        self._unjudged = np.zeros(_BINS)  # hits served and not judged, over the whole life
        self._life = np.zeros((2, _BINS))
        self._since = np.zeros(_BINS)  # of the unjudged: those since what speaks for a change began,
        self._since_judged = self._since_wrong = 0  # and the outcomes at such scores since then
        self._charged = 0.0  # wrong hits of the time before a change was noticed, as it turned out to be
        self._alone = 1.0  # share of lone questions in what was asked lately
        self._suspicion = 0.0
        self.alarms = 0
        self._doubt = 1.0
        self.threshold = math.inf
        self._repeats = 0  # exact ones that are not counted yet
        self._news = 0  # outcomes since the threshold was set
        self._lifelong: Floats | None = None  # the rates of the whole life, until there is another outcome
        self._expected = self._rates(self._long)

    def state(self) -> dict[str, Any]:
        """Give what lasts, with all that was counted."""
        self._fade(0)
        return super().state()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take what lasts, and judge it by the bounds of today."""
        super().resume(state)
        self._lifelong = None
        self._decide()

    def pass_exact(self) -> None:
        """Count a query that was answered by an exact repeat."""
        self._repeats += 1
        if self._repeats == _REPEATS:
            self._fade(0)

    def pass_aside(self) -> None:
        """Take note of a turn after others: the bound is not taken over those.

        Where many follow, a wrong first answer is read on by all of them: the bound on lone questions is
        tightened then, to a half at the most.
        """
        self._alone -= self._alone / self._tuning.short

    def pass_empty(self) -> None:
        """Count a query that had no candidate."""
        self._fade()

    def enter(self, score: float, served: bool) -> None:
        """Count a query with a candidate of this score; whether it was served without (yet) being judged."""
        self._fade()
        self.see(score)
        if served:
            self.served += 1
            self._unjudged[max(_bin(score), 0)] += 1
            self._since[max(_bin(score), 0)] += 1

    @property
    def closed(self) -> bool:
        """Whether nothing is served, however it scores."""
        return self.threshold == math.inf

    def see(self, score: float, count: int = 1) -> None:
        """Note the score of so many queries, which are counted on their own."""
        at = _bin(score)
        if at >= 0:
            self._long[0, at] += min(count, self._tuning.window)
            self._short[0, at] += min(count, self._tuning.short)

    def judge(self, score: float, right: bool, served: bool) -> None:
        """Note the outcome of a query that was entered before: an audit if it was served, else a miss."""
        at = _bin(score)
        if served:
            self.audited += 1
            self.wrong_found += not right
            self._unjudged[max(at, 0)] -= 1
            self._since[max(at, 0)] = max(0.0, self._since[max(at, 0)] - 1)
        if at < 0:
            return
        expected, self._lifelong = self._expected[at], None
        for window in (self._long, self._short, self._life):
            window[-2, at] += 1
            window[-1, at] += not right
        self._since_judged += score >= self.threshold
        self._since_wrong += score >= self.threshold and not right
        if score >= self.threshold - 1.0:
            self._watch(right, float(expected))
        self._news += 1
        if self._news >= _PATIENCE or not (right or score < self.threshold):
            self._decide()

    def _watch(self, right: bool, expected: float) -> None:
        """Sum up the evidence that things go wrong three times as often as expected."""
        expected = max(expected, 0.003)
        worse = min(0.9, 3 * expected)
        step = math.log((1 - worse) / (1 - expected)) if right else math.log(worse / expected)
        self._suspicion = max(0.0, self._suspicion + step)
        self._doubt = max(1.0, self._doubt * (0.97 if right else 1.0))
        if self._suspicion > self._tuning.alarm:
            self._charge()
            self.doubt()
        if not self._suspicion:
            self._since[:] = 0.0
            self._since_judged = self._since_wrong = 0

    def _charge(self) -> None:
        """Book the hits since a change began by what was seen since then, where that is worse than before."""
        rate = (self._since_wrong + self._tuning.least) / (self._since_judged + 1)
        self._charged += float(self._since @ np.maximum(self._rates(self._life), rate))
        self._unjudged -= self._since

    def doubt(self) -> None:
        """Forget most of the evidence: what it was taken from is no more."""
        self.alarms += 1
        self._lifelong = None
        self._doubt = min(8.0, self._doubt * 2)
        self._suspicion = 0.0
        self._long *= 0.25
        self._queries *= 0.25
        self._life *= 0.25

    @property
    def unrest(self) -> float:
        """How much speaks for a change, in [0, 1)."""
        return max(1 - 1 / self._doubt, min(1.0, self._suspicion / self._tuning.alarm))

    def _fade(self, queries: int = 1) -> None:
        """Let evidence fade by so many queries, behind the exact repeats that are not counted yet."""
        repeats, self._repeats = self._repeats, 0
        count, before = queries + repeats, self.total
        self.total += count
        tuning = self._tuning
        self._alone = 1 - (1 - self._alone) * (1 - 1 / tuning.short) ** count
        keep = (1 - 1 / tuning.window) ** count
        self._long *= keep
        self._queries = self._queries * keep + tuning.window * (1 - keep)
        own = (1 - 1 / tuning.window) ** queries
        self._faded_hits = self._faded_hits * keep + own * tuning.window * (1 - keep / own)
        keep = (1 - 1 / tuning.short) ** count
        self._short *= keep
        self._short_queries = self._short_queries * keep + tuning.short * (1 - keep)
        if queries and self.total // 16 > before // 16:
            self._decide()

    def _rates(self, window: Floats) -> Floats:
        """Give the expected share of wrong ones in each bin, falling with the score."""
        judged, wrong = window[-2], window[-1]
        tuning = self._tuning
        word = np.clip(self._doubt * tuning.doubt * _WORD, self._doubt * tuning.least, 1.0)
        return _falling((wrong + tuning.prior * word) / (judged + tuning.prior), judged + tuning.prior)

    def _likely(self) -> tuple[Floats, Floats, Floats]:
        """Give the rates or worse ones seen lately; the wrong hits from each bin upwards, their deviation."""
        rates = self._expected
        spread = rates * (1 - rates) / (self._long[1] + self._tuning.prior + 1)
        rates = np.maximum(rates, (self._short[2] + 15 * rates) / (self._short[1] + 15))
        seen = self._long[0]
        return rates, _above(seen * rates), np.sqrt(_above(seen * seen * spread))

    def wrong_estimate(self) -> float:
        """Give the wrong hits so far: those found, and those expected among the hits that nobody judged."""
        if self._lifelong is None:
            self._lifelong = self._rates(self._life)
        return self.wrong_found + self._charged + float(self._unjudged @ self._lifelong)

    def _decide(self) -> None:
        """Set the threshold: the lowest whose bounded error fits what is allowed from here on."""
        tuning, bound, self._news = self._tuning, self.bounds.error * (1 + self._alone) / 2, 0
        self._expected = self._rates(self._long)
        if self.total < 50:
            return
        allowed = (
            tuning.aim * bound * (self.total + tuning.horizon) - self.wrong_estimate()
        ) / tuning.horizon
        allowed = max(0.0, min(allowed, tuning.most * bound))
        rates, wrong, deviation = self._likely()
        upper = wrong + tuning.confidence * deviation + tuning.slack
        fits = (upper <= allowed * self._queries) & (rates <= tuning.worst)
        closed = np.flatnonzero(~fits)  # wrong hits only add up downwards: the last that does not fit ends it
        open_from = int(closed[-1]) + 1 if len(closed) else 0
        if self.bounds.precision < 1:
            open_from = self._precise_from(open_from, wrong, deviation)
        self.threshold = float(_LEVELS[open_from]) if open_from < _BINS else math.inf

    def _precise_from(self, lowest: int, wrong: Floats, deviation: Floats) -> int:
        """Give the bin, `lowest` or above, from which few enough of the hits are wrong.

        Hits are few, and wrong ones fewer: what chance may add to them is counted too.
        """
        upper = wrong + self._tuning.assurance * np.sqrt(wrong + deviation * deviation)
        hits = _above(self._long[0]) + self._faded_hits
        precise = np.flatnonzero(upper <= self._tuning.focus * self.bounds.precision * hits)
        precise = precise[precise >= lowest]  # not ordered: far up there are too few hits to tell
        return int(precise[0]) if len(precise) else _BINS


def _above(values: Floats) -> Floats:
    """Give the sum from each bin upwards."""
    sums: Floats = np.cumsum(values[::-1])[::-1]
    return sums


def _bin(score: float) -> int:
    return min(_BINS - 1, math.floor((score - _LOWEST) / _STEP)) if score >= _LOWEST else -1


def _falling(rates: Floats, weights: Floats) -> Floats:
    """Give the nearest rates that fall with the score (isotonic regression: what rises is pooled)."""
    pools: list[tuple[float, float, int]] = []  # wrong, judged, bins
    for rate, weight in zip(rates.tolist(), weights.tolist(), strict=True):
        wrong, judged, bins = rate * weight, weight, 1
        while pools and pools[-1][0] * judged < wrong * pools[-1][1]:
            before = pools.pop()
            wrong, judged, bins = wrong + before[0], judged + before[1], bins + before[2]
        pools.append((wrong, judged, bins))
    means = [wrong / judged for wrong, judged, _ in pools]
    return np.repeat(means, [bins for _, _, bins in pools])
