"""Limits in a real Redis: several processes, and a Redis that is away, slow, forgetful or strict."""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.state.limits import Ask, Bound, Verdict
from gateway.state.redis import RedisAway, RedisLimits
from tests.integration.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
PREFIX = "switchgear:limits:"
NOW_S = 1_795_000_000.0
HOLDERS = PREFIX + "holders"
HELD = PREFIX + "held:key:k"
PATIENT_S, SHORT_S = 30.0, 0.05

TAKER = """
import asyncio, sys
from gateway.state.limits import Ask, Bound
from gateway.state.redis import RedisLimits

async def main():
    limits = RedisLimits(sys.argv[1], timeout_s=30.0, alone=lambda: None)
    await limits.step(0.0)
    print("joined", flush=True)
    sys.stdin.readline()
    org = Bound(account="org:o", rpm=60, concurrency=40)
    ask = Ask(bounds=(org, Bound(account="key:k", concurrency=37)), tokens=1, cost_nanousd=0)
    verdicts = await asyncio.gather(*(limits.take(ask, 1_795_000_000.0) for _ in range(50)))
    print(sum(verdict.short is None for verdict in verdicts), flush=True)
    sys.stdin.readline()
    await limits.close()

asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    yield made
    made.close()


class Gateway:
    """The limits of one gateway process, and how often it was alone."""

    def __init__(self, url: str, timeout_s: float = PATIENT_S, **options: Any) -> None:
        self.times_alone = 0
        self.limits = RedisLimits(url, timeout_s=timeout_s, alone=self._alone, **options)

    def _alone(self) -> None:
        self.times_alone += 1

    async def take(self, ask: Ask) -> Verdict:
        return await self.limits.take(ask, NOW_S)

    def settle(self, ask: Ask) -> None:
        self.limits.settle(ask, 0, ask.tokens, 0, NOW_S)


@contextlib.asynccontextmanager
async def joined(url: str, timeout_s: float = PATIENT_S, **options: Any) -> Any:
    made = Gateway(url, timeout_s, **options)
    await made.limits.step(NOW_S)
    try:
        yield made
    finally:
        await made.limits.close()


def ask(tokens: int = 1, **limits: Any) -> Ask:
    return Ask(bounds=(Bound(account="key:k", **limits),), tokens=tokens, cost_nanousd=0)


async def back(gateway: Gateway) -> None:
    """Let it notice, and join again."""
    while True:
        with contextlib.suppress(RedisAway):
            await gateway.limits.step(NOW_S)
            return


# ---------------------------------------------------------------- several processes
def test_complaint_19_with_several_processes_the_limit_is_the_limit(server: RedisServer) -> None:
    """litellm#40295 and its kind: not N times it. A process that is killed gives its slots back in time."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, server.url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for _ in range(3)
    ]  # fmt: skip

    def said(child: "subprocess.Popen[str]") -> str:
        assert child.stdout is not None
        return child.stdout.readline().strip()

    def go(child: "subprocess.Popen[str]") -> None:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()

    assert [said(child) for child in children] == ["joined"] * 3
    for child in children:
        go(child)
    counts = [int(said(child)) for child in children]
    assert sum(counts) == 37, "the tightest: not the organisation's 40, not 60 by rate"
    assert sum(map(int, server.client.hgetall(PREFIX + "held:org:o").values())) == 37
    children[0].kill()
    children[0].wait()
    for child in children[1:]:
        go(child)
        assert child.wait() == 0
    for child in children:
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
    assert server.client.zcard(HOLDERS) == 1, "the killed one, whose time is not up yet"


def test_what_a_dead_process_held_is_free_when_its_time_is_up(server: RedisServer) -> None:
    async def life() -> None:
        one = ask(concurrency=2)
        async with joined(server.url) as dead, joined(server.url) as other:
            assert [(await dead.take(one)).short for _ in range(2)] == [None, None]
            assert (await other.take(one)).short == "concurrency"
            server.client.zrem(HOLDERS, server.client.zrange(HOLDERS, 0, 0)[0])
            assert [(await other.take(one)).short for _ in range(2)] == [None, None]

    asyncio.run(life())


