"""The ledger in SQL, and the loop that carries the journal into it.

Rows are inserted once, by request id: carrying a line twice changes nothing. While the database is away the
journal grows on disk and nothing is lost.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct, ledger
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.journal import Accepted, Entry, Journal, Progress, Segment, orphans, read_lines
from gateway.tenancy.paging import Window, page

BATCH = 2000
COLUMNS = Entry.__struct_fields__


def insert(engine: sa.Engine, entries: list[Entry]) -> None:
    """Insert entries in one transaction; those that are there already stay as they are."""
    if not entries:
        return
    mark = "?" if engine.dialect.paramstyle == "qmark" else "%s"
    marks = ", ".join([mark] * len(COLUMNS))
    # The driver's own executemany: an expression would cost half of what a request may cost.
    statement = f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, [msgspec.structs.astuple(entry) for entry in entries])


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
        carried = 0
        batch: list[Entry] = []
        offset = self._offsets.get(segment.path, 0)
        if offset == segment.size_bytes:
            return 0
        for line, behind in read_lines(segment.path, offset):
            offset = behind
            if isinstance(line, Entry):
                batch.append(line)
            if len(batch) >= BATCH:
                carried += self._flush(batch)
                self._offsets[segment.path] = offset
        carried += self._flush(batch)
        self._offsets[segment.path] = offset
        return carried

    def _flush(self, batch: list[Entry]) -> int:
        insert(self._engine, batch)
        count = len(batch)
        batch.clear()
        return count


def recover(engine: sa.Engine, directory: Path, own: set[Path]) -> int:
    """Settle what processes that are gone left behind; gives the number of rows. Raises SQLAlchemyError.

    A request that was accepted and never settled gets a row with the status ``interrupted``, billed by its
    last progress line: at most one step of delivered tokens is missing from it.
    """
    found = orphans(directory, own)
    try:
        entries = settle_lines([path for path, _ in found])
        insert(engine, entries)
        for path, _ in found:
            path.unlink(missing_ok=True)
        return len(entries)
    finally:
        for _, fd in found:
            os.close(fd)


def settle_lines(paths: list[Path]) -> list[Entry]:
    """Give one entry for every request that the segments know."""
    accepted: dict[str, Accepted] = {}
    progress: dict[str, Progress] = {}
    settled: dict[str, Entry] = {}
    for path in paths:
        for line, _ in read_lines(path):
            match line:
                case Accepted():
                    accepted[line.request_id] = line
                case Progress():
                    progress[line.request_id] = line
                case Entry():
                    settled[line.request_id] = line
    for request_id, start in accepted.items():
        if request_id not in settled:
            settled[request_id] = _interrupted(start, progress.get(request_id))
    return list(settled.values())


def export(engine: sa.Engine, from_s: float, to_s: float) -> Iterator[dict[str, Any]]:
    """Give ledger rows of a half-open span of time, oldest first, without holding them all."""
    statement = sa.select(ledger).where(ledger.c.ts >= from_s, ledger.c.ts < to_s)
    statement = statement.order_by(ledger.c.ts, ledger.c.request_id)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=BATCH).execute(statement).mappings():
            yield dict(row)


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One settled request."""

    request_id: str
    ts: float
    org: str
    project: str
    key_id: str
    model: str
    route: str
    status: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount_nanousd: int
    price_version: str
    source: str
    attempts: int
    replicas: str
    estimated: bool


def requests(
    connection: sa.Connection,
    reach: Reach,
    window: Window,
    filters: Mapping[str, str | None],
    span: tuple[float | None, float | None],
) -> tuple[list[RequestRow], str | None]:
    """Give a page of requests, newest first, of a half-open span of time; filters are columns and values."""
    statement = sa.select(*(ledger.c[name] for name in RequestRow.__struct_fields__))
    own = {"org": None if reach.org == EVERYTHING else reach.org, "key_id": reach.key_id}
    for column, value in (*filters.items(), *own.items()):
        if value is not None:
            statement = statement.where(ledger.c[column] == value)
    if span[0] is not None:
        statement = statement.where(ledger.c.ts >= span[0])
    if span[1] is not None:
        statement = statement.where(ledger.c.ts < span[1])
    rows, behind = page(connection, statement, (ledger.c.ts, ledger.c.request_id), window, newest_first=True)
    return [as_struct(row, RequestRow) for row in rows], behind


def spent_by_key(engine: sa.Engine, from_s: float, to_s: float) -> dict[str, int]:
    """Sum the ledger per key over a half-open span of time, in nano-dollars."""
    statement = (
        sa.select(ledger.c.key_id, sa.func.sum(ledger.c.amount_nanousd))
        .where(ledger.c.ts >= from_s, ledger.c.ts < to_s)
        .group_by(ledger.c.key_id)
    )
    with engine.connect() as connection:
        return {key_id: int(total) for key_id, total in connection.execute(statement)}


def _interrupted(start: Accepted, last: Progress | None) -> Entry:
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
        cached_tokens=0,
        completion_tokens=last.completion_tokens if last else 0,
        amount_nanousd=last.amount_nanousd if last else 0,
        price_version=last.price_version if last else "",
        source="upstream",
        attempts=1 if last else 0,
        replicas=last.replica if last else "",
        estimated=True,
    )
