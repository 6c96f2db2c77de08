"""Where the processes that route one stream of requests meet: now and then, beside the requests.

What they owe of a share is in common pots (``routing.objectives.settle``); what else they have to tell each
other, in their own encoding, the others hear once and in order, so much at a time that nobody is held up; who
comes anew hears what was told lately. Nobody waits for a meeting: who cannot reach it goes on alone, and
tells it later.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from routing.objectives import settle

MOST_TOLD = 20_000
MOST_HEARD = 1_000  # at once; what is left is heard the next time
LATELY_S = 5.0
"""So old, at most, are the news that who comes anew hears."""


class Meeting(Protocol):
    """One process's way there."""

    async def share_out(self, number: int, owed: Mapping[str, float], processes: int) -> dict[str, float]:
        """Share out with the pots of these names what is owed; gives what of each is left to this process.

        Numbers rise. Raises RedisError or OSError, and nobody knows then what was shared out: what is asked
        again by the same number is shared out once.
        """

    async def exchange(self, told: bytes) -> list[bytes]:
        """Tell the others, where there is anything, and give what they told since the last time.

        The first time it gives what they told in the last LATELY_S. Of more than MOST_HEARD the rest is left.

        Raises RedisError or OSError; it may be told again then.
        """

    async def close(self) -> None:
        """Leave."""


class Table:
    """A meeting place in memory; ``now`` gives seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.pots: dict[str, float] = {}
        self.told: deque[tuple[int, float, object, bytes]] = deque(maxlen=MOST_TOLD)
        self.number = 0


class MemoryMeeting:
    """A way to a place in memory, for processes that are none: in tests, and in a gateway that is one."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._heard: int | None = None
        self._settled: dict[str, tuple[int, float]] = {}

    async def share_out(self, number: int, owed: Mapping[str, float], processes: int) -> dict[str, float]:
        """See ``Meeting.share_out``."""
        pots, before = self._table.pots, self._settled
        for name, much in owed.items():
            if name not in before or before[name][0] < number:
                pots[name], kept = settle(pots.get(name, 0.0), much, processes)
                before[name] = number, kept
        return {name: before[name][1] for name in owed}

    async def exchange(self, told: bytes) -> list[bytes]:
        """See ``Meeting.exchange``."""
        table = self._table
        if told:
            table.number += 1
            table.told.append((table.number, table.now(), self, told))
        if self._heard is None:
            since_s = table.now() - LATELY_S
            self._heard = next(
                (number - 1 for number, at_s, _, _ in table.told if at_s >= since_s), table.number
            )
        left = [one for one in table.told if one[0] > self._heard][:MOST_HEARD]
        if left:
            self._heard = left[-1][0]
        return [news for _, _, who, news in left if who is not self]

    async def close(self) -> None:
        """See ``Meeting.close``."""