def test_a_process_that_was_taken_for_dead_comes_back_with_what_it_holds(server: RedisServer) -> None:
    async def life() -> None:
        one = ask(concurrency=3)
        async with joined(server.url) as slow:
            assert [(await slow.take(one)).short for _ in range(2)] == [None, None]
            server.client.delete(HOLDERS)
            assert (await slow.take(one)).short is None
            assert slow.times_alone == 1
            assert "redis" in slow.limits.errors
            await back(slow)
            assert (await slow.take(one)).short == "concurrency"
            for _ in range(3):
                slow.settle(one)
            await slow.limits.flushed()
            assert server.client.hgetall(HELD) == {}
            assert slow.times_alone == 1

    asyncio.run(life())


# ---------------------------------------------------------------- what Redis keeps, and for how long
def test_complaint_20_nothing_is_kept_in_redis_longer_than_it_counts(server: RedisServer) -> None:
    """litellm#14204: constant traffic prolongs neither a window nor a period."""

    async def life() -> None:
        one = ask(rpm=60, tpd=86_400)
        async with joined(server.url) as gateway:
            for _ in range(5):
                assert (await gateway.take(one)).short is None
                gateway.settle(one)
                await gateway.limits.flushed()
                assert 0 < server.client.pttl(PREFIX + "rates:key:k") <= 5_100
            assert set(server.client.keys("*")) == {HOLDERS, PREFIX + "rates:key:k"}

    asyncio.run(life())


def test_every_key_has_the_prefix_and_a_strict_server_is_content(server: RedisServer) -> None:
    server.client.acl_setuser(
        "gateway", enabled=True, passwords=["+secret"], keys=["switchgear:*"],
        categories=["+@read", "+@write", "+@scripting", "+@connection", "-@dangerous"], commands=["+time"],
    )  # fmt: skip

    async def life() -> None:
        url = server.url.replace("redis://", "redis://gateway@")
        async with joined(url, password="secret") as gateway:
            one = ask(rpm=5, tpm=50, concurrency=5)
            assert (await gateway.take(one)).short is None
            await gateway.limits.flushed()
            keys = server.client.keys("*")
            assert len(keys) == 3
            assert all(key.startswith(PREFIX) for key in keys)
            gateway.settle(one)
            await gateway.limits.step(NOW_S)
            assert gateway.limits.errors == {}

        refused = Gateway(url, password="wrong")
        with pytest.raises(RedisAway, match=r"(?i)password|auth"):
            await refused.limits.step(NOW_S)
        assert "wrong" not in refused.limits.errors["redis"]
        await refused.limits.close()

    asyncio.run(life())


# ---------------------------------------------------------------- Redis is away
def test_without_redis_each_process_keeps_its_share(server: RedisServer) -> None:
    async def life() -> None:
        one = ask(rpm=10, concurrency=8)
        async with joined(server.url) as first, joined(server.url) as second:
            await first.limits.step(NOW_S)  # which tells it that they are two
            server.stop()
            for gateway in (first, second):
                shorts = [(await gateway.take(one)).short for _ in range(6)]
                assert shorts == [None] * 4 + ["concurrency"] * 2, "half of the slots"
                assert gateway.times_alone == 6
                assert gateway.limits.errors["redis"].startswith("away")
            with pytest.raises(RedisAway):
                await first.limits.step(NOW_S)
            server.start()
            for gateway in (first, second):
                await back(gateway)
            assert (await first.take(one)).short == "concurrency", "Redis knows from both what runs"
            for _ in range(4):
                second.settle(one)
            await second.limits.flushed()
            assert (await first.take(ask(concurrency=8))).short is None

    asyncio.run(life())


