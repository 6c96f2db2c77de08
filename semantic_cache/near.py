"""What is near a question: texts, with the numbers that a search has had in its hands anyway. Pure."""

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_NOWHERE = np.zeros((0, 0), np.float32)


class Known(Protocol):
    """A text whose answer is kept; `answer` is shared by its aliases."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def answer(self) -> str:
        """The name of its answer."""

    @property
    def text(self) -> str:
        """The text itself: vectors alone can be made to collide."""


Text = TypeVar("Text", bound=Known)


class Near(list[Text]):
    """Texts, best first, and their cosines (n,)."""

    __slots__ = ("_order", "_rows", "cosines")

    def __init__(
        self, texts: Iterable[Text], rows: Vectors, cosines: Vectors, order: NDArray[np.intp] | None = None
    ) -> None:
        """Take texts and unit vectors; `order` tells which row is whose, where they are not in order."""
        super().__init__(texts)
        self.cosines = cosines
        self._rows, self._order = rows, order

    @property
    def vectors(self) -> Vectors:
        """The unit vectors (n, d)."""
        return self._rows if self._order is None else self._rows.take(self._order, axis=0)

    def times(self, vector: Vectors) -> Vectors:
        """Give the products of the unit vectors with another one (n,)."""
        products: Vectors = self._rows @ vector
        return products if self._order is None else products.take(self._order)

    def named(self) -> "Near[Text]":
        """Give the same texts without their vectors: they are large, and not to be kept for long."""
        return Near(self, _NOWHERE, self.cosines)

    @classmethod
    def nothing(cls) -> Self:
        """Give no texts."""
        return cls((), _NOWHERE, np.zeros(0, np.float32))
