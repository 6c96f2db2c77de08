"""The precise grade, live: a sentence vector from an embedding model of the fleet, within a hard time-out.

The vector comes from a replica of the embedding model that the route names, off this process. A late, failed
or unfit one leaves the fast grade's reading, which says so (reason ``late``). Vectors of the latest texts are
remembered.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.bands import BANDS
from gateway.batching import Batching
from gateway.catalogue import Model
from gateway.choosing import Reading
from gateway.grading import Grading
from gateway.openai.answers import WholeReceiver
from gateway.settings import RouteSettings
from gateway.telemetry import Telemetry
from gateway.trip import Call
from routing.decision import Query

_MOST_VECTORS = 4096
_MOST_CHARS = 2000  # more than the encoder reads
_encode = msgspec.json.Encoder().encode


class _Row(msgspec.Struct):
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Row]


_decode = msgspec.json.Decoder(_Answer).decode


class Sharpening:
    """One for the process."""

    def __init__(
        self, attempts: Batching, grading: Callable[[], Grading | None], telemetry: Telemetry
    ) -> None:
        self._attempts = attempts
        self._grading = grading
        self._telemetry = telemetry
        self._known: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self.models: Mapping[str, Model] = {}

    async def read(self, route: RouteSettings, text: str) -> Reading | None:
        """Give the precise reading of a text, or the fast one marked as late; None without a grading."""
        grading = self._grading()
        if grading is None:
            return None
        fast = grading.read(text)
        try:
            async with asyncio.timeout(route.grade_timeout_ms / 1000):
                vector = await self._vector(self.models[route.embedder or ""], text[:_MOST_CHARS])
            reading = grading.sharpened(fast, vector)
        except Exception as error:
            outcome = "late" if isinstance(error, TimeoutError) else "failed"
            self._telemetry.count("switchgear_precise_grades_total", (route.name, outcome))
            return msgspec.structs.replace(fast, late=True)
        self._telemetry.count("switchgear_precise_grades_total", (route.name, "read"))
        return reading

    async def _vector(self, model: Model, text: str) -> NDArray[np.float32]:
        name = blake2b(f"{model.name}\0{text}".encode(errors="replace"), digest_size=16).digest()
        known = self._known.get(name)
        if known is not None:
            return known
        receiver = WholeReceiver(model.name, limit_bytes=1024 * 1024)
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> bool:
            pieces.append(piece)
            return True

        await self._attempts.run(_call(model, text, receiver, self._attempts.now()), keep)
        vector = np.array(_decode(b"".join(pieces)).data[0].embedding, np.float32)
        length = float(np.linalg.norm(vector))
        if not 0.0 < length < float("inf"):
            raise ValueError("the vector has no direction")
        self._known[name] = vector = vector / np.float32(length)
        if len(self._known) > _MOST_VECTORS:
            self._known.popitem(last=False)
        return vector


def _call(model: Model, text: str, receiver: WholeReceiver, now_s: float) -> Call:
    settings = model.settings
    tokens = len(text) // 4 + 1
    return Call(
        model=model.name,
        path="/embeddings",
        body=_encode({"model": settings.upstream_name, "input": [text or " "]}),
        headers=[],
        receiver=receiver,
        query=Query(model=model.name, tenant="", prompt_tokens=tokens, output_tokens=0),
        band=BANDS["interactive"],
        deadline_s=now_s + 10.0,
        first_byte_s=settings.first_byte_timeout_s,
        idle_s=settings.stall_timeout_s,
        max_attempts=1,
    )
