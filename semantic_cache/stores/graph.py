"""A navigable graph over the texts of one large scope: what is near is found without reading all rows.

HNSW by usearch, over bytes: it finds candidates, whose true cosines the caller computes. It holds labels, not
rows. A graph that does not cover its scope yet is not asked.
"""

import os
from collections.abc import Collection, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index as Hnsw

Vectors = NDArray[np.float32]
_LINKS, _WIDTH_BUILT, _WIDTH_SEARCHED = 16, 64, 128
_SPARE = 24  # candidates beyond those asked for: bytes order less finely than floats


class Graph:
    """Labels with their unit vectors."""

    def __init__(self, dimensions: int) -> None:
        self._graph: Any = Hnsw(
            ndim=dimensions, metric="cos", dtype="i8", connectivity=_LINKS,
            expansion_add=_WIDTH_BUILT, expansion_search=_WIDTH_SEARCHED,
        )  # fmt: skip

    @classmethod
    def restored(cls, dimensions: int, saved: bytes) -> Self:
        """Give the graph that was saved. Raises ValueError where it is none of these dimensions."""
        graph = cls(dimensions)
        try:
            graph._graph.load(saved)
        except RuntimeError as error:
            raise ValueError(f"the graph cannot be read: {error}") from None
        if graph._graph.ndim != dimensions:
            raise ValueError(f"the graph has {graph._graph.ndim} dimensions, not {dimensions}")
        return graph

    def __len__(self) -> int:
        return len(self._graph)

    def __contains__(self, label: int) -> bool:
        return label in self._graph

    def saved(self) -> bytes:
        """Give all of it as bytes."""
        return bytes(self._graph.save())

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return int(self._graph.memory_usage)

    def labels(self) -> list[int]:
        """Give all labels."""
        known: list[int] = np.asarray(self._graph.keys).tolist()
        return known

    def add(self, label: int, vector: Vectors) -> None:
        """Take a vector in."""
        self._graph.add(label, vector)

    def add_all(self, labels: Sequence[int], vectors: Vectors) -> None:
        """Take many vectors (n, d) in, on all cores that this process may use."""
        threads = len(os.sched_getaffinity(0))
        self._graph.add(np.array(labels, np.uint64), vectors, threads=threads)

    def remove(self, labels: Collection[int]) -> None:
        """Leave labels out."""
        for label in labels:
            self._graph.remove(label)

    def near(self, vector: Vectors, count: int) -> list[int]:
        """Give the labels of about the `count` nearest vectors, and some more."""
        found: list[int] = self._graph.search(vector, count + _SPARE).keys.tolist()
        return found
