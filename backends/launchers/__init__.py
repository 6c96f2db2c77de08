"""Where replicas run: a file each, a line in `LAUNCHERS` each."""

from collections.abc import Callable
from pathlib import Path

from backends.launchers.attached import AttachedLauncher
from backends.launchers.base import Launcher, MakeCommand, Process
from backends.launchers.local import LocalLauncher

LAUNCHERS: dict[str, Callable[[Path], Launcher]] = {"attached": AttachedLauncher, "local": LocalLauncher}
"""name -> made with the state directory"""

__all__ = ["LAUNCHERS", "AttachedLauncher", "Launcher", "LocalLauncher", "MakeCommand", "Process"]
