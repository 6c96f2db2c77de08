"""Loops: a failed step is counted and tried again, and readiness hears of it."""

import asyncio
import contextlib
import functools
import logging
import math
from typing import Any

import pytest

from gateway.loops import Loop, running
from tests.fakes import loop as virtual


class Step:
    """Fails as often as it was told, then works; tells when it was called so often."""

    def __init__(self, failures: int, calls: int) -> None:
        self._failures, self._calls = failures, calls
        self.called = 0
        self.enough = asyncio.Event()

    async def __call__(self) -> None:
        self.called += 1
        if self.called >= self._calls:
            self.enough.set()
        if self.called <= self._failures:
            raise OSError(f"no {self.called}\nsecret second line")


def test_a_failing_step_is_counted_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    failed: list[str] = []
    seen: list[tuple[bool, str]] = []

    async def life() -> None:
        step = Step(failures=4, calls=6)

        async def watched() -> None:
            seen.append((loop.well, loop.last_error))
            await step()

        loop = Loop("carry", 0.0, watched)
        async with running([loop], failed.append):
            await step.enough.wait()
        called = step.called
        for _ in range(5):
            await asyncio.sleep(0)
        assert step.called == called  # nothing runs behind the block

    asyncio.run(life())
    assert [well for well, _ in seen[:6]] == [True, True, True, False, False, True]
    assert [error for _, error in seen[:4]] == ["", *(f"OSError: no {number}" for number in (1, 2, 3))]
    assert failed == ["carry"] * 4
    said = [record.getMessage() for record in caplog.records]
    assert said == ["loop carry failed 1 times: OSError: no 1", "loop carry works again"]


def test_a_loop_that_fails_does_not_hold_up_the_others() -> None:
    async def life() -> tuple[int, int]:
        bad, good = Step(failures=10**9, calls=10), Step(failures=0, calls=10)
        async with running([Loop("bad", 0.0, bad), Loop("good", 0.0, good)], lambda _: None):
            await bad.enough.wait()
            await good.enough.wait()
        return bad.called, good.called

    bad, good = asyncio.run(life())
    assert min(bad, good) >= 10


def test_loops_end_where_the_block_raises() -> None:
    async def block(step: Step) -> None:
        async with running([Loop("one", 0.0, step)], lambda _: None):
            await step.enough.wait()
            raise ZeroDivisionError

    async def life() -> None:
        with pytest.raises(ZeroDivisionError):
            await block(Step(failures=0, calls=1))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(life())


def test_a_step_that_swallows_a_cancellation_does_not_run_on() -> None:
    began, swallowed = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if swallowed.is_set():
                raise
            swallowed.set()

    async def life() -> None:
        async with running([Loop("deaf", 0.0, deaf)], lambda _: None):
            await began.wait()
        assert swallowed.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(life())


class CountingLoop(virtual.VirtualTimeLoop):
    """Counts the timers."""

    timers = 0

    def call_at(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        self.timers += 1
        return super().call_at(*args, **options)


def test_what_is_due_together_is_woken_together() -> None:
    turns = dict.fromkeys((0.5, 1.0, 2.0), 0)

    async def turn(period_s: float) -> None:
        turns[period_s] += 1

    async def life() -> int:
        loops = [Loop("turn", one, functools.partial(turn, one)) for one in turns for _ in range(5)]
        async with running(loops, lambda _: None):
            await asyncio.sleep(9.9)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        return loop.timers

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(life()) <= 20 + 3  # a timer for each half second, and the sleep's
    assert turns == {0.5: 5 * 20, 1.0: 5 * 10, 2.0: 5 * 5}


def test_a_step_is_left_out_where_there_is_nothing_to_do() -> None:
    jobs, done = 0, list[float]()

    async def life() -> None:
        nonlocal jobs
        began_s = asyncio.get_running_loop().time()

        async def step() -> None:
            nonlocal jobs
            done.append(asyncio.get_running_loop().time() - began_s)
            jobs = 0

        def broken() -> bool:
            raise ZeroDivisionError

        async with running([Loop("now and then", 1.0, step, due=lambda: jobs)], lambda _: None):
            for jobs in (0, 0, 1, 0, 2):  # noqa: B007  # what the loop finds at its next point
                await asyncio.sleep(1.0)
        assert [round(one) for one in done] == [0, 3, 5]
        failing = Loop("failing", 1.0, Step(failures=9, calls=9), due=lambda: jobs)
        jobs = 1
        async with running([failing], lambda _: None):
            await asyncio.sleep(4.0)
            wells = [failing.well]
            jobs = 0
            await asyncio.sleep(1.0)
            wells.append(failing.well)
        assert wells == [False, True]
        done.clear()
        async with running([Loop("cannot tell", 1.0, step, due=broken)], lambda _: None):
            await asyncio.sleep(1.5)
        assert len(done) == 2

    with asyncio.Runner(loop_factory=virtual.VirtualTimeLoop) as runner:
        runner.run(life())


class CoarseLoop(virtual.VirtualTimeLoop):
    """Tells the time by the millisecond, as uvloop does."""

    def time(self) -> float:
        return math.floor(super().time() * 1000) / 1000


@pytest.mark.parametrize("period_s", [0.1, 0.25, 0.3, 1.0])
def test_a_loop_turns_once_a_period_also_where_the_period_does_not_divide_evenly(period_s: float) -> None:
    turns = 0
    far_too_many = asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns > 100:
            far_too_many.set()

    async def life() -> None:
        async with running([Loop("turn", period_s, turn)], lambda _: None):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30 * period_s):
                    await far_too_many.wait()

    with asyncio.Runner(loop_factory=CoarseLoop) as runner:
        runner.run(life())
    assert 29 <= turns <= 32
