"""The semantic tier in the way of a request, and the audits that keep it honest.

An audit asks the model what a hit has just answered, later and in the batch band, and hands the answer in.
The cache draws them within the share that it may; here they are bounded in number, one runs at a time, and a
failed one is dropped: the loop says so, and the cache knows one outcome less.
"""

from collections import deque
from collections.abc import Callable, Collection

import msgspec

from gateway.attempts import Call
from gateway.batching import Batching
from gateway.openai import answers, schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.schemas import Inference
from gateway.settings import SemanticSettings
from gateway.telemetry import Telemetry
from routing.embedding import StaticEmbedder
from semantic_cache import policy as caching
from semantic_cache.cache import Asked, Found, SemanticCache
from semantic_cache.ledger import Bounds
from semantic_cache.stores.base import Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore

AUDIT_TIMEOUT_S = 120.0
_MOST_AUDITS = 64
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


class Likeness:
    """One for the process. Its cost is nothing where ``[cache] semantic`` is not set: then it is not made."""

    def __init__(
        self, attempts: Batching, telemetry: Telemetry, draw: Callable[[], float], max_bytes: int
    ) -> None:
        embedder = StaticEmbedder.load()
        self._index = MemoryIndex(embedder.dimensions, _MOST_TEXTS)
        self._cache = SemanticCache(
            MemoryStore(max_bytes), self._index, embedder.embed, draw, answers.text_of
        )
        self._settings = SemanticSettings()
        self._attempts = attempts
        self._audits: deque[Audit] = deque(maxlen=_MOST_AUDITS)
        telemetry.probe("switchgear_semantic_texts", lambda: [((), float(len(self._index)))])
        telemetry.probe("switchgear_cache_false_hit_ratio", self._false_hits)

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

        await self._attempts.run(call, keep)
        entry = audit.kept(audit.receiver)
        if entry is not None:
            self._cache.offer(audit.found, audit.key, entry, 0.0)

    def _false_hits(self) -> list[tuple[tuple[str, ...], float]]:
        """Give, over all routes, the wrong hits expected by the audits, for each hit by likeness."""
        ledgers = [judge.ledger for judge in self._cache.judges.values()]
        served = sum(ledger.served for ledger in ledgers)
        wrong = sum(ledger.wrong_estimate() for ledger in ledgers)
        return [((), wrong / served if served else 0.0)]
