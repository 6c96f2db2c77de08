"""The shipped classifier behind the seam of ``choosing``: scores texts, keeps each route's objective."""

from collections.abc import Callable
from functools import lru_cache
from typing import Self

from gateway.catalogue import Target
from gateway.settings import Objective
from routing import complexity
from routing.complexity import Classifier, ShareController
from routing.embedding import Facts, StaticEmbedder, load_classifier, load_facts

MEMO_TEXTS, MEMO_CHARS = 4096, 1000  # the same question need not be read twice: at most 16 MiB


class Grading:
    """One embedder and classifier for all routes; a controller for each boundary between two tiers."""

    def __init__(
        self, embedder: StaticEmbedder, classifier: Classifier, facts: Facts, now: Callable[[], float]
    ) -> None:
        self._embedder = embedder
        self._classifier = classifier
        self._facts = facts
        self._now = now
        self.embedded_s = 0.0
        self._controllers: dict[tuple[str, Objective, int], list[ShareController]] = {}
        self._known = lru_cache(MEMO_TEXTS)(self._scored)

    @classmethod
    def load(cls, now: Callable[[], float]) -> Self:
        """Load the shipped weights. Raises OSError or ValueError where they are missing or broken."""
        return cls(StaticEmbedder.load(), load_classifier(), load_facts(), now)

    def score(self, text: str) -> float:
        """Give the expected gain of the largest tier, in [0, 1]; see ``Grader.score``."""
        return self._known(text) if len(text) <= MEMO_CHARS else self._scored(text)

    def _scored(self, text: str) -> float:
        columns = self._embedder.columns(text)
        self.embedded_s = self._now()
        return self._classifier.score(columns)

    def tier(self, target: Target, score: float) -> int:
        """Give the tier's index, 0 the cheapest; see ``Grader.tier``."""
        objective, tiers = target.objective or Objective(large_share=0.0), len(target.models)
        if objective.threshold is not None:
            return complexity.choose(score, _steps(objective.threshold, tiers))
        controllers = self._kept(target.route, objective, tiers)
        # Every boundary hears of every query, or its share would be one of a part of the stream.
        above = [controller.decide(score).above for controller in controllers]
        return above.index(False) if False in above else len(above)

    def thresholds(self, target: Target) -> list[float]:
        """Give the scores from which on each tier above the cheapest is wanted now; nothing is remembered."""
        objective, tiers = target.objective or Objective(large_share=0.0), len(target.models)
        if objective.threshold is not None:
            return _steps(objective.threshold, tiers)
        return [one.threshold() for one in self._kept(target.route, objective, tiers)]

    def _kept(self, route: str, objective: Objective, tiers: int) -> list[ShareController]:
        key = (route, objective, tiers)
        controllers = self._controllers.get(key)
        if controllers is None:
            controllers = self._controllers[key] = self._start(objective, tiers)
        return controllers

    def _start(self, objective: Objective, tiers: int) -> list[ShareController]:
        share = objective.large_share
        if share is None:
            share = complexity.share_for_quality(self._facts.quality_by_share, objective.quality or 0.0)
        prior = self._facts.score_quantiles
        return [ShareController.start(one, prior) for one in complexity.tier_shares(share, tiers)]


def _steps(threshold: float, tiers: int) -> list[float]:
    return [threshold * boundary / (tiers - 1) for boundary in range(1, tiers)]
