"""What gives the semantic cache its vectors: the static table of this process, or a configured model.

A question is read once: the classifier and the cache ask the same reader, which remembers the latest texts.
A configured model is asked like any client's request, in the interactive band, within a deadline of its own;
where it does not answer in time the question is a miss.
"""

import base64
import zlib
from collections import OrderedDict
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.bands import BANDS
from gateway.batching import Batching
from gateway.openai.answers import WholeReceiver
from gateway.settings import ModelSettings
from gateway.trip import Call
from routing.decision import Query
from routing.embedding import StaticEmbedder
from semantic_cache.embedding import EmbeddingFailed

Floats = NDArray[np.float32]
_MOST_TEXTS, _MOST_CHARS = 256, 2_000
_MOST_VECTORS = 4_096
_DEADLINE_S = 0.5
_LIMIT_BYTES = 1024 * 1024
_SAMPLE = "The same question in other words"  # tells tables apart


class Row(msgspec.Struct):
    """One vector of an answer: base64 of 32-bit floats, or plain from a server that does not know that."""

    embedding: str | list[float]


class Rows(msgspec.Struct):
    """An answer of ``/v1/embeddings``."""

    data: list[Row]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Rows).decode


class Reader:
    """The static table, and what it read in the latest texts: each is read once for all that ask."""

    def __init__(self, embedder: StaticEmbedder) -> None:
        self._embedder = embedder
        self._known = lru_cache(_MOST_TEXTS)(embedder.sums)
        sample = embedder.embed(_SAMPLE)
        self.name = f"static-{len(sample)}-{zlib.crc32(sample.tobytes()):08x}"

    def _read(self, text: str) -> Floats:
        return self._known(text) if len(text) <= _MOST_CHARS else self._embedder.sums(text)

    def columns(self, text: str) -> Floats:
        """Give lexical features and the unit vector; see ``StaticEmbedder.columns``."""
        return self._embedder.columns(text, self._read(text))

    def vector(self, text: str) -> Floats:
        """Give the unit vector alone, of a text that nobody else asks about."""
        return self._embedder.embed(text)

    async def embed(self, text: str) -> Floats:
        """See ``Embedding.embed``."""
        return self._embedder.unit(self._read(text))


@lru_cache(1)
def reader() -> Reader:
    """Give the reader of this process. Raises OSError or ValueError where the table is missing or broken."""
    return Reader(StaticEmbedder.load())


class Served:
    """An embedding model of the configuration, also one in the ``embed`` child."""

    def __init__(self, model: ModelSettings, attempts: Batching) -> None:
        self.name = f"{model.name}-{zlib.crc32(model.upstream_name.encode()):08x}"
        self._model, self._attempts = model, attempts
        self._known: OrderedDict[str, Floats] = OrderedDict()

    async def embed(self, text: str) -> Floats:
        """See ``Embedding.embed``."""
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = await self._ask(text)
            if len(self._known) > _MOST_VECTORS:
                self._known.popitem(last=False)
        return known

    async def _ask(self, text: str) -> Floats:
        receiver, pieces = WholeReceiver(self._model.name, limit_bytes=_LIMIT_BYTES), list[bytes]()

        async def deliver(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        try:
            await self._attempts.run(self._call(text, receiver), deliver)
            given = _decode(b"".join(pieces)).data[0].embedding
            vector = np.frombuffer(base64.b64decode(given), np.float32) if isinstance(given, str) else None
            vector = np.array(given, np.float32) if vector is None else vector
            length = float(np.linalg.norm(vector))
        except Exception as error:
            raise EmbeddingFailed(f"{self._model.name}: {error or type(error).__name__}") from error
        if not length > 0:
            raise EmbeddingFailed(f"{self._model.name}: the vector has no length")
        return vector / np.float32(length)

    def _call(self, text: str, receiver: WholeReceiver) -> Call:
        model = self._model
        body = {"model": model.upstream_name, "input": text, "encoding_format": "base64"}
        return Call(
            model=model.name,
            path="/embeddings",
            body=_encode(body),
            headers=[(b"x-request-id", b"semantic-cache")],
            receiver=receiver,
            query=Query(model=model.name, tenant="", prompt_tokens=len(text) // 4, output_tokens=0),
            band=BANDS["interactive"],
            deadline_s=self._attempts.now() + _DEADLINE_S,
            first_byte_s=_DEADLINE_S,
            idle_s=_DEADLINE_S,
            max_attempts=1,
        )
