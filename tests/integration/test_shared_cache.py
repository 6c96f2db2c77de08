"""What one gateway keeps the others serve: through a real Redis, which may be away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis.exceptions import RedisError

from semantic_cache.stores.base import Alias, Entry
from semantic_cache.stores.shared import SharedIndex, SharedLog, SharedStore
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, good
from tests.integration.gateway import Gateway, Upstreams, config, model, running
from tests.integration.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def entry(body: bytes = b"x") -> Entry:
    return Entry(
        id="e", tenant="t", model="m", body=body, prompt_tokens=1, cached_tokens=0, completion_tokens=1,
        stored_s=0.0, expires_s=1e12,
    )  # fmt: skip


def alias(answer: str) -> Alias:
    return Alias(
        id="i" + answer, answer=answer, text="a text", vector=np.eye(4, dtype=np.float32)[0], owner="",
        worth=1.0, stored_s=0.0, expires_s=1e12,
    )  # fmt: skip


class Process:
    """The stores of one process."""

    def __init__(self, url: str) -> None:
        self.log = SharedLog(url, None, 1.0)
        self.store = SharedStore(1_000_000, 1_000, "exact", self.log)
        self.index = SharedIndex(100, 1_000_000, self.log)

    async def near(self) -> list[str]:
        return [one.answer for one in await self.index.near(b"s", np.eye(4, dtype=np.float32)[0], 9, 0.0)]


def test_what_one_keeps_and_drops_the_other_hears(server: RedisServer) -> None:
    async def play() -> None:
        server.client.flushall()
        a, b = Process(server.url), Process(server.url)
        await a.store.put(b"k", entry())
        await a.store.put(b"big", entry(b"x" * 100_000))
        await a.index.add(b"s", alias("aa"))
        await a.index.add(b"s", alias("bb"))
        await a.log.send()
        await b.log.receive()
        assert await b.store.get(b"k", 0.0) == entry()
        assert await b.store.get(b"big", 0.0) is None
        assert await b.near() == ["aa", "bb"]
        assert await b.index.drop({"aa"}) == 1
        assert await b.store.drop([b"k"]) == 1
        await b.log.send()
        await a.log.receive()
        assert await a.near() == ["bb"]
        assert await a.store.get(b"k", 0.0) is None
        assert await a.index.purge() == 1
        assert await a.store.purge() == 1
        await a.log.send()
        late = Process(server.url)
        for one in (b, late):
            await one.log.receive()
            assert await one.near() == []
            assert len(one.store) == 0
        for one in (a, b, late):
            await one.log.close()

    asyncio.run(play())


def test_with_redis_away_everything_goes_on_and_is_told_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    async def play() -> None:
        a, b = Process(server.url), Process(server.url)
        await a.store.put(b"old", entry())
        await a.log.send()
        await b.log.receive()
        server.stop()
        await a.store.put(b"k", entry())
        assert await a.store.get(b"k", 0.0) == entry()
        for step in (a.log.send, b.log.receive):
            with pytest.raises((RedisError, OSError)):
                await step()
        for number in range(2_100):
            await a.store.put(b"%d" % number, entry())
        assert a.log.lost == 101
        server.start()  # it has forgotten everything
        await b.log.receive()
        await a.log.send()
        await b.log.receive()
        assert await b.store.get(b"2099", 0.0) == entry()
        for one in (a, b):
            await one.log.close()

    asyncio.run(play())
    server.close()


def test_an_answer_kept_by_one_gateway_hits_on_the_other(server: RedisServer, tmp_path: Path) -> None:
    server.client.flushall()
    upstreams = Upstreams(1)
    gateways = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        text = config(
            model("m", upstreams.ports), directory=directory, more=f'[redis]\nurl = "{server.url}"\n',
            cache='exact_ttl_s = 60\nsemantic = { error_bound = 0.3, precision = 0.5 }',
        )  # fmt: skip
        gateways.append(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN))
    one, two = gateways
    with running(one, upstreams):
        try:
            until(lambda: one.ready() and two.ready())
            entry_id = one.chat("m", "What is a lamp?")[1]["x-request-id"]
            assert entry_id
            until(lambda: two.metric("switchgear_cache_entries") == 1)
            until(lambda: two.metric("switchgear_semantic_texts") == 1)
            assert two.chat("m", "What is a lamp?")[1]["x-switchgear-cache"] == "hit-exact"
            good(two, "POST", "cache/purge", {"everything": True})
            until(lambda: one.metric("switchgear_cache_entries") == 0)
            assert one.chat("m", "What is a lamp?")[1]["x-switchgear-cache"] == "miss"
        finally:
            assert two.stop() == 0
