"""Texts in this process, their unit rows apart from them, for each scope.

A search reads all rows of its scope, where they are more than 256 as bytes first; in a scope of more
than `graph_from` texts a graph says which rows to read. It grows with the scope from half that size on, a
text and an older one at a time, so that no request waits for it.
Bounded in texts and in bytes over all scopes. When it is full, the text of least value among a few goes: what
its answer saves, times how likely it is to be asked for again, by its size.
"""

import contextlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from semantic_cache.near import Near
from semantic_cache.saving import Frame, Linked, Text
from semantic_cache.stores.base import Alias
from semantic_cache.stores.graph import Graph
from semantic_cache.stores.rows import BLOCK, Bytes, Rows

Vectors = NDArray[np.float32]
_SAMPLE = 16  # texts looked at for one that has to go
_OVERHEAD_BYTES = 1_700  # a text's own objects, its scope's share, its place in the graph
_MOST_OF_OWNER = 1_000  # texts that one user, where requests name him, may bring into a scope
_NOWHERE = np.zeros(0, np.float32)
_FEW = 256  # texts whose rows are read as they are
_SPARE = 24  # candidates beyond those asked for: bytes order less finely than floats
GRAPH_FROM = 16_384


class _Scope:
    """A row that goes is filled by the last one. A label is a text's for ever."""

    def __init__(self, dimensions: int) -> None:
        self.rows = Rows(dimensions)
        self.aliases: list[Alias] = []  # without their vectors
        self.labels: list[int] = []
        self.row_of: dict[int, int] = {}
        self.owners: Counter[str] = Counter()
        self.graph: Graph | None = None
        self.dimensions = dimensions
        self._bytes: Bytes | None = None
        self._covered = 0  # rows before are in the graph

    def add(self, label: int, alias: Alias) -> None:
        self.row_of[label] = len(self.aliases)
        self.rows.append(alias.vector)
        if self._bytes is not None:
            self._bytes.append(alias.vector)
        self.aliases.append(replace(alias, vector=_NOWHERE))
        self.labels.append(label)
        self.owners[alias.owner] += 1

    def whole(self, row: int) -> Alias:
        """Give a text with its vector."""
        return replace(self.aliases[row], vector=self.rows[row].copy())

    def size_bytes(self, alias: Alias) -> int:
        """Give what a text takes, about."""
        return 4 * self.dimensions + len(alias.text) + _OVERHEAD_BYTES

    def link(self, graph: Graph) -> None:
        """Take a graph over; texts that have gone meanwhile leave it."""
        graph.remove([label for label in graph.labels() if label not in self.row_of])
        self.graph, self._covered = graph, 0

    def grow(self, label: int, graph_from: int) -> None:
        """Put a text into the graph, and one of the older ones that are not in it yet."""
        if len(self.labels) <= graph_from // 2:
            return
        if self.graph is None:
            self.graph, self._covered = Graph(self.dimensions), 0
        self.graph.add(label, self.rows[self.row_of[label]])
        while self._covered < len(self.labels):
            older, row = self.labels[self._covered], self._covered
            self._covered += 1
            if older not in self.graph:
                self.graph.add(older, self.rows[row])
                return

    def cover(self) -> None:
        """Put all texts into the graph that are not in it yet, at once."""
        if self.graph is None:
            self.graph = Graph(self.dimensions)
        for start in range(0, len(self.labels), BLOCK):
            there = enumerate(self.labels[start : start + BLOCK], start)
            new = [row for row, label in there if label not in self.graph]
            if new:
                self.graph.add_all([self.labels[row] for row in new], self.rows.take(np.array(new)))
        self._covered = len(self.labels)

    def remove(self, label: int) -> Alias:
        """Take a text out; gives it without its vector."""
        row = self.row_of.pop(label)
        gone = self.aliases[row]
        self.owners[gone.owner] -= 1
        self.rows.remove(row)
        if self._bytes is not None:
            self._bytes.remove(row)
        last, last_label = self.aliases.pop(), self.labels.pop()
        if row < len(self.aliases):
            self.aliases[row], self.labels[row] = last, last_label
            self.row_of[last_label] = row
            if self.graph is not None and last_label not in self.graph:
                self._covered = min(self._covered, row)
        if self.graph is not None and label in self.graph:
            self.graph.remove([label])
        return gone

    def nearest(self, vector: Vectors, count: int, graph_from: int) -> Near[Alias]:
        rows, aliases = self._candidates(vector, count, graph_from), self.aliases
        if rows is None:
            cosines, used = self.rows.cosines(vector), len(aliases)
            rows = cosines.argpartition(used - count)[-count:] if used > count else np.arange(used)
            cosines = cosines[rows]
            rows = rows[(order := (-cosines).argsort(kind="stable"))]
            found, places = self.rows.take(rows), None
        else:
            found = self.rows.take(rows)
            cosines = found @ vector
            order = places = (-cosines).argsort(kind="stable")[:count]
            rows = rows.take(order)
        return Near([aliases[row] for row in rows.tolist()], found, cosines.take(order), places)

    def _candidates(self, vector: Vectors, count: int, graph_from: int) -> NDArray[np.intp] | None:
        """Give rows that hold the nearest, and some more; None for all, where they are few."""
        used = len(self.aliases)
        if self.graph is not None and used > graph_from and len(self.graph) == used:
            self._bytes = None
            return np.array([self.row_of[one] for one in self.graph.near(vector, count)], np.intp)
        if used <= _FEW or used <= count + _SPARE:
            return None
        if self._bytes is None:
            self._bytes = Bytes.of(self.rows)
        wanted = count + _SPARE
        return self._bytes.cosines(vector).argpartition(used - wanted)[-wanted:]


