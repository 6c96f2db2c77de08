"""What is near a question: texts, with the numbers that a search has had in its hands anyway. Pure."""

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


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
    """Texts, best first; their unit vectors as one array (n, d), and their cosines (n,)."""

    def __init__(self, texts: Iterable[Text], vectors: Vectors, cosines: Vectors) -> None:
        super().__init__(texts)
        self.vectors, self.cosines = vectors, cosines

    @classmethod
    def nothing(cls) -> Self:
        """Give no texts."""
        return cls((), np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
