"""The semantic tier in the way of a request, and the audits that keep it honest.

An audit asks the model what a hit has just answered, later and in the batch band, and hands the answer in.
The cache draws them within the share that it may; here they are bounded in number, one runs at a time, and a
failed one is dropped: the loop says so, and the cache knows one outcome less.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection
from contextlib import aclosing

import msgspec

from gateway.batching import Batching
from gateway.openai import answers, schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.schemas import Inference
from gateway.settings import SemanticSettings
from gateway.telemetry import Telemetry
from gateway.trip import Call
from routing.embedding import Floats, StaticEmbedder
from semantic_cache import policy as caching
from semantic_cache import saving
from semantic_cache.cache import Asked, Found, SemanticCache
from semantic_cache.ledger import Bounds
from semantic_cache.saving import OwnFile
from semantic_cache.stores.base import Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore
from semantic_cache.stores.shared import SharedIndex, SharedLog, SharedStore

log = logging.getLogger("switchgear.cache")

AUDIT_TIMEOUT_S = 120.0
_MOST_AUDITS = 64
_FRAMES_AT_ONCE = 100
_MOST_TEXTS = 50_000
_BYTES_OF_TEXT = 8_000  # longer questions are not looked up by likeness

AnyReceiver = StreamReceiver | WholeReceiver


class Audit(msgspec.Struct, frozen=True):
    """A hit to be asked again; ``kept`` makes an entry of what came back."""

    found: Found
    call: Call
    receiver: AnyReceiver
    key: bytes
    kept: Callable[[AnyReceiver], Entry | None]


class Keep(msgspec.Struct, frozen=True):
    """Where things are kept: in how much memory, in which file, with whom."""

    max_bytes: int
    file: OwnFile
    shared: SharedLog | None = None


def store_of(name: str, max_bytes: int, shared: SharedLog | None) -> MemoryStore:
    """Give a store for answers."""
    return MemoryStore(max_bytes) if shared is None else SharedStore(max_bytes, name, shared)


class Likeness:
    """One for the process. Its cost is nothing where ``[cache] semantic`` is not set: then it is not made."""

    def __init__(
        self,
        attempts: Batching,
        telemetry: Telemetry,
        draw: Callable[[], float],
        keep: Keep,
    ) -> None:
        self._embedder = embedder = StaticEmbedder.load()
        self.embedded_s = 0.0
        """When a text was embedded last, monotonic."""
        self._shared, size = keep.shared, (embedder.dimensions, _MOST_TEXTS, keep.max_bytes)
        self._index = MemoryIndex(*size) if keep.shared is None else SharedIndex(*size, keep.shared)
        store = store_of("semantic", keep.max_bytes, keep.shared)
        self._cache = SemanticCache(store, self._index, self._embed, draw, answers.text_of)
        self._settings = SemanticSettings()
        self._attempts = attempts
        self._file, self._saved = keep.file, 0
        self._audits: deque[Audit] = deque(maxlen=_MOST_AUDITS)
        telemetry.probe("switchgear_semantic_texts", lambda: [((), float(len(self._index)))])
        telemetry.probe("switchgear_cache_false_hit_ratio", self._false_hits)
        telemetry.probe("switchgear_cache_error_bound", lambda: [((), self._settings.error_bound)])
        telemetry.probe("switchgear_cache_error_estimate", self._errors)
        self._count = telemetry.count

    def adopt(self, settings: SemanticSettings) -> None:
        """Put settings in force."""
        self._settings = settings
        self._cache.adopt(Bounds(error=settings.error_bound, precision=1 - settings.precision))

    async def look_up(self, request: Inference, name: str, tenant: str, now_s: float) -> Found | None:
        """Look a request up; None where it is not one that likeness could answer."""
        question = schemas.lone_question(request)
        if question is None:
            return None
        text, surroundings = question
        if len(text) > _BYTES_OF_TEXT or caching.situational(text):
            return None
        scope = caching.scope_key(tenant, name, surroundings)
        ttl_s = self._settings.volatile_ttl_s if caching.volatile(text) else self._settings.ttl_s
        asked = Asked(f"{tenant}/{name}", scope, text, schemas.owner(request), ttl_s)
        return await self._cache.look_up(asked, now_s)

    def _embed(self, text: str) -> Floats:
        vector = self._embedder.embed(text)
        self.embedded_s = self._attempts.now()
        return vector

    def passed(self, tenant: str, name: str) -> None:
        """Count a request that was answered before it came here."""
        self._cache.passed(f"{tenant}/{name}")

    def offer(self, found: Found, key: bytes, entry: Entry, worth_nanousd: float) -> None:
        """Hand in the answer to a request that was looked up in vain."""
        self._cache.offer(found, key, entry, worth_nanousd)

    def audit(self, audit: Audit) -> None:
        """Have a hit asked again."""
        self._audits.append(audit)

    @property
    def cache(self) -> SemanticCache:
        """The tier itself."""
        return self._cache

    async def forget(self, keys: Collection[bytes]) -> None:
        """Forget answers, those of audits on their way included."""
        self._audits.clear()
        await self._cache.forget(keys)

    async def settle(self) -> None:
        """Learn from what was handed in."""
        await self._cache.settle()

    async def audit_once(self) -> None:
        """Run the audits that wait. Raises what the model's failure raised; that audit is gone."""
        while self._audits:
            await self._run(self._audits.popleft())

    async def _run(self, audit: Audit) -> None:
        now_s = self._attempts.now()
        call = msgspec.structs.replace(audit.call, band="batch", deadline_s=now_s + AUDIT_TIMEOUT_S)

        async def keep(piece: bytes) -> bool:
            audit.receiver.keep(piece)
            return True

        try:
            await self._attempts.run(call, keep)
        except Exception:
            self._count("switchgear_cache_audits_total", ("failed",))
            raise
        self._count("switchgear_cache_audits_total", ("answered",))
        if (usage := audit.receiver.final) is not None:
            spent = usage.prompt_tokens + usage.completion_tokens
            self._count("switchgear_cache_audit_tokens_total", (), spent)
        entry = audit.kept(audit.receiver)
        if entry is not None:
            self._cache.offer(audit.found, audit.key, entry, 0.0)

    async def save(self) -> None:
        """Write all of it to the file, unless nothing has come in. Raises OSError; the old one stays."""
        if self._cache.changes == self._saved or not self._file.mine():
            return
        changes, frames = self._cache.changes, list[bytes]()
        async with aclosing(self._cache.frames()) as packed:
            async for frame in packed:
                frames.append(frame)
                if len(frames) % _FRAMES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        await asyncio.to_thread(saving.write, self._file.path, frames)
        self._saved = changes

    async def load(self, now_s: float) -> None:
        """Take in what was saved, where this is the process that saves."""
        path = self._file.path
        if not self._file.mine() or not path.exists():
            return
        if self._shared is not None:
            self._shared.muted = True  # the others have files and a stream of their own
        texts = await self._cache.resume(saving.read(path), now_s)
        if self._shared is not None:
            self._shared.muted = False
        self._saved = self._cache.changes
        log.info("the semantic cache begins with %d texts of %s", texts, path)

    def _errors(self) -> list[tuple[tuple[str, ...], float]]:
        """Give the wrong hits expected by the audits, for each query, of the worst route."""
        ledgers = [judge.ledger for judge in self._cache.judges.values()]
        return [((), max((one.wrong_estimate() / max(one.total, 1) for one in ledgers), default=0.0))]

    def _false_hits(self) -> list[tuple[tuple[str, ...], float]]:
        """Give, over all routes, the wrong hits expected by the audits, for each hit by likeness."""
        ledgers = [judge.ledger for judge in self._cache.judges.values()]
        served = sum(ledger.served for ledger in ledgers)
        wrong = sum(ledger.wrong_estimate() for ledger in ledgers)
        return [((), wrong / served if served else 0.0)]
