"""What a route aims at, held live: fixed thresholds, a share of the largest tier, or a cost per request.

Pure. Every boundary between two tiers hears of every query, or its share would be one of a part of the
stream. A cost is held by way of the share: what each tier's requests cost is learnt from those that ended.

Processes that part one stream hold one share together: each may owe its part of half the slack, and the other
half is a pot, into which they put what they owe and from which they take their part (``settle``). All that is
owed is never more than the slack, so that the share is held whoever gets how much of the traffic, and while
nobody can be asked. One process's debt is paid by another's saving, and all hear all scores, so that they
have one threshold: who gets the hard queries sends more of them up.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from routing import complexity
from routing.complexity import PARTED_SLACK, WINDOW, ShareController

_LEARNING = 0.05  # of a tier's cost, with each request; of the first ones more, so that they count alike
_NUDGE = 100.0  # requests over which a saving, or what was spent too much, is evened out
POT = PARTED_SLACK / 2  # the most that processes owe together in the pot


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
        self._fresh: deque[float] | None = None

    def part(self, processes: int) -> None:
        """Hold the share together with others from now on; `processes` are all of them."""
        if self._fresh is None:
            self._fresh = deque(maxlen=WINDOW)
        for one in self._boundaries:
            one.slack = part_of(processes)

    def tell(self) -> list[float]:
        """Give the scores that the others have not heard, WINDOW at most, and forget that."""
        fresh = self._fresh if self._fresh is not None else deque[float]()
        told = list(fresh)
        fresh.clear()
        return told

    def hear(self, scores: Sequence[float]) -> None:
        """Take in the scores of other processes' queries."""
        for one in self._boundaries:
            one.hear(scores)

    @property
    def owed(self) -> list[float]:
        """What each boundary owes, in queries: above 0 more should have gone up."""
        return [one.owed for one in self._boundaries]

    def paid(self, owed: Sequence[float]) -> None:
        """Take note that so much of what each boundary owed is owed by others now."""
        for one, much in zip(self._boundaries, owed, strict=True):
            one.owed -= much

    def place(self, score: float, least: int = 0) -> Placement:
        """See ``Aim.place``."""
        if self._fresh is not None:
            self._fresh.append(score)
        if len(self._boundaries) == 1:
            only = self._boundaries[0].decide(score, least > 0)
            return Placement(int(only.above), only.threshold)
        tier, decided = 0, []
        for place in range(len(self._boundaries) - 1, -1, -1):  # what goes above one goes above those below
            choice = self._boundaries[place].decide(score, tier > 0 or place < least)
            decided.append(choice)
            if choice.above and not tier:
                tier = place + 1
        decided.reverse()
        return Placement(tier, decided[min(tier, len(decided) - 1)].threshold)

    def thresholds(self) -> list[float]:
        """See ``Aim.thresholds``."""
        return [one.threshold() for one in self._boundaries]

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
        self._guessed_usd, self._seen = list(costs_usd), [0] * len(costs_usd)
        self._dearer = 1.0  # what requests cost beside what was guessed, whatever the tier
        self.costs_usd = list(costs_usd)

    def spent(self, tier: int, usd: float) -> None:
        """See ``Aim.spent``; what was saved may be spent, what was spent too much is saved."""
        self._learn(tier, usd)
        most = _NUDGE * self._usd
        self._saved_usd = max(-most, min(most, self._saved_usd + self._usd - usd))
        self.aim(share_for_cost(max(0.0, self._usd + self._saved_usd / _NUDGE), self.costs_usd))

    def _learn(self, tier: int, usd: float) -> None:
        """Learn what a tier costs, and from it what those do that have not been asked.

        They would never be where they were guessed too dear: all are asked requests of about one length.
        """
        costs, guessed, seen = self.costs_usd, self._guessed_usd, self._seen
        if guessed[tier]:
            self._dearer += max(_LEARNING, 1 / (1 + sum(seen))) * (usd / guessed[tier] - self._dearer)
        seen[tier] += 1
        costs[tier] += max(_LEARNING, 1 / (1 + seen[tier])) * (usd - costs[tier])
        for other, asked in enumerate(seen):
            if not asked:
                costs[other] = guessed[other] * self._dearer


def part_of(processes: int) -> float:
    """Give the most that one of `processes` may owe beside the pot."""
    return (PARTED_SLACK - POT) / processes


def settle(pot: float, owed: float, processes: int) -> tuple[float, float]:
    """Give what a pot and one of `processes` owe after they shared it out; the sum of both stays.

    The pot owes no more than half the slack.
    """
    total = pot + owed
    most = part_of(processes)
    kept = min(most, max(-most, total / processes))
    left = min(POT, max(-POT, total - kept))
    return left, total - left


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
