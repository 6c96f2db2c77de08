"""Work that repeats beside the requests: named loops, listed in one place (``gateway.rounds``).

Periods lie on one grid: a process that wakes seldom for many things costs less than one that wakes often,
each time with cold caches. A step that fails is logged, counted and tried again at the next period; a loop
that had no success for three periods makes readiness say so.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

log = logging.getLogger("switchgear.loops")

MOMENT = 0.05  # of a period
CANCEL_AGAIN_S = 0.5  # a client's own time-out may take our cancellation for its own, and swallow it


class Loop:
    """One named step and its period in seconds, which may change.

    Where ``due`` says that there is nothing to do, the step is left out: asked each period, it must be cheap.
    """

    def __init__(
        self,
        name: str,
        period_s: float | Callable[[], float],
        step: Callable[[], Awaitable[object]],
        due: Callable[[], object] = lambda: True,
    ) -> None:
        self.name = name
        self.period_s: Callable[[], float] = period_s if callable(period_s) else lambda: period_s
        self.step = step
        self.due = due
        self.failures_in_row = 0
        self.last_error = ""

    @property
    def well(self) -> bool:
        """Whether one of the last three periods was a success."""
        return self.failures_in_row < 3


class Grid:
    """Wakes all that is due at one point by one timer; belongs to the event loop it is made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[float, list[tuple[Loop, asyncio.Future[None]]]] = {}

    async def next(self, loop: Loop) -> None:
        """Wait until a loop is due again, at a whole number of its periods; for a turn where it has none."""
        if not loop.period_s():
            await asyncio.sleep(0)
            return
        turn = self._loop.create_future()
        self._enter(loop, turn)
        await turn

    def _enter(self, loop: Loop, turn: asyncio.Future[None]) -> None:
        """Enter a turn for the next point; one that is a moment away is this one.

        Timers fire a little early, and no period divides evenly.
        """
        period_s, now_s = loop.period_s(), self._loop.time()
        point_s = (now_s // period_s + 1.0) * period_s
        if point_s - now_s <= MOMENT * period_s:
            point_s += period_s
        if (waiting := self._waiting.get(point_s)) is None:
            waiting = self._waiting[point_s] = []
            self._loop.call_at(point_s, self._wake, point_s)
        waiting.append((loop, turn))

    def _wake(self, point_s: float) -> None:
        for loop, turn in self._waiting.pop(point_s):
            if turn.done():
                continue
            if _due(loop):
                turn.set_result(None)
            else:
                loop.failures_in_row = 0  # what failed is not wanted any more
                self._enter(loop, turn)


def _due(loop: Loop) -> bool:
    try:
        return bool(loop.due())
    except Exception:  # the step will say what is wrong
        return True


async def run(
    loop: Loop, grid: Grid, failed: Callable[[str], None], took: Callable[[str, float], None]
) -> None:
    """Run a loop until it is cancelled."""
    while True:
        started_s = time.monotonic()
        try:
            await loop.step()
        except Exception as error:
            loop.failures_in_row += 1
            loop.last_error = f"{type(error).__name__}: {error}".splitlines()[0]
            failed(loop.name)
            if loop.failures_in_row in (1, 10) or loop.failures_in_row % 100 == 0:
                log.warning("loop %s failed %d times: %s", loop.name, loop.failures_in_row, loop.last_error)
        else:
            if loop.failures_in_row:
                log.info("loop %s works again", loop.name)
            loop.failures_in_row = 0
        took(loop.name, time.monotonic() - started_s)
        await grid.next(loop)


@contextlib.asynccontextmanager
async def running(
    loops: Sequence[Loop],
    failed: Callable[[str], None],
    took: Callable[[str, float], None] = lambda _name, _spent_s: None,
) -> AsyncGenerator[None, None]:
    """Run loops as tasks inside the block; hears which fail, and how many seconds each step takes."""
    grid = Grid()
    tasks = [asyncio.create_task(run(loop, grid, failed, took), name=loop.name) for loop in loops]
    try:
        yield
    finally:
        await ended(tasks)


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended, however; what they raise is not told."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
