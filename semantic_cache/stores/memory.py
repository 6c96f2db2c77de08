"""Entries in this process, bounded in number and in bytes.

When it is full, one of the least recently used goes: of a few, the one whose answer cost the fewest tokens
for its size.
"""

from collections import OrderedDict
from collections.abc import Collection
from itertools import islice

from semantic_cache.stores.base import Entry

OVERHEAD_BYTES = 400  # an entry's own objects beside its body
_SAMPLE = 8  # entries looked at for one that has to go
_OUTPUT = 4  # an answer's token costs about so many of a prompt's


class MemoryStore:
    """A bounded dictionary."""

    durable = False

    def __init__(self, max_bytes: int, max_entries: int = 1 << 62) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: bytes, now_s: float) -> Entry | None:
        """Give the entry if it is there and has not expired; see ``Store.get``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_s <= now_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    async def put(self, key: bytes, entry: Entry) -> None:
        """Keep an entry; see ``Store.put``."""
        self._put(key, entry)

    def _put(self, key: bytes, entry: Entry) -> None:
        self._drop(key)
        if _size_bytes(entry) > self._max_bytes:
            return
        self._entries[key] = entry
        self.size_bytes += _size_bytes(entry)
        while self.size_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            oldest = list(islice(self._entries.items(), min(_SAMPLE, len(self._entries) - 1)))
            self._drop(min(oldest, key=lambda pair: _value(pair[1]))[0])

    async def drop(self, keys: Collection[bytes]) -> int:
        """Forget entries; see ``Store.drop``."""
        count = len(self._entries)
        for key in keys:
            self._drop(key)
        return count - len(self._entries)

    async def listed(self) -> list[tuple[bytes, Entry]]:
        """Give what is kept; see ``Store.listed``."""
        return list(self._entries.items())

    async def purge(self) -> int:
        """Forget everything; see ``Store.purge``."""
        return self._clear()

    def _clear(self) -> int:
        count = len(self._entries)
        self._entries.clear()
        self.size_bytes = 0
        return count

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= _size_bytes(entry)


def _value(entry: Entry) -> float:
    return (entry.prompt_tokens + _OUTPUT * entry.completion_tokens) / _size_bytes(entry)


def _size_bytes(entry: Entry) -> int:
    return len(entry.body) + OVERHEAD_BYTES
