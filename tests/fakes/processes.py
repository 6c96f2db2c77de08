"""Waiting for real processes: polling with a deadline, never a bare sleep."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 30.0


def until(what: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Poll until it is true; fails the test after the deadline."""
    end_s = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end_s, "not so within the deadline"
        time.sleep(0.02)


async def until_async(what: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < end_s, "not so within the deadline"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """True for a process that is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def numbers(lines: tuple[str, ...], before: str) -> list[int]:
    """The pids that a fake engine prints: the word after `before`."""
    return [int(line.removeprefix(before).split()[0]) for line in lines if line.startswith(before)]
