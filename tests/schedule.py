"""How the suite runs in several processes: who gets which tests, and what they report at the end.

The files that use the real engines are one piece of work, the first: one process starts the engines, once.
Every other file is a piece of its own.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it comes without types

ENGINES = re.compile(r"\b(appliance|engine_python|demo_home|engine_env)\b")
REMARKS = "remarks"
"""Where a process leaves its lines for the end of the run."""


@cache
def uses_engines(file: Path) -> bool:
    """Whether a test file speaks of the fixtures that need the engines."""
    return ENGINES.search(file.read_text()) is not None


class EnginesFirst(LoadFileScheduling):  # type: ignore[misc]  # it comes without types
    """A file's tests stay together, and so do all that use the engines."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "engines" if uses_engines(self.config.rootpath / file) else file


class Processes:
    """The plugin of the process that hands the work out; also where there is only one."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> EnginesFirst:
        return EnginesFirst(config, log)

    def pytest_testnodedown(self, node: Any) -> None:
        self.remarks.extend(getattr(node, "workeroutput", {}).get(REMARKS, []))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.remarks:
            terminalreporter.write_line(line)


def remarks_of(config: pytest.Config) -> list[str]:
    """The list whose lines are shown at the end of the run, from whichever process."""
    output = getattr(config, "workeroutput", None)
    if output is not None:
        lines: list[str] = output.setdefault(REMARKS, [])
        return lines
    plugin = config.pluginmanager.get_plugin("processes")
    assert isinstance(plugin, Processes)
    return plugin.remarks
