"""Texts in this process, found by exact search: one block of unit rows for each scope.

Bounded in texts and in bytes over all scopes. When it is full, the text of least value among a few goes: what
its answer saves, times how likely it is to be asked for again, by its size. A search reads all rows of its
scope.
"""

import math
from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from semantic_cache.stores.base import Alias

Vectors = NDArray[np.float32]
_SAMPLE = 16  # texts looked at for one that has to go
_FIRST_ROWS = 16
_OVERHEAD_BYTES = 400  # a text's own objects
_MOST_OF_OWNER = 1_000  # texts that one user, where requests name him, may bring into a scope


class _Scope:
    """Rows [0, count) are in use; a row that goes is filled by the last one."""

    def __init__(self, dimensions: int) -> None:
        self.rows = np.zeros((_FIRST_ROWS, dimensions), np.float32)
        self.aliases: list[Alias] = []
        self.owners: Counter[str] = Counter()
        self.next_s = math.inf  # nothing expires before

    def add(self, alias: Alias) -> None:
        count = len(self.aliases)
        if count == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.rows[count] = alias.vector
        self.aliases.append(alias)
        self.owners[alias.owner] += 1
        self.next_s = min(self.next_s, alias.expires_s)

    def remove(self, row: int) -> None:
        self.owners[self.aliases[row].owner] -= 1
        last = self.aliases.pop()
        if row < len(self.aliases):
            self.aliases[row] = last
            self.rows[row] = self.rows[len(self.aliases)]


class MemoryIndex:
    """See ``Index``."""

    def __init__(self, dimensions: int, max_texts: int, max_bytes: int = 1 << 62) -> None:
        self._max_bytes = max_bytes
        self.size_bytes = 0
        self._dimensions = dimensions
        self._max_texts = max_texts
        self._scopes: dict[bytes, _Scope] = {}
        self._turn = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def near(self, scope: bytes, vector: Vectors, count: int, now_s: float) -> list[Alias]:
        """Give the nearest texts; see ``Index.near``."""
        kept = self._scopes.get(scope)
        if kept is None:
            return []
        if now_s >= kept.next_s:
            self._expire(scope, now_s)
        used = len(kept.aliases)
        far = kept.rows[:used] @ -vector
        best = np.arange(used) if used <= count else np.argpartition(far, count - 1)[:count]
        return [kept.aliases[row] for row in best[far[best].argsort(kind="stable")].tolist()]

    async def add(self, scope: bytes, alias: Alias) -> None:
        """Keep a text; see ``Index.add``."""
        self._add(scope, alias)

    def _add(self, scope: bytes, alias: Alias) -> None:
        kept = self._scopes.setdefault(scope, _Scope(self._dimensions))
        if alias.owner and kept.owners[alias.owner] >= _MOST_OF_OWNER:
            return
        kept.add(alias)
        self._count += 1
        self.size_bytes += _size_bytes(alias)
        while self._count > self._max_texts or (self._count and self.size_bytes > self._max_bytes):
            self._evict(alias.stored_s)

    async def drop(self, answers: Collection[str]) -> int:
        """Forget the texts of answers; see ``Index.drop``."""
        return self._unlink(answers)

    def _unlink(self, answers: Collection[str]) -> int:
        dropped = 0
        for scope, kept in list(self._scopes.items()):
            for row in [row for row, alias in enumerate(kept.aliases) if alias.answer in answers][::-1]:
                self._remove(scope, row)
                dropped += 1
        return dropped

    async def listed(self) -> list[tuple[bytes, Alias]]:
        """Give the texts; see ``Index.listed``."""
        return [(scope, alias) for scope, kept in self._scopes.items() for alias in kept.aliases]

    async def purge(self) -> int:
        """Forget everything; see ``Index.purge``."""
        return self._clear()

    def _clear(self) -> int:
        count, self._count = self._count, 0
        self._scopes.clear()
        self.size_bytes = 0
        return count

    def _remove(self, scope: bytes, row: int) -> None:
        kept = self._scopes[scope]
        self.size_bytes -= _size_bytes(kept.aliases[row])
        kept.remove(row)
        self._count -= 1
        if not kept.aliases:
            del self._scopes[scope]

    def _expire(self, scope: bytes, now_s: float) -> None:
        kept = self._scopes[scope]
        for row in range(len(kept.aliases) - 1, -1, -1):
            if kept.aliases[row].expires_s <= now_s:
                self._remove(scope, row)
        kept.next_s = min((alias.expires_s for alias in kept.aliases), default=math.inf)

    def _evict(self, now_s: float) -> None:
        """Let the least valuable of a few go; which few, a turning counter decides."""
        scopes = list(self._scopes)
        found = []
        for _ in range(_SAMPLE):
            self._turn += 1
            scope = scopes[self._turn % len(scopes)]
            aliases = self._scopes[scope].aliases
            row = self._turn * 7919 % len(aliases)
            found.append((_value(aliases[row], now_s), self._turn, scope, row))
        _, _, scope, row = min(found)
        self._remove(scope, row)


def _size_bytes(alias: Alias) -> int:
    return 2 * alias.vector.nbytes + len(alias.text) + _OVERHEAD_BYTES  # the vector is in the block too


def _value(alias: Alias, now_s: float) -> float:
    """Give what keeping a text is worth: the younger, the likelier it is asked for again."""
    age_s = max(0.0, now_s - alias.stored_s)
    return (alias.worth + 1.0) / (1.0 + age_s / 3600.0) / _size_bytes(alias)
