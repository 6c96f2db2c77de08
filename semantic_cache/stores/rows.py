"""Unit vectors by row number, in blocks: it grows without moving what is there, and takes no more than that.

The first block grows by doubling, as most scopes are small; every further one has BLOCK rows.
"""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
BLOCK = 8_192
_FIRST = 1


class Rows:
    """Rows [0, len) are in use."""

    def __init__(self, dimensions: int, block: int = BLOCK) -> None:
        self.dimensions, self._block = dimensions, block
        self._blocks = [np.zeros((min(_FIRST, block), dimensions), np.float32)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Vectors:
        """Give a row; it is seen as it is now only until another one takes its place."""
        found: Vectors = self._blocks[row // self._block][row % self._block]
        return found

    def append(self, vector: Vectors) -> None:
        """Put a vector behind the others."""
        block, row = divmod(self._count, self._block)
        if block == len(self._blocks):
            self._blocks.append(np.zeros((self._block, self.dimensions), np.float32))
        elif row == len(self._blocks[block]):
            grown = np.zeros((min(2 * row, self._block), self.dimensions), np.float32)
            grown[:row] = self._blocks[block]
            self._blocks[block] = grown
        self._blocks[block][row] = vector
        self._count += 1

    def remove(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        self._count -= 1
        if row != self._count:
            self[row][:] = self[self._count]
        if len(self._blocks) > self._count // self._block + 2:
            self._blocks.pop()  # one is left empty, for the next vector

    def take(self, rows: list[int]) -> Vectors:
        """Give rows as an array of its own (n, d)."""
        if self._count <= self._block:
            few: Vectors = self._blocks[0][rows]
            return few
        taken = np.empty((len(rows), self.dimensions), np.float32)
        for at, row in enumerate(rows):
            taken[at] = self[row]
        return taken

    def cosines(self, vector: Vectors) -> Vectors:
        """Give the cosine of a unit vector with each row (n,)."""
        if self._count <= self._block:
            near: Vectors = self._blocks[0][: self._count] @ vector
            return near
        return np.concatenate([block @ vector for block in self._blocks])[: self._count]
