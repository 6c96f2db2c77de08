"""Unit vectors by row number, in blocks: it grows without moving what is there, and takes no more than that.

The first block grows by doubling, as most scopes are small; every further one has BLOCK rows. The same rows
as bytes are a quarter to read: they tell which few of many are worth computing a true cosine of.
"""

from typing import Any, Self

import numkong
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
BLOCK = 8_192
_FIRST = 1
_MOST = np.float32(127.0)
_BYTE_SCALE = np.float32(400.0)  # components of unit vectors of some hundred dimensions stay below 0.3


class Rows:
    """Rows [0, len) are in use."""

    dtype: Any = np.float32

    def __init__(self, dimensions: int, block: int = BLOCK) -> None:
        self.dimensions, self._block = dimensions, block
        self._blocks = [np.zeros((min(_FIRST, block), dimensions), self.dtype)]
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Vectors:
        """Give a row; it is seen as it is now only until another one takes its place."""
        found: Vectors = self._blocks[row // self._block][row % self._block]
        return found

    def append(self, vector: NDArray[Any]) -> None:
        """Put a vector behind the others."""
        block, row = divmod(self._count, self._block)
        if block == len(self._blocks):
            self._blocks.append(np.zeros((self._block, self.dimensions), self.dtype))
        elif row == len(self._blocks[block]):
            grown = np.zeros((min(2 * row, self._block), self.dimensions), self.dtype)
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

    def take(self, rows: NDArray[np.intp]) -> Vectors:
        """Give rows as an array of its own (n, d)."""
        if self._count <= self._block:
            few: Vectors = self._blocks[0].take(rows, axis=0)
            return few
        return np.concatenate([self[row] for row in rows.tolist()]).reshape(len(rows), -1)

    def cosines(self, vector: Vectors) -> NDArray[Any]:
        """Give the cosine of a unit vector with each row (n,)."""
        if self._count <= self._block:
            near: Vectors = self._blocks[0][: self._count] @ vector
            return near
        return np.concatenate([block @ vector for block in self._blocks])[: self._count]


class Bytes(Rows):
    """The same rows as bytes: their order by likeness is nearly the true one."""

    dtype = np.int8

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Give rows as bytes."""
        made = cls(rows.dimensions, rows._block)
        made._blocks, made._count = [_rounded(block) for block in rows._blocks], len(rows)
        return made

    def append(self, vector: NDArray[Any]) -> None:
        """Put a vector behind the others."""
        super().append(_rounded(vector))

    def cosines(self, vector: Vectors) -> NDArray[Any]:
        """Give about the cosines, times a constant (n,)."""
        asked, found, left = _rounded(vector)[None], [], self._count
        for block in self._blocks:
            if left > 0:
                found.append(np.asarray(numkong.cdist(asked, block[:left], metric="dot"))[0])
            left -= len(block)
        return found[0] if len(found) == 1 else np.concatenate(found)


def _rounded(vectors: Vectors) -> NDArray[Any]:
    scaled = vectors * _BYTE_SCALE
    np.rint(scaled, out=scaled)
    np.minimum(scaled, _MOST, out=scaled)
    rounded: NDArray[Any] = np.maximum(scaled, -_MOST, out=scaled).astype(np.int8)
    return rounded
