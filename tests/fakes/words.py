"""Plain bytes as answers and the shipped table as embedding, for the semantic tier without a gateway."""

from collections.abc import Callable

from gateway.embeddings import reader
from semantic_cache.near import Vectors


class Words:
    """An ``Embedding`` and ``Answers``; ``turn`` makes another embedding of it."""

    def __init__(self, name: str = "words", turn: Callable[[Vectors], Vectors] = lambda one: one) -> None:
        self.name = name
        self._turn = turn

    async def embed(self, text: str) -> Vectors:
        return self._turn(reader().vector(text))

    def vector(self, text: str) -> Vectors:
        return reader().vector(text)

    def text_of(self, body: bytes) -> str:
        return body.decode()
