"""How long a start takes, step by step: spawn, import, weights, KV cache or compilation, warm-up.

Pure but for the clock's values given to it. A step ends where a line in the engine's log begins the next one
(`Engine.stages`); the log is looked at twice a second, so a step is known to half a second.
"""

from collections.abc import Sequence

from msgspec import Struct

from backends.engines import Engine

FIRST = "spawn"
IMPORT = "import"
"""From the process's being there until the engine's first line that tells."""


class Step(Struct, frozen=True):
    """A part of a start; the last one of a start under way is not over."""

    step: str
    seconds: float


class Start:
    """One start under way, or the last one of a replica."""

    def __init__(self, began_s: float) -> None:
        self._begun: list[tuple[str, float]] = [(FIRST, began_s)]
        self._ended_s: float | None = None

    def spawned(self, now_s: float) -> None:
        """The process is there; what follows first is its imports."""
        self._begin(IMPORT, now_s)

    def see(self, engine: Engine, log: Sequence[str], now_s: float) -> None:
        """Note the steps whose lines are in the log; those over since the last look take 0 s."""
        order = [name for _, _, name in engine.stages]
        known = {name for name, _ in self._begun}
        latest = max((order.index(name) for name in known if name in order), default=-1)
        for index, (part, _, name) in enumerate(engine.stages):
            if index > latest and name not in known and any(part in line for line in log):
                self._begin(name, now_s)
                known.add(name)

    def ready(self, now_s: float) -> None:
        """It serves."""
        if self._ended_s is None:
            self._ended_s = now_s

    def steps(self, now_s: float) -> tuple[Step, ...]:
        """The steps so far, in their order."""
        ends = [*(at_s for _, at_s in self._begun[1:]), self._ended_s if self._ended_s is not None else now_s]
        return tuple(
            Step(name, round(max(end_s - at_s, 0.0), 2))
            for (name, at_s), end_s in zip(self._begun, ends, strict=True)
        )

    def _begin(self, name: str, now_s: float) -> None:
        if self._ended_s is None:
            self._begun.append((name, now_s))


def said(steps: Sequence[Step]) -> str:
    """The steps in one line, for people."""
    return ", ".join(f"{one.step} {one.seconds:.1f} s" for one in steps)
