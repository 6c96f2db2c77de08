"""The seam of the logs: one suite over the memory of a process and over a real Redis; Redis's own faults."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from gateway.state.broadcast import Overrun, Reader
from gateway.state.logs import Log, Logs, Lost, MemoryLogs
from gateway.state.redis_logs import RedisLogs
from tests.integration.redis_server import RedisServer

LIMIT = 1024 * 1024
LEASE_S = 0.5

Make = Callable[[], Logs]
Life = Callable[[Make], Awaitable[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def shared(server: RedisServer, timeout_s: float = 30.0) -> RedisLogs:
    return RedisLogs(server.url, password=None, timeout_s=timeout_s, lease_s=LEASE_S, kept_bytes=LIMIT)


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes the logs of one process after another; in memory they share one table."""
    if request.param == "memory":
        table: dict[str, Log] = {}
        return lambda: MemoryLogs(LIMIT, table)
    server: RedisServer = request.getfixturevalue("server")
    server.client.flushall()
    return lambda: shared(server)


@contextlib.asynccontextmanager
async def processes(make: Make, count: int) -> AsyncIterator[list[Logs]]:
    made = [make() for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


async def everything(log: Log, reader: Reader) -> list[bytes]:
    found: list[bytes] = []
    while frames := await log.read(reader):
        found += frames
    return found


async def heard(logs: Logs, log: Log, wanted: bool) -> None:
    """Wait until it is so."""
    while await logs.listened(log) != wanted:  # noqa: ASYNC110  # it is Redis that knows
        await asyncio.sleep(0.01)


def test_one_of_many_writes_and_all_read_the_same(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 3) as made:
            claims = await asyncio.gather(*(one.claim("x", LIMIT) for one in made for _ in range(20)))
            assert [claim.mine for claim in claims].count(True) == 1
            (writer,) = [claim.log for claim in claims if claim.mine]
            owner = made[[claim.mine for claim in claims].index(True) // 20]
            readers = [(claim.log, claim.log.buffer.join()) for claim in claims]
            reading = [asyncio.create_task(everything(*one)) for one in readers]
            frames = [b"%d" % number * (number % 50) + b"." for number in range(1200)]
            for number, frame in enumerate(frames):
                writer.append(frame)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            owner.end(writer)
            for got in await asyncio.gather(*reading):
                assert got == frames

    asyncio.run(life())


def test_the_name_is_free_again_behind_the_end(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 2) as (here, there):
            first = await here.claim("x", LIMIT)
            first.log.append(b"a")
            other = await there.claim("x", LIMIT)
            reader = other.log.buffer.join()
            here.end(first.log)
            assert await everything(other.log, reader) == [b"a"]
            while not (again := await there.claim("x", LIMIT)).mine:
                reader = again.log.buffer.join()
                with contextlib.suppress(Lost):
                    await everything(again.log, reader)
                reader.leave()
            assert again.log.buffer.length == 0
            there.end(again.log)

    asyncio.run(life())


def test_a_kept_log_is_found_by_all_with_its_beginning(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 2) as (here, there):
            made = (await here.claim("x", LIMIT)).log
            made.append(b"first")
            for number in range(3000):
                made.append(b"%d" % number * 200)
            here.end(made, keep_s=60)
            assert not made.buffer.whole
            found = await there.find("x")
            assert found is not None
            while not found.buffer.ended:
                with contextlib.suppress(Overrun):
                    await everything(found, found.buffer.join(found.buffer.base))
            assert found.buffer.first == b"first"
            rest = found.buffer.join(found.buffer.base)
            assert (await everything(found, rest))[-1] == b"2999" * 200
            assert await there.find("y") is None

    asyncio.run(life())


def test_the_oldest_of_those_that_are_kept_go_for_all_where_they_are_too_many(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 2) as (here, there):
            for name in ("old", "new", "newest"):
                made = (await here.claim(name, LIMIT)).log
                made.append(b"x" * (LIMIT // 2))
                here.end(made, keep_s=60)
            while await there.find("old") is not None:  # noqa: ASYNC110  # it is Redis that forgets
                await asyncio.sleep(0.01)
            for name in ("new", "newest"):
                found = await there.find(name)
                assert found is not None
                assert sum(map(len, await everything(found, found.buffer.join()))) == LIMIT // 2

    asyncio.run(life())


def test_a_log_is_kept_no_longer_than_it_was_to_be(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 2) as (here, there):
            made = (await here.claim("x", LIMIT)).log
            made.append(b"x")
            here.end(made, keep_s=0.3)
            assert await here.find("x") is made
            while await here.find("x") is not None or await there.find("x") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert (await there.claim("x", LIMIT)).mine

    asyncio.run(life())


def test_a_writer_knows_whether_anybody_reads(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 2) as (here, there):
            made = (await here.claim("x", LIMIT)).log
            assert not await here.listened(made)
            other = (await there.claim("x", LIMIT)).log
            reader = other.buffer.join()
            await heard(here, made, True)
            reader.leave()
            await heard(here, made, False)
            here.end(made)

    asyncio.run(life())


def test_a_log_that_lost_its_beginning_is_not_joined(make: Make) -> None:
    async def life() -> None:
        async with processes(make, 1) as (here,):
            made = (await here.claim("x", 1000)).log
            for _ in range(20):
                made.append(b"x" * 100)
            alone = await here.claim("x", 1000)
            assert alone.mine
            assert alone.log is not made
            here.end(alone.log)
            here.end(made)

    asyncio.run(life())


# ---------------------------------------------------------------- Redis's own
def test_a_writer_that_dies_is_noticed_within_the_lease_and_one_takes_over(server: RedisServer) -> None:
    async def life() -> None:
        dead, *living = [shared(server) for _ in range(4)]
        gone = (await dead.claim("died", LIMIT)).log
        gone.append(b"a")
        claims = [await one.claim("died", LIMIT) for one in living]
        readers = [claim.log.buffer.join() for claim in claims]
        assert [await claim.log.read(reader) for claim, reader in zip(claims, readers, strict=True)] == [
            [b"a"]
        ] * 3
        assert dead._pump is not None
        dead._pump.cancel()  # as if it had been killed: nothing renews its lease
        for claim, reader in zip(claims, readers, strict=True):
            with pytest.raises(Lost):
                await claim.log.read(reader)
            reader.leave()
        again = [await one.claim("died", LIMIT) for one in living]
        assert [claim.mine for claim in again].count(True) == 1
        for one in (*living, dead):
            await one.close()

    asyncio.run(life())


def test_without_redis_each_process_goes_on_alone(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    async def life() -> None:
        here, there = shared(server, 0.2), shared(server, 0.2)
        mine = await here.claim("x", LIMIT)
        copy = await there.claim("x", LIMIT)
        reader, own = copy.log.buffer.join(), mine.log.buffer.join()
        server.stop()
        with pytest.raises(Lost):
            await copy.log.read(reader)
        mine.log.append(b"a")
        here.end(mine.log)
        assert await everything(mine.log, own) == [b"a"]
        assert (await there.claim("x", LIMIT)).mine
        assert await there.find("z") is None
        server.start()
        await asyncio.sleep(1.1)
        fresh = await here.claim("w", LIMIT)
        assert fresh.mine
        assert not (await there.claim("w", LIMIT)).mine, "they share again"
        await here.close()
        await there.close()

    asyncio.run(life())
    server.close()
