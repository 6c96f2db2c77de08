"""Where replicas run: a file each, a line in `LAUNCHERS` each."""

from collections.abc import Callable
from pathlib import Path

from backends.launchers.attached import AttachedLauncher
from backends.launchers.base import Claim, Launcher, MakeCommand, Process
from backends.launchers.local import LocalLauncher

LAUNCHERS: dict[str, Callable[[Path, float], Launcher]] = {
    "attached": AttachedLauncher,
    "local": LocalLauncher,
}
"""name -> made with the state directory, and how long replicas outlive a gateway that was killed"""


def launchers(state_dir: Path, orphan_s: float) -> dict[str, Launcher]:
    """One of each; engines outlive a killed gateway by `orphan_s`."""
    return {name: make(state_dir, orphan_s) for name, make in LAUNCHERS.items()}


__all__ = [
    "LAUNCHERS",
    "AttachedLauncher",
    "Claim",
    "Launcher",
    "LocalLauncher",
    "MakeCommand",
    "Process",
    "launchers",
]
