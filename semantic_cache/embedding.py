"""The seam of what turns a text into a vector."""

from typing import Protocol

from semantic_cache.near import Vectors


class EmbeddingFailed(Exception):
    """There is no vector now: the question is a miss, and nothing is learned from it."""


class Embedding(Protocol):
    """One kind of vectors; two of different `name` have nothing to do with each other."""

    @property
    def name(self) -> str:
        """Letters, digits and dashes."""

    async def embed(self, text: str) -> Vectors:
        """Give the unit vector (d,) of a text. Raises EmbeddingFailed."""
