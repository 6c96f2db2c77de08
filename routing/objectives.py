"""What a route aims at, held live: fixed thresholds, a share of the largest tier, or a cost per request.

Pure. Every boundary between two tiers hears of every query, or its share would be one of a part of the
stream. A cost is held by way of the share: what each tier's requests cost is learnt from those that ended.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import msgspec

from routing import complexity
from routing.complexity import ShareController

_LEARNING = 0.05  # of a tier's cost, with each request
_NUDGE = 100.0  # requests over which a saving, or what was spent too much, is evened out


class Placement(msgspec.Struct, frozen=True):
    """A tier, 0 the cheapest, and the threshold of the boundary above it (of the last one, at the top)."""

    tier: int
    threshold: float


class Aim(Protocol):
    """Places queries one after the other."""

    def place(self, score: float, least: int = 0) -> Placement:
        """Place the next query, on tier `least` at least, and remember it."""

    def thresholds(self) -> list[float]:
        """Give the scores from which each tier above the cheapest is wanted now."""

    def spent(self, tier: int, usd: float) -> None:
        """Learn what a request of a tier has cost."""


class Steps:
    """Fixed thresholds: what a threshold for the largest tier means in between, in even steps."""

    def __init__(self, threshold: float, tiers: int) -> None:
        self._steps = [threshold * boundary / (tiers - 1) for boundary in range(1, tiers)]

    def place(self, score: float, least: int = 0) -> Placement:
        """See ``Aim.place``."""
        tier = max(least, complexity.choose(score, self._steps))
        return Placement(tier, self._steps[min(tier, len(self._steps) - 1)])

    def thresholds(self) -> list[float]:
        """See ``Aim.thresholds``."""
        return self._steps

    def spent(self, tier: int, usd: float) -> None:
        """Costs change nothing here."""


class Shares:
    """A share of the queries for the largest tier; see ``ShareController`` for how close it is held."""

    def __init__(self, share: float, tiers: int, prior: Sequence[float], processes: int = 1) -> None:
        """`prior` are quantiles of scores at even steps, `processes` how many part the stream."""
        shares = complexity.tier_shares(share, tiers)
        self._boundaries = [ShareController.start(one, prior, processes) for one in shares]

    def place(self, score: float, least: int = 0) -> Placement:
        """See ``Aim.place``."""
        if len(self._boundaries) == 1:
            only = self._boundaries[0].decide(score, least > 0)
            return Placement(int(only.above), only.threshold)
        decided = [one.decide(score, place < least) for place, one in enumerate(self._boundaries)]
        above = [one.above for one in decided]
        tier = above.index(False) if False in above else len(above)
        tier = max(tier, least)
        return Placement(tier, decided[min(tier, len(decided) - 1)].threshold)

    def thresholds(self) -> list[float]:
        """See ``Aim.thresholds``."""
        return [one.threshold() for one in self._boundaries]

    @property
    def recent(self) -> list[float]:
        """The latest scores."""
        return self._boundaries[-1].recent

    def raised(self) -> None:
        """Hear that a query which was placed lower came to the top after all: it counts for the share."""
        for one in self._boundaries:
            one.raised()

    def aim(self, share: float) -> None:
        """Hold another share from now on."""
        for one, wanted in zip(
            self._boundaries, complexity.tier_shares(share, len(self._boundaries) + 1), strict=True
        ):
            one.share = wanted

    def spent(self, tier: int, usd: float) -> None:
        """Costs change nothing here."""


class Spending(Shares):
    """A mean cost per request: the share that it allows, given what each tier's requests cost lately."""

    def __init__(
        self, usd: float, costs_usd: Sequence[float], prior: Sequence[float], processes: int = 1
    ) -> None:
        """`costs_usd` is what a request of each tier is first thought to cost."""
        super().__init__(share_for_cost(usd, costs_usd), len(costs_usd), prior, processes)
        self._usd = usd
        self._saved_usd = 0.0
        self.costs_usd = list(costs_usd)

    def spent(self, tier: int, usd: float) -> None:
        """See ``Aim.spent``; what was saved may be spent, what was spent too much is saved."""
        self.costs_usd[tier] += _LEARNING * (usd - self.costs_usd[tier])
        most = _NUDGE * self._usd
        self._saved_usd = max(-most, min(most, self._saved_usd + self._usd - usd))
        self.aim(share_for_cost(max(0.0, self._usd + self._saved_usd / _NUDGE), self.costs_usd))


def share_for_cost(usd: float, costs_usd: Sequence[float]) -> float:
    """Give the share of the largest tier at which a request costs `usd` in the mean; 0 or 1 where none does.

    `costs_usd` are those of the tiers, cheapest first.
    """
    low, high = 0.0, 1.0
    if usd <= mean_cost(low, costs_usd):
        return low
    if usd >= mean_cost(high, costs_usd):
        return high
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_cost(middle, costs_usd) < usd else (low, middle)
    return low


def mean_cost(share: float, costs_usd: Sequence[float]) -> float:
    """Give what a request costs in the mean where the largest of the tiers has `share`."""
    steps = zip(complexity.tier_shares(share, len(costs_usd)), itertools.pairwise(costs_usd), strict=True)
    return costs_usd[0] + sum(part * (above - below) for part, (below, above) in steps)
