"""What differs without changing the answer: a metric of the embedding space, learned on a route. Pure.

Texts that turned out to share an answer show in which directions the wording moves and the answer does not.
Those are shortened (by the inverse root of the scatter within answers, as in linear discriminant analysis):
what remains tells answers apart, also answers never seen before.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from semantic_cache.lasting import Lasting
from semantic_cache.near import Vectors

_EVIDENCE = 100.0  # texts after which the scatter seen counts as much as no preference
_FLOOR = 0.3  # of the mean scatter, added to every direction
_FIRST = 20.0
_MOST_LENGTHS = 50_000
_AT_ONCE = 128  # steps summed up together


class Metric(Lasting):
    """Accumulates the scatter; gives a projection that is refreshed as the evidence grows by half."""

    LASTS = ("_scatter", "_weight", "_due")

    def __init__(self, dimensions: int) -> None:
        self._scatter = np.zeros((dimensions, dimensions), np.float32)
        self._steps = np.zeros((_AT_ONCE, dimensions), np.float32)
        self._taken = 0
        self._weight = 0.0
        self._due = _FIRST
        self.projection: Vectors | None = None
        self._product = self._scatter  # of the projection with itself
        self._lengths: dict[Hashable, float] = {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take what lasts, and project by it."""
        super().resume(state)
        if self._due > _FIRST:
            self._refresh()

    def learn(self, vector: Vectors, centre: Vectors, texts: int) -> None:
        """Take in that `vector` shares an answer with `texts` others, whose mean is `centre`."""
        weight = texts**-0.5  # many texts of one answer say less of the next answer
        self._steps[self._taken] = (vector - centre) * np.float32((weight * texts / (texts + 1)) ** 0.5)
        self._taken += 1
        self._weight += weight
        if self._taken == _AT_ONCE:
            self._sum_up()
        if self._weight >= self._due:
            self._refresh()
            self._due = self._weight * 1.5

    def turned(self, vector: Vectors) -> Vectors:
        """Give what ``cosines`` compares others with, where `vector` is the one asked about."""
        turned: Vectors = vector if self.projection is None else vector @ self._product
        return turned / np.float32(max(float(turned @ vector), 1e-18) ** 0.5)

    def cosines(
        self, products: Vectors, names: Sequence[Hashable], vectors: Callable[[], Vectors]
    ) -> Vectors:
        """Give the cosines in the learned metric of what was ``turned`` with rows, given their products.

        `names`, one a row, tell which were measured before; `vectors` gives the rows for the others.
        """
        lengths = list(map(self._lengths.get, names))
        if None in lengths:
            rows, new = vectors(), [row for row, length in enumerate(lengths) if length is None]
            self.measure([names[row] for row in new], rows[new])
            lengths = list(map(self._lengths.get, names))
            if None in lengths:  # there was no room for more
                self.measure(names, rows)
                lengths = list(map(self._lengths.get, names))
        sizes: Vectors = np.array(lengths, np.float32)
        return products / sizes

    def measure(self, names: Sequence[Hashable], vectors: Vectors) -> None:
        """Note the lengths of rows in the learned metric by their names, before they are asked for."""
        if len(self._lengths) > _MOST_LENGTHS:
            self._lengths.clear()
        there: Vectors = vectors if self.projection is None else vectors @ self.projection
        found = np.maximum(np.sqrt(np.einsum("ij,ij->i", there, there)), np.float32(1e-9))
        self._lengths.update(zip(names, found.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """Give what lasts."""
        self._sum_up()
        return super().state()

    def _sum_up(self) -> None:
        steps = self._steps[: self._taken]
        self._scatter += steps.T @ steps
        self._taken = 0

    def _refresh(self) -> None:
        self._sum_up()
        size = len(self._scatter)
        seen = self._scatter / self._weight
        mean = float(np.trace(seen)) / size
        trust = self._weight / (self._weight + _EVIDENCE)
        blended = trust * seen + ((1 - trust) + _FLOOR) * mean * np.eye(size)
        values, axes = np.linalg.eigh(blended)
        self.projection = ((axes * np.sqrt(mean / values)) @ axes.T).astype(np.float32)
        self._product = self.projection @ self.projection
        self._lengths.clear()
