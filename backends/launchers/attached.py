"""Replicas that run already: nothing is started and nothing is ended."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from backends.engines.profile import Place
from backends.launchers.base import Claim, MakeCommand, Process


class AttachedProcess:
    """Ends only for us, when it is stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        return self._url

    async def wait(self) -> int:
        await self._stopped.wait()
        return 0

    async def stop(self, grace_s: float) -> int:
        self._stopped.set()
        return 0

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        return ()


class AttachedLauncher:
    def __init__(self, state_dir: Path, orphan_s: float = 0.0) -> None:
        """Keeps no state; the arguments are every launcher's."""

    async def start(self, replica_id: str, make: MakeCommand, url: str) -> Process:
        return AttachedProcess(url)

    def left(self) -> Mapping[str, Place]:
        return {}

    async def sweep(self, claim: Claim) -> Mapping[str, Process]:
        return {}
