"""From the journal into SQL: the lines of this process, and what processes that are gone left behind.

While the database is away the journal grows on disk and nothing is lost. A carried segment is kept for a
while, so that the ledger can be held against it.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from gateway.tenancy.journal import (
    Accepted,
    Entry,
    Journal,
    Progress,
    Segment,
    keep,
    orphans,
    read_lines,
    read_settled,
)
from gateway.tenancy.ledger import BATCH, Carried, insert

BLOCK_BYTES = 512 * 1024  # of the journal at once: a thousand rows share a commit


class Carrier:
    """Carries settled lines of this process's journal into SQL; its methods run in one thread."""

    def __init__(self, engine: sa.Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._offsets: dict[Path, int] = {}

    def step(self) -> int:
        """Carry what is new and drop finished segments; gives the number of rows. Raises SQLAlchemyError."""
        self._journal.sync()
        carried = 0
        for segment in self._journal.segments():
            carried += self._carry(segment)
            if segment is not self._journal.segments()[-1] and self._finished(segment):
                self._journal.drop(segment)
                self._offsets.pop(segment.path, None)
        return carried

    def caught_up(self) -> bool:
        """Tell whether every request of this process is settled and in SQL."""
        return all(self._finished(segment) for segment in self._journal.segments())

    def _finished(self, segment: Segment) -> bool:
        return segment.open_requests == 0 and self._offsets.get(segment.path, 0) == segment.size_bytes

    def _carry(self, segment: Segment) -> int:
        carried, until = 0, segment.size_bytes  # not what comes meanwhile: a few rows a commit, without end
        while (offset := self._offsets.get(segment.path, 0)) < until:
            entries, behind = read_settled(segment, offset, BLOCK_BYTES)
            for start in range(0, max(len(entries), 1), BATCH):
                last = start + BATCH >= len(entries)
                carried_to = [Carried(segment.path.name, behind)] if last else []
                insert(self._engine, entries[start : start + BATCH], carried_to)
            self._offsets[segment.path] = behind
            carried += len(entries)
        return carried


def recover(engine: sa.Engine, directory: Path, own: set[Path], kept: Path | None = None) -> int:
    """Settle what processes that are gone left behind; gives the number of rows. Raises SQLAlchemyError.

    A request that was accepted and never settled gets a row with the status ``interrupted``, billed by its
    last progress line: at most one step of delivered tokens is missing from it. The segments go to ``kept``.
    """
    with _locked(directory, own) as paths:
        carried = [Carried(path.name, path.stat().st_size) for path in paths]
        entries, settled = settle_lines(paths), 0
        while part := list(itertools.islice(entries, BATCH)):
            settled += insert(engine, part)
        insert(engine, [], carried)
        for path in paths:
            keep(path, kept)
        return settled


def settle_lines(paths: Iterable[Path]) -> Iterator[Entry]:
    """Give an entry for every request that the segments know; a line that is there twice comes twice.

    Only what is not settled yet is held: a database that was away for long leaves more than the memory takes.
    """
    begun: dict[str, tuple[Accepted, Progress | None]] = {}
    for path in paths:
        for line, _ in read_lines(path):
            match line:
                case Accepted():
                    begun[line.request_id] = (line, None)
                case Progress():
                    if (known := begun.get(line.request_id)) is not None:
                        begun[line.request_id] = (known[0], line)
                case Entry():
                    begun.pop(line.request_id, None)
                    yield line
    for start, last in begun.values():
        yield interrupted(start, last)


def interrupted(start: Accepted, last: Progress | None) -> Entry:
    """Give the entry of a request whose process ended before it did."""
    return Entry(
        request_id=start.request_id,
        ts=start.ts,
        org=start.org,
        project=start.project,
        key_id=start.key_id,
        model=last.model if last else start.model,
        route=start.route,
        status="interrupted",
        prompt_tokens=last.prompt_tokens if last else 0,
        cached_tokens=last.cached_tokens if last else 0,
        completion_tokens=last.completion_tokens if last else 0,
        amount_nanousd=last.amount_nanousd if last else 0,
        price_version=last.price_version if last else "",
        source="upstream",
        attempts=1 if last else 0,
        replicas=last.replica if last else "",
        estimated=True,
        reasoning_tokens=last.reasoning_tokens if last else 0,
        baseline_nanousd=last.baseline_nanousd if last else 0,
        service=last.service if last else "standard",
        operation=start.operation,
        end_user=start.end_user,
        metadata=start.metadata,
    )


@contextmanager
def _locked(directory: Path, own: set[Path]) -> Iterator[list[Path]]:
    found = orphans(directory, own)
    try:
        yield [path for path, _ in found]
    finally:
        for _, fd in found:
            os.close(fd)
