"""Answers and texts in Redis, found there: for more gateways and more texts than each could hold by itself.

Texts are hashes under one index of the query engine (``FT.*``: Redis 8, or the redisearch module), answers
are strings; each has its own expiry there. Names begin with PREFIX and say of which embedding the texts are,
so that another embedding begins a new index and leaves the old one to expire.
A look-up waits `timeout_s` and no longer. When Redis is away, or slow several times in a row, it is left
alone for AWAY_S: everything is a miss then, nothing is kept, and `errors` and `lost` say so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from semantic_cache.near import Near
from semantic_cache.saving import Text
from semantic_cache.stores.base import Alias, Entry

Vectors = NDArray[np.float32]
Given = TypeVar("Given")
PREFIX = "switchgear:semantic:"
AWAY_S = 1.0
_SLOW = 3  # time-outs in a row that mean away
_PATIENT_S = 2.0  # for what no request waits for
_LINKS, _WIDTH_BUILT, _WIDTH_SEARCHED = 16, 128, 96
_MOST_LISTED = 10_000
_MOST_OF_OWNER = 1_000
_MOST_SCOPES = 10_000  # whose sizes are remembered
_COUNTED = 256  # texts that come into a scope before it is counted again
_BATCHES = 500  # a scope of more than the root of this times all texts is searched by the graph, in batches
_AT_ONCE = 500
_encode = msgspec.msgpack.Encoder().encode
_entry = msgspec.msgpack.Decoder(Entry).decode
_text = msgspec.msgpack.Decoder(Text).decode


class Link:
    """The connection of both, and whether Redis is there."""

    def __init__(
        self, url: str, password: str | None, timeout_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.redis: Any = Redis.from_url(
            url,
            password=password,
            protocol=2,
            socket_timeout=_PATIENT_S,
            socket_connect_timeout=timeout_s * 20,
        )
        self._timeout_s, self._now = timeout_s, now
        self._away_until_s, self._slow = 0.0, 0
        self.errors: dict[str, str] = {}  # what is wrong with Redis, nothing while nothing is
        self.lost = 0  # look-ups and writes that came to nothing

    async def ask(
        self, operation: Callable[[], Awaitable[Given]], otherwise: Given, wait: bool = False
    ) -> Given:
        """Give what an operation gives, or `otherwise` where Redis is away; `wait` where no request does."""
        if self._now() < self._away_until_s:
            self.lost += 1
            return otherwise
        try:
            async with asyncio.timeout(_PATIENT_S if wait else self._timeout_s):
                given = await operation()
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return otherwise
        self._slow = 0
        self.errors.clear()
        return given

    def _failed(self, error: Exception) -> None:
        self.lost += 1
        if isinstance(error, TimeoutError) and not isinstance(error, RedisError):
            self._slow += 1
            if self._slow < _SLOW:
                return
            self.errors["cache"] = "Redis is slow: the semantic cache answers nothing"
        else:
            self.errors["cache"] = f"the semantic cache answers nothing: {str(error) or type(error).__name__}"
        self._away_until_s = self._now() + AWAY_S

    async def close(self) -> None:
        """Leave."""
        await self.redis.aclose()


class RedisStore:
    """See ``Store``."""

    durable = True

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._redis = link, link.redis
        self._prefix = f"{PREFIX}{name}:a:"

    async def get(self, key: bytes, now_s: float) -> Entry | None:
        """Give an entry; see ``Store.get``."""
        body = await self._link.ask(lambda: self._redis.get(self._prefix + key.hex()), None)
        entry = _entry(body) if body is not None else None
        return entry if entry is not None and entry.expires_s > now_s else None

    async def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry until it expires; see ``Store.put``."""
        ttl_ms = max(1, int((entry.expires_s - entry.stored_s) * 1000))
        name, body = self._prefix + key.hex(), _encode(entry)
        await self._link.ask(lambda: self._redis.set(name, body, px=ttl_ms), None, wait=True)

    async def drop(self, keys: Collection[bytes]) -> int:
        """Forget entries; see ``Store.drop``."""
        names = [self._prefix + key.hex() for key in keys]
        return await self._link.ask(lambda: self._redis.delete(*names), 0, wait=True) if names else 0

    async def listed(self) -> list[tuple[bytes, Entry]]:
        """Give what is kept; see ``Store.listed``."""

        async def read() -> list[tuple[bytes, Entry]]:
            names = await _names(self._redis, self._prefix, _MOST_LISTED)
            bodies = await self._redis.mget(names) if names else []
            return [
                (bytes.fromhex(name.decode().removeprefix(self._prefix)), _entry(body))
                for name, body in zip(names, bodies, strict=True)
                if body is not None
            ]

        return await self._link.ask(read, [], wait=True)

    async def purge(self) -> int:
        """Forget everything; see ``Store.purge``."""
        return await self._link.ask(lambda: _purged(self._redis, self._prefix), 0, wait=True)