class MemoryIndex:
    """See ``Index``; a scope takes vectors of one length."""

    durable = False

    def __init__(self, max_texts: int, max_bytes: int = 1 << 62, graph_from: int = GRAPH_FROM) -> None:
        self._max_bytes = max_bytes
        self.size_bytes = 0
        self._max_texts = max_texts
        self._graph_from = graph_from
        self._scopes: dict[bytes, _Scope] = {}
        self._of: dict[str, dict[int, bytes]] = {}  # of each answer: its labels and their scopes
        self._due: list[tuple[float, int, bytes]] = []  # a heap: when each text expires
        self._labels = 0
        self._turn = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def near(self, scope: bytes, vector: Vectors, count: int, now_s: float) -> Near[Alias]:
        """Give the nearest texts; see ``Index.near``."""
        if self._due and self._due[0][0] <= now_s:
            self._expire(now_s)
        kept = self._scopes.get(scope)
        if kept is None or len(vector) != kept.dimensions:
            return Near.nothing()
        return kept.nearest(vector, count, self._graph_from)

    async def add(self, scope: bytes, alias: Alias) -> None:
        """Keep a text; see ``Index.add``."""
        self._add(scope, alias)

    def _add(self, scope: bytes, alias: Alias) -> None:
        kept = self._scopes.get(scope)
        if kept is None:
            kept = self._scopes[scope] = _Scope(len(alias.vector))
        if len(alias.vector) != kept.dimensions:
            return
        if alias.owner and kept.owners[alias.owner] >= _MOST_OF_OWNER:
            return
        self._labels += 1
        self._put(scope, kept, alias)
        kept.grow(self._labels, self._graph_from)

    def _put(self, scope: bytes, kept: _Scope, alias: Alias) -> None:
        kept.add(self._labels, alias)
        self._of.setdefault(alias.answer, {})[self._labels] = scope
        heapq.heappush(self._due, (alias.expires_s, self._labels, scope))
        self._count += 1
        self.size_bytes += kept.size_bytes(alias)
        while self._count > self._max_texts or (self._count and self.size_bytes > self._max_bytes):
            self._evict(alias.stored_s)

    def frames(self) -> Iterator[Frame]:
        """Give the texts, then the graphs, as ``resume`` takes them."""
        for scope, kept in list(self._scopes.items()):
            for label in list(kept.labels):
                if (row := kept.row_of.get(label)) is not None:
                    yield Text.of(scope, kept.whole(row), label)
        for scope, kept in list(self._scopes.items()):
            if kept.graph is not None:
                yield Linked(scope, kept.graph.saved())

    def resume(self, frame: Text | Linked) -> None:
        """Take in one of ``frames``; a graph that does not fit is left to ``cover``."""
        if isinstance(frame, Text):
            alias = frame.alias()
            kept = self._scopes.setdefault(frame.scope, _Scope(len(alias.vector)))
            newest, self._labels = self._labels, frame.label
            if len(alias.vector) == kept.dimensions and frame.label not in kept.row_of:
                self._put(frame.scope, kept, alias)
            self._labels = max(newest, frame.label)
        elif (kept_of := self._scopes.get(frame.scope)) is not None:
            with contextlib.suppress(ValueError):
                kept_of.link(Graph.restored(kept_of.dimensions, frame.graph))

    def cover(self) -> None:
        """Complete the graphs that are to be searched; see ``Index.cover``."""
        for kept in self._scopes.values():
            if len(kept.labels) > self._graph_from and len(kept.graph or ()) < len(kept.labels):
                kept.cover()

    async def drop(self, answers: Collection[str]) -> int:
        """Forget the texts of answers; see ``Index.drop``."""
        return self._unlink(answers)

    def _unlink(self, answers: Collection[str]) -> int:
        gone = [pair for answer in answers for pair in self._of.get(answer, {}).items()]
        for label, scope in gone:
            self._remove(scope, label)
        return len(gone)

    async def listed(self) -> list[tuple[bytes, Alias]]:
        """Give the texts; see ``Index.listed``."""
        return [(scope, alias) for scope, kept in self._scopes.items() for alias in kept.aliases]

    async def purge(self) -> int:
        """Forget everything; see ``Index.purge``."""
        return self._clear()

    def _clear(self) -> int:
        count, self._count = self._count, 0
        self._scopes.clear()
        self._of.clear()
        self._due.clear()
        self.size_bytes = 0
        return count

    def _remove(self, scope: bytes, label: int) -> None:
        kept = self._scopes[scope]
        gone = kept.remove(label)
        self.size_bytes -= kept.size_bytes(gone)
        labels = self._of[gone.answer]
        del labels[label]
        if not labels:
            del self._of[gone.answer]
        self._count -= 1
        if not kept.aliases:
            del self._scopes[scope]
        if len(self._due) > 2 * self._count + 1_000:  # most of it is of texts that went before their time
            self._due = [one for one in self._due if self._has(one[2], one[1])]
            heapq.heapify(self._due)

    def _has(self, scope: bytes, label: int) -> bool:
        kept = self._scopes.get(scope)
        return kept is not None and label in kept.row_of

    def _expire(self, now_s: float) -> None:
        while self._due and self._due[0][0] <= now_s:
            _, label, scope = heapq.heappop(self._due)
            if self._has(scope, label):
                self._remove(scope, label)

    def _evict(self, now_s: float) -> None:
        """Let the least valuable of a few go; which few, a turning counter decides."""
        scopes = list(self._scopes)
        found = []
        for _ in range(_SAMPLE):
            self._turn += 1
            scope = scopes[self._turn % len(scopes)]
            kept = self._scopes[scope]
            row = self._turn * 7919 % len(kept.aliases)
            found.append((self._value(kept, kept.aliases[row], now_s), self._turn, scope, kept.labels[row]))
        _, _, scope, label = min(found)
        self._remove(scope, label)

    def _value(self, kept: _Scope, alias: Alias, now_s: float) -> float:
        """Give what keeping a text is worth: who is asked in many words, and lately, is asked again."""
        age_s = max(0.0, now_s - alias.stored_s)
        reuse = len(self._of[alias.answer]) / (1.0 + age_s / 3600.0)
        return (alias.worth + 1.0) * reuse / kept.size_bytes(alias)