def test_a_redis_that_hangs_holds_up_nobody_for_long(server: RedisServer) -> None:
    async def life() -> None:
        one = ask(concurrency=100)
        async with joined(server.url, SHORT_S) as gateway:
            server.hold()
            verdicts = await asyncio.gather(*(gateway.take(one) for _ in range(60)))
            assert {verdict.short for verdict in verdicts} == {None}
            assert gateway.times_alone == 60
            assert "no answer within" in gateway.limits.errors["redis"]
            server.let_go()
            await back(gateway)
            await gateway.limits.flushed()
            assert "60" in server.client.hgetall(HELD).values()
        other = Gateway(server.url)
        await other.limits.step(NOW_S)
        assert (await other.take(one)).short is None
        assert set(server.client.hgetall(HELD).values()) == {"1"}, (
            "what hung is not counted twice, nor for ever"
        )
        await other.limits.close()

    asyncio.run(life())


def test_a_redis_that_forgot_is_told_what_runs(server: RedisServer) -> None:
    async def life() -> None:
        one = ask(concurrency=9)
        async with joined(server.url) as gateway:
            for _ in range(4):
                assert (await gateway.take(one)).short is None
            gateway.settle(one)
            await gateway.limits.flushed()
            server.stop()
            gateway.settle(one)
            server.start()
            await back(gateway)
            await gateway.limits.flushed()
            assert list(server.client.hgetall(HELD).values()) == ["2"]

    asyncio.run(life())


def test_a_redis_that_came_back_with_older_data_is_told(server: RedisServer) -> None:
    async def life() -> None:
        async with joined(server.url) as gateway:
            one = ask(concurrency=2)
            assert (await gateway.take(one)).short is None
            await gateway.limits.step(NOW_S)
            ((holder, score),) = server.client.zrange(HOLDERS, 0, -1, withscores=True)
            server.client.hset(HELD, holder, 0)
            server.client.zadd(HOLDERS, {holder: score - 1})
            await gateway.limits.step(NOW_S)
            assert gateway.limits.errors == {}
            assert [(await gateway.take(one)).short for _ in range(2)] == [None, "concurrency"]

    asyncio.run(life())


def test_a_client_that_leaves_while_we_ask_leaves_nothing_behind(server: RedisServer) -> None:
    async def life() -> None:
        async with joined(server.url) as gateway:
            one = ask(concurrency=2, rpm=2)
            server.hold()
            leaving = [asyncio.create_task(gateway.take(one)) for _ in range(2)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            server.let_go()
            await gateway.limits.flushed()
            assert server.client.hgetall(HELD) == {}
            assert (await gateway.take(one)).short == "requests", "the rate was used"

    asyncio.run(life())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_redis_it_knows_in_the_end_what_runs(server: RedisServer, seed: int) -> None:
    chance = random.Random(seed)

    async def life() -> None:
        async with joined(server.url, SHORT_S) as gateway:
            running: list[Ask] = []

            async def take() -> None:
                one = ask(tokens=chance.randrange(50), concurrency=30)
                if (await gateway.take(one)).short is None:
                    running.append(one)

            up = True
            for _ in range(60):
                if chance.random() < 0.15:
                    (server.hold if up else server.let_go)()
                    up = not up
                if chance.random() < 0.05 and up:
                    server.client.flushall()
                with contextlib.suppress(RedisAway):
                    if chance.random() < 0.3:
                        step = asyncio.create_task(gateway.limits.step(NOW_S))
                        await take()
                        await asyncio.wait([step], timeout=0.1 if up else 0.01)
                        if not step.done():
                            step.cancel()
                for _ in range(chance.randrange(4)):
                    await take()
                while running and chance.random() < 0.6:
                    gateway.settle(running.pop(chance.randrange(len(running))))
            server.let_go()
            await back(gateway)
            await gateway.limits.step(NOW_S)
            await gateway.limits.flushed()
            ((holder, _),) = [
                one for one in server.client.zrange(HOLDERS, 0, -1, withscores=True)
                if one[0] == gateway.limits._holder
            ]  # fmt: skip
            held = server.client.hgetall(HELD)
            assert int(held.get(holder, 0)) == len(running)

    asyncio.run(life())