class RedisIndex:
    """See ``Index``; the index of the query engine is made when it is first missed."""

    durable = True

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._redis = link, link.redis
        self._name, self._prefix = f"{PREFIX}{name}", f"{PREFIX}{name}:t:"
        self._dimensions = 0  # as the first vector has them
        self.count = 0  # texts, as Redis said last
        self._sizes: dict[bytes, int] = {}  # of scopes, about

    def __len__(self) -> int:
        return self.count

    async def near(self, scope: bytes, vector: Vectors, count: int, now_s: float) -> Near[Alias]:
        """Give the nearest texts; see ``Index.near``."""
        self._dimensions = len(vector)
        knn = f"KNN {count} @vector $v EF_RUNTIME {_WIDTH_SEARCHED} {self._way(scope)} AS far"
        query = f"(@scope:{{{scope.hex()}}})=>[{knn}]"
        asked = (
            "FT.SEARCH", self._name, query, "PARAMS", 2, "v", vector.astype(np.float32).tobytes(),
            "SORTBY", "far", "RETURN", 2, "text", "vector", "LIMIT", 0, count, "DIALECT", 2,
        )  # fmt: skip
        nothing: list[Any] = [0]
        found = await self._link.ask(lambda: self._made(asked), nothing)
        texts = [_text(fields[1]).alias(fields[3]) for fields in found[2::2] if len(fields) == 4]
        texts = [one for one in texts if one.expires_s > now_s]
        if not texts:
            return Near.nothing()
        vectors = np.array([one.vector for one in texts])
        cosines = vectors @ vector
        order = (-cosines).argsort(kind="stable")
        return Near([texts[at] for at in order.tolist()], vectors[order], cosines[order])

    def _way(self, scope: bytes) -> str:
        """Tell how to search: left alone, the query engine compares each text of a scope, however large."""
        size = self._sizes.get(scope, 0)
        return "HYBRID_POLICY BATCHES" if size * size > _BATCHES * max(self.count, size) else ""

    async def add(self, scope: bytes, alias: Alias) -> None:
        """Keep a text until it expires; see ``Index.add``."""
        self._dimensions = len(alias.vector)
        await self._link.ask(lambda: self._add(scope, alias), None, wait=True)

    async def _add(self, scope: bytes, alias: Alias) -> None:
        owner = alias.owner.encode().hex()
        if alias.owner:
            query = f"@scope:{{{scope.hex()}}} @owner:{{{owner}}}"
            found = await self._made(("FT.SEARCH", self._name, query, "LIMIT", 0, 0, "DIALECT", 2))
            if found[0] >= _MOST_OF_OWNER:
                return
        key = f"{self._prefix}{scope.hex()[:16]}:{alias.id}"
        fields: dict[Any, Any] = {
            "scope": scope.hex(), "answer": alias.answer, "owner": owner,
            "vector": alias.vector.tobytes(), "text": _encode(Text.of(scope, alias, plain=True)),
        }  # fmt: skip
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, mapping=fields)
            pipeline.pexpire(key, max(1, int((alias.expires_s - alias.stored_s) * 1000)))
            await pipeline.execute()
        await self._sized(scope)

    async def _sized(self, scope: bytes) -> None:
        """Note that a scope has grown, and count it now and then: others add to it, too, and texts expire."""
        size = self._sizes.get(scope, 0)
        if size % _COUNTED == 0:
            if len(self._sizes) >= _MOST_SCOPES:
                self._sizes.clear()
            query = f"@scope:{{{scope.hex()}}}"
            found = await self._made(("FT.SEARCH", self._name, query, "LIMIT", 0, 0, "DIALECT", 2))
            size = max(found[0] - 1, 0)
        self._sizes[scope] = size + 1

    async def drop(self, answers: Collection[str]) -> int:
        """Forget texts of answers; see ``Index.drop``."""

        async def drop() -> int:
            dropped = 0
            for answer in answers:
                query = f"@answer:{{{answer}}}"
                asked = ("FT.SEARCH", self._name, query, "NOCONTENT", "LIMIT", 0, _MOST_LISTED, "DIALECT", 2)
                names = (await self._made(asked))[1:]
                if names:
                    dropped += await self._redis.delete(*names)
            return dropped

        return await self._link.ask(drop, 0, wait=True)

    async def listed(self) -> list[tuple[bytes, Alias]]:
        """Give the texts with their scopes; see ``Index.listed``."""

        async def read() -> list[tuple[bytes, Alias]]:
            found = []
            for name in await _names(self._redis, self._prefix, _MOST_LISTED):
                packed, vector = await self._redis.hmget(name, "text", "vector")
                if packed is not None and vector is not None:
                    text = _text(packed)
                    found.append((text.scope, text.alias(vector)))
            return found

        return await self._link.ask(read, [], wait=True)

    async def purge(self) -> int:
        """Forget everything; see ``Index.purge``."""
        return await self._link.ask(lambda: _purged(self._redis, self._prefix), 0, wait=True)

    def frames(self) -> tuple[Text, ...]:
        """Give nothing: it is in Redis."""
        return ()

    def resume(self, frame: Text) -> None:
        """Leave it: what counts is in Redis."""

    def cover(self) -> None:
        """Leave it: Redis has a graph of its own."""

    async def look(self) -> None:
        """Count the texts, and notice whether Redis is there. Raises nothing: see ``Link.errors``."""

        async def look() -> None:
            if self._dimensions:
                found = await self._made(("FT.SEARCH", self._name, "*", "LIMIT", 0, 0, "DIALECT", 2))
                self.count = found[0]
            else:
                await self._redis.ping()

        await self._link.ask(look, None, wait=True)

    async def _made(self, asked: tuple[Any, ...]) -> Any:
        """Ask, after making the index where there is none: also a Redis that forgot everything serves."""
        try:
            return await self._redis.execute_command(*asked)
        except ResponseError as error:
            if "no such index" not in str(error).lower():
                raise
        await self._make()
        return await self._redis.execute_command(*asked)

    async def _make(self) -> None:
        schema = (
            "scope", "TAG", "answer", "TAG", "owner", "TAG",
            "vector", "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", self._dimensions,
            "DISTANCE_METRIC", "COSINE", "M", _LINKS, "EF_CONSTRUCTION", _WIDTH_BUILT,
        )  # fmt: skip
        try:
            await self._redis.execute_command(
                "FT.CREATE", self._name, "ON", "HASH", "PREFIX", 1, self._prefix, "SCHEMA", *schema
            )
        except ResponseError as error:
            if "already exists" not in str(error).lower():  # another gateway was first
                raise


async def _names(redis: Any, prefix: str, most: int) -> list[bytes]:
    names: list[bytes] = []
    async for name in redis.scan_iter(match=prefix + "*", count=_AT_ONCE):
        names.append(name)
        if len(names) == most:
            break
    return names


async def _purged(redis: Any, prefix: str) -> int:
    names, purged = await _names(redis, prefix, 1 << 40), 0
    for at in range(0, len(names), _AT_ONCE):
        purged += await redis.delete(*names[at : at + _AT_ONCE])
    return purged
