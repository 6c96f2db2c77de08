"""The seam between the fleet and whatever runs its processes."""

from collections.abc import Callable, Mapping
from typing import Protocol

from backends.engines.profile import LaunchCommand, Place

MakeCommand = Callable[[int], LaunchCommand]
"""port -> the command that serves on it"""


class Process(Protocol):
    """One replica that was started (or found running)."""

    @property
    def url(self) -> str:
        """Its base, ending in `/v1`."""

    async def wait(self) -> int:
        """Its exit status, when it has ended; may be awaited by several."""

    async def stop(self, grace_s: float) -> int:
        """Ask it to end, kill it and all its children after `grace_s`, return its exit status."""

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines it wrote since its start, oldest first."""


Claim = Callable[[str, Place], MakeCommand | None]
"""replica id, what it is -> the command that it should run by; None where it is not wanted"""


class Launcher(Protocol):
    """Runs replicas in one kind of place."""

    async def start(self, replica_id: str, make: MakeCommand, url: str) -> Process:
        """Start the replica; `url` is where it is declared to be, "" where the launcher chooses.

        Raises OSError where it cannot be started.
        """

    def left(self) -> Mapping[str, Place]:
        """What an earlier run left running, by replica id, and that could be taken over."""

    async def sweep(self, claim: Claim) -> Mapping[str, Process]:
        """Take over what an earlier run left and is claimed, with the very same command; end the rest.

        Raises OSError where another gateway that is alive runs replicas from the same place.
        """
