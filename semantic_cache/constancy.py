"""Do answers last? Exact repeats are asked anew now and then: what is served unseen would never tell. Pure.

Two ways in which answers change are told apart. All at once (another corpus, another model behind the name):
several fresh answers in a row are not the kept ones; whatever was kept before has to be confirmed anew. One
by one: answers have a rate at which they change, learned from how old they were when they were found right
or changed; one that is likelier changed than the bound allows is asked anew, so each has a life time that
nobody had to set. Time is counted in queries.
"""

import math

from semantic_cache.lasting import Lasting

_ASKED = 3e-4  # of exact repeats, over the error bound, are asked anew in any case: 3 % at 1 %
_LEAST_ASKED, _MOST_ASKED = 0.03, 0.1
_ALARM = 4.0  # log of the odds that all have changed
_CHANGED = 0.5  # share of fresh answers that differ then
_LEAST = 0.01  # share that differs else, at the least
_KNOWN = 20.0  # answers, all the same, that this begins with


class Constancy(Lasting):
    """Sums up the evidence of what was asked anew."""

    LASTS = ("_asked", "_ages", "_differed", "_lately", "_suspicion", "changes")

    def __init__(self) -> None:
        self._asked = 0
        self._ages = 0.0  # of all that was asked anew, summed up
        self._differed = 0.0
        self._lately = 0.0  # differed, and may be part of a change of all
        self._suspicion = 0.0
        self.changes = 0

    def lasting(self, age: float, bound: float) -> bool:
        """Tell whether an answer has changed with a chance of `bound` at most; `age` since it was right."""
        return self._differed * age <= -math.log1p(-bound) * self._ages

    def share(self, bound: float) -> float:
        """Give the share of exact repeats to be asked anew now: a tighter bound has to notice sooner."""
        usual = max(_LEAST_ASKED, min(_MOST_ASKED, _ASKED / bound))
        return max(usual, min(1.0, self._suspicion / _ALARM))

    @property
    def suspected(self) -> bool:
        """Whether something speaks for a change of all."""
        return self._suspicion > 0

    def note(self, age: float, same: bool, noise: float) -> bool:
        """Note whether the fresh answer is the kept one, of that age; tells whether all have changed.

        `noise`: how often two fresh answers to one question differ. So much of it is no change.
        """
        usual = min(0.4, max(_LEAST, noise + self._differed / (self._asked + _KNOWN)))
        step = math.log((1 - _CHANGED) / (1 - usual)) if same else math.log(_CHANGED / usual)
        self._suspicion = max(0.0, self._suspicion + step)
        self._asked += 1
        self._ages += age
        self._lately += (not same) - noise
        if self._suspicion > _ALARM:
            self._suspicion, self._lately = 0.0, 0.0
            self._differed += 1.0
            self.changes += 1
            return True
        if not self._suspicion:
            self._differed, self._lately = max(0.0, self._differed + self._lately), 0.0
        return False
