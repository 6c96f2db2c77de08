"""Where answers stand among the texts near a question: votes, nearest texts, what is ahead of what. Pure."""

import math
from collections.abc import Sequence

_CANDIDATES = 3
_SHARPNESS = 15.0  # of the votes of near texts
_LONE = 0.3  # the margin of an answer without a rival


def grouped(answers: Sequence[str], distinct: int) -> tuple[Sequence[str], Sequence[int], Sequence[int]]:
    """Give the answers, best first, the place of the nearest text of each, and each text's answer's place.

    `answers` are those of the texts; so many of them are `distinct`.
    """
    if distinct == len(answers):  # as on a route that is new, or among questions that nobody asks twice
        return answers, range(distinct), range(distinct)
    place = dict[str, int]()
    first, of = list[int](), list[int]()
    for row, answer in enumerate(answers):
        n = place.get(answer)
        if n is None:
            n = place[answer] = len(first)
            first.append(row)
        of.append(n)
    return list(place), first, of


def polled(learned: list[float], of: Sequence[int], answers: int) -> tuple[list[float], list[float]]:
    """Give the votes of the near texts for each answer, and the best cosine among them."""
    exp = math.exp
    if answers == len(learned):
        return [exp((cosine - 1) * _SHARPNESS) for cosine in learned], learned
    votes, nearest = [0.0] * answers, [-1.0] * answers
    for n, cosine in zip(of, learned, strict=True):
        votes[n] += exp((cosine - 1) * _SHARPNESS)
        if cosine > nearest[n]:
            nearest[n] = cosine
    return votes, nearest


def best(votes: list[float], ordered: bool) -> list[int]:
    """Give the answers worth a look, best first: those of most votes, and that of the nearest text.

    `ordered`: whether the votes are so already.
    """
    if ordered:
        return list(range(min(len(votes), _CANDIDATES)))
    chosen = sorted(range(len(votes)), key=votes.__getitem__, reverse=True)[:_CANDIDATES]
    return chosen if 0 in chosen else [*chosen, 0]


class Field:
    """A value of each answer, with the two best of them at hand."""

    __slots__ = ("_best", "_second", "values")

    def __init__(self, values: list[float], leading: Sequence[int] | None = None) -> None:
        """Take the values; `leading` are the places of the best ones, where they are known."""
        self.values = values
        if leading is None:
            leading = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:2]
        self._best = values[leading[0]]
        self._second = values[leading[1]] if len(values) > 1 else -math.inf

    def best_other(self, at: int, otherwise: float) -> float:
        """Give the best value but that one."""
        if len(self.values) == 1:
            return otherwise
        return self._second if self.values[at] == self._best else self._best

    def margin(self, at: int) -> float:
        """Give what a value is ahead of the best other one, within bounds."""
        mine = self.values[at]
        ahead = mine - self.best_other(at, mine - _LONE)
        return -0.4 if ahead < -0.4 else min(ahead, 0.4)
