"""Stores that several processes share: each holds all of it, and what one keeps or drops the others hear.

Redis carries the news in one stream; nobody waits for it. A look-up is always one in memory, as fast with
Redis away as with it. What happens meanwhile is told later, up to _MOST_UNSENT pieces of news; what is lost
beyond that is counted. Who comes later reads the stream from its beginning. The stream is bounded in pieces,
and so is a piece: larger answers stay where they are.
"""

import secrets
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from semantic_cache.saving import Text
from semantic_cache.stores.base import Alias, Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore

STREAM = "switchgear:cache"
SALT = "switchgear:cache-salt"
_MOST_UNSENT = 2_000
_MOST_IN_STREAM = 20_000
_MOST_PIECE_BYTES = 64 * 1024
_AT_ONCE = 200


class Put(msgspec.Struct, frozen=True, tag=True):
    """A store keeps an answer."""

    store: str
    key: bytes
    entry: Entry


class Dropped(msgspec.Struct, frozen=True, tag=True):
    """A store dropped answers."""

    store: str
    keys: list[bytes]


class Unlinked(msgspec.Struct, frozen=True, tag=True):
    """The index dropped the texts of answers."""

    answers: list[str]


class Complained(msgspec.Struct, frozen=True, tag=True):
    """A tenant says that the answer to a request was bad; who gave it knows which one that was."""

    tenant: str
    request_id: str


class Emptied(msgspec.Struct, frozen=True, tag=True):
    """A store, or the index (without a name), was purged."""

    store: str


News = Put | Dropped | Unlinked | Emptied | Complained | Text
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(News).decode


class SharedLog:
    """Tells the others and hears them; ``hear`` runs for whatever another process did."""

    def __init__(self, url: str, password: str | None, timeout_s: float) -> None:
        self._redis = Redis.from_url(url, password=password, socket_connect_timeout=timeout_s)
        self._origin = secrets.token_bytes(8)
        self._unsent: deque[News] = deque()
        self._read = b"0-0"
        self._hearers: list[Callable[[News], None]] = []
        self.lost = 0
        self.muted = False
        self.salt = b""
        self.on_salt: Callable[[bytes], None] = lambda _salt: None
        self._salted = False

    def listen(self, hear: Callable[[News], None]) -> None:
        """Have news of others told to ``hear``."""
        self._hearers.append(hear)

    def tell(self, news: News) -> None:
        """Tell the others, soon."""
        if self.muted:
            return
        if len(self._unsent) >= _MOST_UNSENT:
            self._unsent.popleft()
            self.lost += 1
        self._unsent.append(news)

    async def send(self) -> None:
        """Send what is to be told. Raises RedisError or OSError; it is sent at the next call then."""
        while self._unsent:
            batch = list(self._unsent)[:_AT_ONCE]
            packed = [piece for piece in map(_encode, batch) if len(piece) <= _MOST_PIECE_BYTES]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for piece in packed:
                    fields: dict[Any, Any] = {b"o": self._origin, b"n": piece}
                    pipeline.xadd(STREAM, fields, maxlen=_MOST_IN_STREAM, approximate=True)
                await pipeline.execute()
            for _ in batch:
                self._unsent.popleft()

    async def receive(self) -> None:
        """Hear what there is. Raises RedisError or OSError; it is heard at the next call then."""
        if not self._salted:
            await self.agree()
        while True:
            found: Any = await self._redis.xread({STREAM: self._read}, count=_AT_ONCE)
            if not found:
                await self._heard_all()
                return
            for at, fields in found[0][1]:
                self._read = at
                if fields.get(b"o") != self._origin:
                    self._hear(fields.get(b"n", b""))

    async def agree(self) -> None:
        """Take the salt that was told Redis first, perhaps this one. Raises RedisError or OSError."""
        await self._redis.set(SALT, self.salt, nx=True)
        agreed = await self._redis.get(SALT)
        if isinstance(agreed, bytes) and agreed != self.salt:
            self.salt = agreed
            self.on_salt(agreed)
        self._salted = True

    async def _heard_all(self) -> None:
        """Begin anew where Redis has forgotten the stream: its numbers may run behind ours."""
        if self._read != b"0-0" and not await self._redis.exists(STREAM):
            self._read, self._salted = b"0-0", False

    def _hear(self, piece: bytes) -> None:
        try:
            news = _decode(piece)
        except msgspec.DecodeError:
            return  # of another version
        for hear in self._hearers:
            hear(news)

    async def close(self) -> None:
        """Send what is left, if that goes at once, and leave."""
        try:
            await self.send()
        except (RedisError, OSError):
            pass
        finally:
            await self._redis.aclose()


class SharedStore(MemoryStore):
    """A MemoryStore whose news are told; ``name`` is the same in all processes."""

    def __init__(self, max_bytes: int, max_entries: int, name: str, log: SharedLog) -> None:
        super().__init__(max_bytes, max_entries)
        self._name, self._log = name, log
        log.listen(self._hear)

    async def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry, here and there."""
        self._put(key, entry)
        self._log.tell(Put(self._name, key, entry))

    async def drop(self, keys: Collection[bytes]) -> int:
        """Forget entries, here and there."""
        self._log.tell(Dropped(self._name, list(keys)))
        return await super().drop(keys)

    async def purge(self) -> int:
        """Forget everything, here and there."""
        self._log.tell(Emptied(self._name))
        return await super().purge()

    def _hear(self, news: News) -> None:
        match news:
            case Put(self._name, key, entry):
                self._put(key, entry)
            case Dropped(self._name, keys):
                for key in keys:
                    self._drop(key)
            case Emptied(self._name):
                self._clear()
            case _:
                pass


class SharedIndex(MemoryIndex):
    """A MemoryIndex whose news are told."""

    def __init__(self, max_texts: int, max_bytes: int, log: SharedLog) -> None:
        super().__init__(max_texts, max_bytes)
        self._log = log
        log.listen(self._hear)

    async def add(self, scope: bytes, alias: Alias) -> None:
        """Keep a text, here and there."""
        self._add(scope, alias)
        self._log.tell(Text.of(scope, alias))

    async def drop(self, answers: Collection[str]) -> int:
        """Forget texts, here and there."""
        self._log.tell(Unlinked(list(answers)))
        return self._unlink(answers)

    async def purge(self) -> int:
        """Forget everything, here and there."""
        self._log.tell(Emptied(""))
        return self._clear()

    def _hear(self, news: News) -> None:
        match news:
            case Text():
                self._add(news.scope, news.alias())
            case Unlinked(answers):
                self._unlink(answers)
            case Emptied(""):
                self._clear()
            case _:
                pass
