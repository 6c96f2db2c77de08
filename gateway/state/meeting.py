"""Where the processes that route one stream of requests meet: now and then, beside the requests.

What they owe of a share is in common pots (``routing.objectives.settle``); what else they have to tell each
other, in their own encoding, the others hear once and in order, later ones what is still kept. Nobody waits
for a meeting: who cannot reach it goes on alone, and tells it later.
"""

from collections import deque
from collections.abc import Mapping
from typing import Protocol

from routing.objectives import settle

MOST_TOLD = 20_000


class Meeting(Protocol):
    """One process's way there."""

    async def share_out(self, owed: Mapping[str, float], processes: int) -> dict[str, float]:
        """Share out with the pots of these names what is owed; gives what of each is left to this process.

        Raises RedisError or OSError, and nothing is shared out then, or all.
        """

    async def exchange(self, told: bytes) -> list[bytes]:
        """Tell the others, where there is anything, and give what they told since the last time.

        Raises RedisError or OSError; it may be told again then.
        """

    async def close(self) -> None:
        """Leave."""


class Table:
    """A meeting place in memory."""

    def __init__(self) -> None:
        self.pots: dict[str, float] = {}
        self.told: deque[tuple[int, object, bytes]] = deque(maxlen=MOST_TOLD)
        self.number = 0


class MemoryMeeting:
    """A way to a place in memory, for processes that are none: in tests, and in a gateway that is one."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._heard = 0

    async def share_out(self, owed: Mapping[str, float], processes: int) -> dict[str, float]:
        """See ``Meeting.share_out``."""
        pots, kept = self._table.pots, {}
        for name, much in owed.items():
            pots[name], kept[name] = settle(pots.get(name, 0.0), much, processes)
        return kept

    async def exchange(self, told: bytes) -> list[bytes]:
        """See ``Meeting.exchange``."""
        table = self._table
        if told:
            table.number += 1
            table.told.append((table.number, self, told))
        heard = [one for number, who, one in table.told if number > self._heard and who is not self]
        self._heard = table.number
        return heard

    async def close(self) -> None:
        """See ``Meeting.close``."""
