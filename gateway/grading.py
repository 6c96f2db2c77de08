"""The shipped classifier behind the seam of ``choosing``: reads texts, holds each route's objective.

An objective is held for all that follow it together: the route's own, and each that keys and requests ask
for. Of those that nobody asked for lately the state is forgotten.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.catalogue import Model, Target
from gateway.choosing import Reading
from gateway.embeddings import Reader, reader
from gateway.settings import Objective
from routing import complexity
from routing.complexity import WINDOW, Classifier
from routing.embedding import Facts, StaticEmbedder, join, load_classifier, load_examples, load_facts
from routing.explaining import Example, Explanation, effects, nearest
from routing.features import NAMES
from routing.feedback import Feedback
from routing.objectives import Aim, Placement, Shares, Spending, Steps

MEMO_TEXTS, MEMO_CHARS = 4096, 1000  # the same question need not be read twice: at most 16 MiB
MOST_AIMS = 256
TYPICAL_TOKENS = (300, 200)  # of prompt and answer, until a tier's own requests have told their cost


class Grading:
    """One reader and classifier for all routes; ``processes`` tells how many part the traffic."""

    def __init__(
        self,
        reader: Reader,
        classifier: Classifier,
        facts: Facts,
        now: Callable[[], float],
        processes: int = 1,
    ) -> None:
        self._reader = reader
        self.classifier = classifier
        self.facts = facts
        self._now = now
        self.embedded_s = 0.0
        self._processes, self._together = processes, False
        self._aims: OrderedDict[tuple[str, tuple[str, ...], Objective], Aim] = OrderedDict()
        self._seen: dict[str, deque[float]] = {}
        self._known = lru_cache(MEMO_TEXTS)(self._read)
        self.curves: dict[str, list[float]] = {}
        """Quality by share as a route's own labels tell it."""
        self.challengers: dict[tuple[str, str], Feedback] = {}
        """What a tenant's labels taught, by route and tenant."""
        self._precise: Classifier | None = None
        self._examples: tuple[list[Example], NDArray[np.float32]] | None = None

    @classmethod
    def load(cls, now: Callable[[], float], processes: int = 1, table: Reader | None = None) -> Self:
        """Load the shipped weights; ``table`` in place of the process's reader, where a thread has its own.

        Raises OSError or ValueError where they are missing or broken.
        """
        return cls(table or reader(), load_classifier(), load_facts(), now, processes)

    @cached_property
    def version(self) -> str:
        """Name the weights: scores of others are in another order."""
        parts = msgspec.structs.astuple(self.classifier.head)
        return blake2b(b"".join(one.tobytes() for one in parts), digest_size=6).hexdigest()

    def read(self, text: str) -> Reading:
        """See ``Grader.read``."""
        return self._known(text) if len(text) <= MEMO_CHARS else self._read(text)

    def _read(self, text: str) -> Reading:
        columns = self._reader.columns(text)
        self.embedded_s = self._now()
        return Reading(self.classifier.score(columns), columns, complexity.readable(columns))

    def sharpened(self, fast: Reading, vector: NDArray[np.float32]) -> Reading:
        """Give the precise grade's reading, from the encoder's unit vector. Raises ValueError."""
        if self._precise is None:
            self._precise = load_classifier(name="precise.npz")
        columns = join(fast.columns[None, :], vector[None, :])[0]
        if len(columns) != (wanted := len(self._precise.head.slopes)):
            had = len(vector)
            raise ValueError(
                f"the precise grade reads vectors of {had + wanted - len(columns)}, not of {had}"
            )
        return Reading(self._precise.score(columns), columns, fast.sure, precise=True)

    def adapted(self, reading: Reading, target: Target, tenant: str) -> Reading:
        """See ``Grader.adapted``; only the fast grade's readings are adapted."""
        challenger = self.challengers.get((target.route, tenant)) if self.challengers else None
        if challenger is None or reading.precise or not reading.sure:
            return reading
        score = float(challenger.score(reading.columns[None, :], np.array([reading.score]))[0])
        return msgspec.structs.replace(reading, score=score, own=reading.score)

    def explain(self, reading: Reading) -> Explanation:
        """Say why a text has its score, as the fast grade sees it; takes a millisecond."""
        columns = reading.columns[: len(self.classifier.head.slopes)].copy()
        if reading.precise:  # there the fast grade's vector is a half
            columns[len(NAMES) :] *= 2.0**0.5
        typical = np.array(self.facts.typical, np.float32)
        found = effects(self.classifier, columns, typical) if len(typical) else []
        if self._examples is None:
            examples, reader = load_examples(), StaticEmbedder.load()  # ours reads for the event loop
            self._examples = examples, np.stack([reader.embed(one.text) for one in examples])
        known, vectors = self._examples
        return Explanation(found, nearest(columns[len(NAMES) :], vectors, known))

    def place(self, target: Target, aim: Objective, score: float, least: int) -> Placement:
        """See ``Grader.place``."""
        seen = self._seen.get(target.route)
        if seen is None:
            seen = self._seen[target.route] = deque(self.facts.score_quantiles, WINDOW)
        seen.append(score)
        return self.aim(target, aim).place(score, least)

    def thresholds(self, target: Target, aim: Objective | None = None) -> list[float]:
        """Give the scores from which on each tier above the cheapest is wanted now; no query is remembered.

        Without an ``aim`` the route's own holds.
        """
        return self.aim(target, aim or target.objective).thresholds()

    def spent(self, target: Target, aim: Objective, model: Model, usd: float) -> None:
        """Learn what a routed request has cost."""
        if model in target.models:
            self.aim(target, aim).spent(target.models.index(model), usd)

    def aim(self, target: Target, objective: Objective) -> Aim:
        """Give what holds an objective on a route."""
        key = (target.route, target.names, objective)
        held = self._aims.get(key)
        if held is None:
            held = self._aims[key] = self._start(target, objective)
            if self._together and isinstance(held, Shares):
                held.part(self._processes)
            if len(self._aims) > MOST_AIMS:
                self._aims.popitem(last=False)
        elif len(self._aims) > MOST_AIMS // 2:
            self._aims.move_to_end(key)
        return held

    def share_for(self, route: str, quality: float) -> float:
        """Give the share of the largest tier that reaches a share of its quality, as far as is known."""
        return complexity.share_for_quality(self.curves.get(route, self.facts.quality_by_share), quality)

    def teach(self, curves: dict[str, list[float]], challengers: dict[tuple[str, str], Feedback]) -> None:
        """Put in force what was learnt, and nothing else."""
        changed = [one for one in {*self.curves, *curves} if self.curves.get(one) != curves.get(one)]
        self.curves, self.challengers = curves, challengers
        for route in changed:
            self._recalibrate(route)

    def _recalibrate(self, route: str) -> None:
        """Have the qualities of a route held by its own curve from now on."""
        for (name, _, objective), aim in self._aims.items():
            if name == route and objective.quality is not None and isinstance(aim, Shares):
                aim.aim(self.share_for(route, objective.quality))

    def parted(self, processes: int) -> dict[tuple[str, tuple[str, ...], Objective], Shares]:
        """Have shares held together with other processes; gives what holds each, by what that is."""
        self._processes, self._together = processes, True
        held = {key: aim for key, aim in self._aims.items() if isinstance(aim, Shares)}
        for aim in held.values():
            aim.part(processes)
        return held

    def recent(self) -> dict[str, list[float]]:
        """Give the latest scores of each route, whatever its requests aim at; at first the prior's."""
        return {route: list(seen) for route, seen in self._seen.items()}

    def _start(self, target: Target, objective: Objective) -> Aim:
        prior, tiers = self.facts.score_quantiles, len(target.models)
        if objective.threshold is not None:
            return Steps(objective.threshold, tiers)
        if objective.cost_per_request_usd is not None:
            costs = [typical_usd(model) for model in target.models]
            return Spending(objective.cost_per_request_usd, costs, prior, self._processes)
        share = objective.large_share
        if share is None:
            share = self.share_for(target.route, objective.quality or 0.0)
        return Shares(share, tiers, prior, self._processes)


def typical_usd(model: Model) -> float:
    """Give what a typical request of a model costs by the price of the file."""
    price = model.settings.price
    if price is None:
        return 0.0
    prompt, answer = TYPICAL_TOKENS
    return price.request + (price.input * prompt + price.output * answer) / 1e6
