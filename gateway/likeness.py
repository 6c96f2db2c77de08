"""The semantic tier in the way of a request, and the audits that keep it honest.

An audit asks the model what a hit has just answered, later and in the batch band, and hands the answer in.
The cache draws them within the share that it may; here they are bounded in number, one runs at a time, and a
failed one is dropped: the loop says so, and the cache knows one outcome less.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from gateway.bands import BANDS
from gateway.batching import Batching
from gateway.embeddings import Served, reader
from gateway.openai import answers, schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.schemas import ChatFields, Inference
from gateway.openai.usage import Usage
from gateway.settings import ModelSettings, SemanticSettings
from gateway.telemetry import Telemetry
from gateway.trip import Call, Trip
from semantic_cache import policy as caching
from semantic_cache import saving
from semantic_cache.cache import Asked, Found, SemanticCache
from semantic_cache.embedding import Embedding, EmbeddingFailed
from semantic_cache.ledger import Bounds
from semantic_cache.near import Vectors
from semantic_cache.reading import repetitive
from semantic_cache.saving import OwnFile
from semantic_cache.stores.base import Entry, Index, Store
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore
from semantic_cache.verdict import Repeat

if TYPE_CHECKING:  # Redis's client takes 8 MB: only where there is one
    from semantic_cache.stores.redis import Link, RedisIndex
    from semantic_cache.stores.shared import SharedLog

log = logging.getLogger("switchgear.cache")

AUDIT_TIMEOUT_S = 120.0
_MOST_AUDITS = 64
_FRAMES_AT_ONCE = 100
_BYTES_OF_TEXT = 8_000  # longer questions are not looked up by likeness
_TWICE = 0.15  # of the audits ask twice: how often do two answers to one question seem to differ?
_HOUR_S = 3600.0

AnyReceiver = StreamReceiver | WholeReceiver


class Audit(msgspec.Struct, frozen=True):
    """A hit to be asked again; ``kept`` makes an entry of what came back."""

    found: Found
    call: Call
    receiver: AnyReceiver
    key: bytes
    kept: Callable[[AnyReceiver], Entry | None]
    cost_nanousd: Callable[[Usage], int]


class Asker(msgspec.Struct, frozen=True):
    """Who asks for what; `name` is the model or route, `salt` goes into all names of what is kept.

    Nothing of it may be kept for longer than `most_s`.
    """

    tenant: str
    name: str
    salt: bytes = b""
    most_s: float = math.inf

    @property
    def route(self) -> str:
        """What shares a judge."""
        return f"{self.tenant}/{self.name}"


class Keep(msgspec.Struct, frozen=True):
    """Where things are kept: in how much memory, in which file, with whom."""

    max_bytes: int
    max_entries: int
    file: OwnFile
    shared: "SharedLog | None" = None
    redis: "Link | None" = None

    def store(self, name: str) -> MemoryStore:
        """Give a store for answers in memory."""
        if self.shared is None:
            return MemoryStore(self.max_bytes, self.max_entries)
        from semantic_cache.stores.shared import SharedStore

        return SharedStore(self.max_bytes, self.max_entries, name, self.shared)

    def index(self) -> MemoryIndex:
        """Give an index of texts in memory."""
        if self.shared is None:
            return MemoryIndex(self.max_entries, self.max_bytes)
        from semantic_cache.stores.shared import SharedIndex

        return SharedIndex(self.max_entries, self.max_bytes, self.shared)


class Compared:
    """See ``Answers``: fresh and kept answers are compared by the static table, whatever the questions'."""

    def text_of(self, body: bytes) -> str:
        """Give the words of a kept answer."""
        return answers.text_of(body)

    def vector(self, text: str) -> Vectors:
        """Give its vector."""
        return reader().vector(text)


def follows(request: Inference) -> bool:
    """Tell whether a chat's last turn comes after others."""
    messages = request.typed.messages if isinstance(request.typed, ChatFields) else []
    return any(message.role not in ("system", "developer") for message in messages[:-1])


