"""Where numbers of metrics stand: in this process, or in memory that the workers of one gateway share.

The parent makes a ``board`` before it starts workers: one region of anonymous shared memory for each place.
Only the worker in a place writes there, as cheaply as to a list; everybody reads. A worker that follows a
dead one in its place counts on from its numbers, so that nothing is lost or counted twice.
"""

import math
import mmap
from collections.abc import Iterator, MutableSequence, Sequence

import msgspec

Key = tuple[str, tuple[str, ...]]

NUMBERS_BYTES = 1024 * 1024
NAMES_BYTES = 1024 * 1024
LENGTH_BYTES = 8
SCRAP = 32  # numbers at the front of a region, for what does not fit any more

_decode = msgspec.json.Decoder(tuple[str, tuple[str, ...], int, int]).decode


class Tallies:
    """The numbers of one process: ``values[index[key]]`` is the first of a key's numbers."""

    leads = True
    """Whether this process speaks for all of them, where one has to."""

    def __init__(self) -> None:
        self.index: dict[Key, int] = {}
        self.values: MutableSequence[float] = []

    def place(self, key: Key, width: int) -> int:
        """Make room for the numbers of a new key; gives where they begin."""
        at = self.index[key] = len(self.values)
        self.values.extend([0.0] * width)
        return at

    def own(self, key: Key, width: int) -> list[float]:
        """Give the numbers of a key in this process; NaN where it has none."""
        at = self.index.get(key)
        return [math.nan] * width if at is None else list(self.values[at : at + width])

    def sums(self, key: Key, width: int) -> list[float]:
        """Give the numbers of a key, added up over all processes."""
        return self.own(key, width)

    def known(self) -> Iterator[Key]:
        """Give every key that any process has, once."""
        return iter(self.index)


class _Region:
    """One place of the board: numbers, and the names of what stands where, which only grow."""

    def __init__(self, memory: mmap.mmap) -> None:
        whole = memoryview(memory)
        self.numbers = whole[:NUMBERS_BYTES].cast("d")
        self._names = whole[NUMBERS_BYTES:]
        self._read = 0
        self._free = SCRAP
        self.index: dict[Key, int] = {}

    def refresh(self) -> None:
        """Read the names that have come since the last time."""
        length = int.from_bytes(self._names[:LENGTH_BYTES], "little")
        if length == self._read:
            return
        text = bytes(self._names[LENGTH_BYTES + self._read : LENGTH_BYTES + length])
        for line in text.splitlines():
            name, labels, at, width = _decode(line)
            self.index[name, labels] = at
            self._free = at + width
        self._read = length

    def add(self, key: Key, width: int) -> int:
        """Name room for a key; gives where it begins, or the scrap's place where there is no room left."""
        line = msgspec.json.encode((*key, self._free, width)) + b"\n"
        begin = LENGTH_BYTES + self._read
        if begin + len(line) > NAMES_BYTES or self._free + width > len(self.numbers):
            return 0
        self._names[begin : begin + len(line)] = line
        self._names[:LENGTH_BYTES] = (self._read + len(line)).to_bytes(LENGTH_BYTES, "little")
        at = self._free
        self.refresh()
        return at


class SharedTallies(Tallies):
    """The numbers of the worker in one place of a board."""

    def __init__(self, board: Sequence[mmap.mmap], place: int) -> None:
        self._regions = [_Region(memory) for memory in board]
        self._own = self._regions[place]
        self.leads = place == 0
        self._own.refresh()
        self.index = dict(self._own.index)
        self.values = self._own.numbers  # type: ignore[assignment]  # a sequence of fixed length is all we need

    def place(self, key: Key, width: int) -> int:
        """Make room in our own region; see ``Tallies.place``."""
        at = self.index[key] = self._own.add(key, width)
        return at

    def sums(self, key: Key, width: int) -> list[float]:
        """Add up over all places; a number that is not one (NaN) is no part of a sum."""
        found = []
        for region in self._regions:
            at = region.index.get(key)
            if at is not None and region.numbers[at] == region.numbers[at]:
                found.append(region.numbers[at : at + width].tolist())
        return [sum(parts) for parts in zip(*found, strict=True)] if found else [math.nan] * width

    def known(self) -> Iterator[Key]:
        """Give every key of every place, once."""
        keys: dict[Key, None] = {}
        for region in self._regions:
            region.refresh()
            keys.update(dict.fromkeys(region.index))
        return iter(keys)


def board(places: int) -> list[mmap.mmap]:
    """Make a board; whoever is forked afterwards shares it, and it is gone with the last of them."""
    return [mmap.mmap(-1, NUMBERS_BYTES + NAMES_BYTES) for _ in range(places)]
