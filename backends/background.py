"""Named tasks that are kept until they end; what one raises is logged, not lost."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

LOG = logging.getLogger("switchgear.fleet")


class Background:
    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the work as a task of that name."""

        async def logged() -> None:
            try:
                await work
            except Exception:
                LOG.exception("fleet: %s failed", name)

        task = asyncio.create_task(logged(), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))
        return task

    async def stop(self) -> None:
        """Cancel what still runs."""
        for task in list(self._tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