class Likeness:
    """One for the process. Its cost is nothing where ``[cache] semantic`` is not set: then it is not made."""

    def __init__(
        self,
        attempts: Batching,
        telemetry: Telemetry,
        draw: Callable[[], float],
        keep: Keep,
    ) -> None:
        self._keep, self._draw = keep, draw
        self.embedded_s = 0.0
        """When a text was embedded last, monotonic."""
        self._memory: tuple[Store, Index] = keep.store("semantic"), keep.index()
        self._away: RedisIndex | None = None  # the index, where it is not in this process
        self._settings = SemanticSettings()
        self._attempts = attempts
        self._saved = 0
        self._audits: deque[Audit] = deque(maxlen=_MOST_AUDITS)
        self._spent_tokens, self._hour = 0, 0
        self._kind: tuple[object, ...] = ()
        self._emptied = False  # texts of another embedding are to go
        telemetry.probe("switchgear_semantic_texts", lambda: [((), float(len(self._index)))])
        telemetry.probe("switchgear_cache_false_hit_ratio", self._false_hits)
        telemetry.probe("switchgear_cache_error_bound", lambda: [((), self._settings.error_bound)])
        telemetry.probe("switchgear_cache_error_estimate", self._errors)
        telemetry.probe("switchgear_cache_judge_noise", lambda: [((), self._cache.noise)])
        self._count = telemetry.count

    def adopt(self, settings: SemanticSettings, models: Iterable[ModelSettings]) -> None:
        """Put settings in force; another embedding or store begins with nothing."""
        self._settings = settings
        model = next((one for one in models if one.name == settings.embedding), None)
        embedding: Embedding = reader() if model is None else Served(model, self._attempts)
        kind = (embedding.name, settings.store, model)
        if kind != self._kind:
            if self._kind:
                log.warning(
                    "the semantic cache begins a new index, of %s in %s", embedding.name, settings.store
                )
                self._emptied = settings.store == "memory"
            self._kind = kind
            self._begin(embedding)
        self._cache.adopt(Bounds(error=settings.error_bound, precision=1 - settings.precision))

    def _begin(self, embedding: Embedding) -> None:
        store, self._index = self._memory
        self._away = None
        if self._settings.store == "redis" and (link := self._keep.redis) is not None:
            from semantic_cache.stores.redis import RedisIndex, RedisStore

            store = RedisStore(link, embedding.name)
            self._index = self._away = RedisIndex(link, embedding.name)
        self._embedding = embedding
        self._cache = SemanticCache(store, self._index, self, self._draw, Compared())

    async def look_up(
        self, request: Inference, asker: Asker, now_s: float, repeated: Entry | None = None
    ) -> Found | None:
        """Look a request up; None where it is not one that likeness could answer.

        `repeated`: what it was not given though it is an exact repeat.
        """
        question = schemas.lone_question(request)
        if question is None:
            judge = self._cache.judges.get(asker.route)
            if judge is not None and follows(request):
                judge.ledger.pass_aside()
            return None
        text, surroundings = question
        if len(text) > _BYTES_OF_TEXT or caching.situational(text) or repetitive(text):
            return None
        surroundings += self._embedding.name.encode()  # texts of two embeddings never meet
        scope = caching.scope_key(asker.tenant, asker.name, surroundings, asker.salt)
        ttl_s = self._settings.volatile_ttl_s if caching.volatile(text) else self._settings.ttl_s
        asked = Asked(asker.route, scope, text, schemas.owner(request), min(ttl_s, asker.most_s))
        try:
            return await self._cache.look_up(asked, now_s, repeated)
        except EmbeddingFailed:
            self._count("switchgear_cache_embedding_failures_total", ())
            return None

    @property
    def name(self) -> str:
        """The name of the embedding in force; see ``Embedding``."""
        return self._embedding.name

    async def embed(self, text: str) -> Vectors:
        """Embed by it, and note when; see ``Embedding.embed``."""
        vector = await self._embedding.embed(text)
        self.embedded_s = self._attempts.now()
        return vector

    def passed(self, tenant: str, name: str, kept_s: float | None, now_s: float) -> Repeat:
        """Count an exact repeat; tells whether it may be given what was kept, see ``SemanticCache``."""
        return self._cache.passed(f"{tenant}/{name}", kept_s, now_s)

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
        if self._emptied:
            self._emptied = False
            await self._cache.purge()
        await self._cache.settle()

    def audit_due(self) -> bool:
        """Whether any audit waits."""
        return bool(self._audits)

    async def audit_once(self) -> None:
        """Run the audits that wait. Raises what the model's failure raised; that audit is gone."""
        while self._audits:
            audit = self._audits.popleft()
            entry = await self._run(audit)
            if entry is None:
                continue
            self._cache.offer(audit.found, audit.key, entry, 0.0)
            if (
                audit.found.repeated is None
                and self._draw() < _TWICE
                and (again := await self._run(audit)) is not None
            ):
                self._cache.doubled(entry, again)

    async def _run(self, audit: Audit) -> Entry | None:
        """Ask the model again, unless this hour's tokens for it are spent."""
        now_s = self._attempts.now()
        if (hour := int(now_s // _HOUR_S)) != self._hour:
            self._hour, self._spent_tokens = hour, 0
        if self._spent_tokens >= self._settings.audit_tokens_per_hour:
            self._count("switchgear_cache_audits_total", ("capped",))
            return None
        deadline_s = now_s + AUDIT_TIMEOUT_S
        call = msgspec.structs.replace(audit.call, band=BANDS["batch"], deadline_s=deadline_s, trip=Trip())

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
            self._spent_tokens += spent
            self._count("switchgear_cache_audit_tokens_total", (), spent)
            self._count("switchgear_cache_audit_nanousd_total", (), audit.cost_nanousd(usage))
        return audit.kept(audit.receiver)

    async def save(self) -> None:
        """Write all of it to the file, unless nothing has come in. Raises OSError; the old one stays."""
        file = self._keep.file
        if self._cache.changes == self._saved or not file.mine():
            return
        changes, frames = self._cache.changes, list[bytes]()
        async with aclosing(self._cache.frames()) as packed:
            async for frame in packed:
                frames.append(frame)
                if len(frames) % _FRAMES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        await asyncio.to_thread(saving.write, file.path, frames)
        self._saved = changes

    async def load(self, now_s: float) -> None:
        """Take in what was saved, where this is the process that saves."""
        file, shared = self._keep.file, self._keep.shared
        if not file.mine() or not file.path.exists():
            return
        if shared is not None:
            shared.muted = True  # the others have files and a stream of their own
        try:
            texts = await self._cache.resume(saving.read(file.path), now_s)
            log.info("the semantic cache begins with %d texts of %s", texts, file.path)
        except ValueError as error:
            log.warning("the semantic cache begins a new index: %s is not read, %s", file.path, error)
        finally:
            if shared is not None:
                shared.muted = False
        self._saved = self._cache.changes

    async def look(self) -> None:
        """See whether Redis is there, where texts are kept there."""
        if self._away is not None:
            await self._away.look()

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
