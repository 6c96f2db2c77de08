"""Holds the books against each other: journal = ledger = roll-ups = balances, to the nano-dollar.

The journal, live and kept segments of this state directory, knows every request by name: a row that is not in
the ledger, or says something else there, is named. The roll-ups and balances know how much there must be in
all, also of what no journal remembers any more: a group of rows that does not add up is named, and in it the
rows that nothing else speaks for. What a living process has not carried yet is not missing.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.tables import (
    balances,
    journal_segments,
    ledger,
    spend_daily,
    transfers,
    usage_daily,
    usage_minutely,
)
from gateway.tenancy import accounts, minutes
from gateway.tenancy.carrier import interrupted
from gateway.tenancy.journal import Accepted, Entry, Progress, read_lines
from gateway.tenancy.ledger import DAY_S, GROUP, SUMS, day_of, iso_day

NAMED = 1000
CHUNK = 500
Group = tuple[Any, ...]


class Finding(msgspec.Struct, frozen=True):
    """One thing that does not add up: what there must be, and what there is."""

    what: str
    expected: int
    found: int


class Report(msgspec.Struct, kw_only=True):
    """What was found; nothing in the lists means that the books agree. At most ``NAMED`` things are named."""

    gap_nanousd: int = 0
    missing: list[str] = []
    doubled: list[str] = []
    altered: list[str] = []
    groups: list[Finding] = []
    balances: list[Finding] = []
    minutes: list[Finding] = []
    rows: int = 0
    journal_entries: int = 0

    @property
    def well(self) -> bool:
        """Whether everything agrees."""
        named = (self.missing, self.doubled, self.altered, self.groups, self.balances, self.minutes)
        return not (self.gap_nanousd or any(named))


class Journals(msgspec.Struct, frozen=True):
    """The journals of a state directory: live segments, kept ones, and how far SQL says each is carried.

    Kept segments that are ``proven``, or were written to last before ``since_s``, are not read.
    """

    live: Path
    kept: Path
    offsets: Mapping[str, int] = {}
    proven: Set[str] = frozenset()
    since_s: float = 0.0

    def entries(self) -> Iterator[tuple[str, Entry | None, bool]]:
        """Give each request's id, its entry where it has one, and whether that must be in the ledger.

        One segment is open at a time, and only requests that are not settled yet are held: journals may be
        larger than the memory.
        """
        begun: dict[str, tuple[Accepted, Progress | None, bool]] = {}
        for path in sorted((*self.live.glob("*.jsonl"), *self._unread()), key=lambda path: path.name):
            closed, carried = path.parent == self.kept, self.offsets.get(path.name, 0)
            try:
                for line, behind in read_lines(path):
                    match line:
                        case Accepted():
                            begun[line.request_id] = (line, None, closed)
                        case Progress():
                            if (known := begun.get(line.request_id)) is not None:
                                begun[line.request_id] = (known[0], line, known[2])
                        case Entry():
                            begun.pop(line.request_id, None)
                            yield line.request_id, line, closed or behind <= carried
            except FileNotFoundError:  # put away or pruned while we look; its rows are judged by the roll-ups
                continue
        for request_id, (start, last, closed) in begun.items():
            yield request_id, interrupted(start, last) if closed else None, closed

    def _unread(self) -> Iterator[Path]:
        for path in self.kept.glob("*.jsonl"):
            with contextlib.suppress(FileNotFoundError):
                if path.name not in self.proven and path.stat().st_mtime >= self.since_s:
                    yield path


def reconcile(
    engine: sa.Engine, journal: Path, kept: Path, since_s: float = 0.0, proven: set[str] | None = None
) -> Report:
    """Hold the books of the days from that of ``since_s`` on against each other. Raises SQLAlchemyError.

    Everything is read in one transaction: what is carried meanwhile does not disturb. Kept segments that are
    ``proven`` are not read again (what changes in their rows later does not add up any more with the sums);
    those that are read become so where everything agrees.
    """
    since_s = since_s // DAY_S * DAY_S  # roll-ups know whole days
    there = {path.name for path in kept.glob("*.jsonl")}
    day = day_of(since_s)
    report = Report()
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        else:
            connection.detach()  # and closed at the end, so that what is set here holds here only:
            connection.exec_driver_sql("PRAGMA temp_store=FILE")  # a sort of the whole ledger fits no memory
            connection.exec_driver_sql("BEGIN")  # else each SELECT of SQLite's driver is a transaction
        ledger_groups = _ledger_groups(connection, since_s)
        report.rows = sum(sums[0] for sums in ledger_groups.values())
        offsets = {name: int(size) for name, size in connection.execute(sa.select(journal_segments))}
        journals = Journals(journal, kept, offsets, frozenset(proven or ()), since_s)
        by_journal = _against_journal(connection, report, journals)
        by_rollup = _against_rollups(connection, report, journals, ledger_groups, day)
        by_minute = _against_minutes(connection, report, ledger_groups, int(since_s) // DAY_S)
        by_balance = _against_balances(connection, report)
    report.gap_nanousd = max(by_journal, by_rollup, by_minute, by_balance)
    if proven is not None and report.well:
        proven &= there
        proven |= there
    return report


def _against_journal(connection: sa.Connection, report: Report, journals: Journals) -> int:
    """Look every entry of the journals up; gives the difference in nano-dollars."""
    gap = 0
    columns = (ledger.c.request_id, ledger.c.amount_nanousd, ledger.c.status, ledger.c.key_id, ledger.c.model)
    # Made once: each one is a circle of objects, which would hold its ids until the garbage collector comes.
    statement = sa.select(*columns).where(ledger.c.request_id.in_(sa.bindparam("ids", expanding=True)))
    certain = (entry for _, entry, certain in journals.entries() if certain and entry is not None)
    while part := list(itertools.islice(certain, CHUNK)):
        report.journal_entries += len(part)
        part = [one for one in part if one.ts >= journals.since_s]
        found = connection.execute(statement, {"ids": [one.request_id for one in part]})
        rows = {row.request_id: row for row in found}
        for entry in part:
            row = rows.get(entry.request_id)
            if row is None:
                gap += entry.amount_nanousd
                _name(report.missing, entry.request_id)
            elif row[1:] != (entry.amount_nanousd, entry.status, entry.key_id, entry.model):
                gap += abs(entry.amount_nanousd - row.amount_nanousd)
                _name(report.altered, entry.request_id)
    return gap


def _ledger_groups(connection: sa.Connection, since_s: float) -> dict[Group, tuple[int, ...]]:
    """Add the ledger up as the roll-ups are."""
    day = _day_number(connection)
    names = [ledger.c[name] for name in GROUP[1:]]
    sums = [sa.func.count(), *(sa.func.sum(ledger.c[name]) for name in SUMS[1:])]
    statement = sa.select(day, *names, *sums).where(ledger.c.ts >= since_s).group_by(day, *names)
    found = _grouped(connection.execute(statement))
    return {(iso_day(number), *rest): sums for (number, *rest), sums in found.items()}


def _grouped(rows: Iterable[sa.Row[Any]]) -> dict[Group, tuple[int, ...]]:
    width = len(GROUP)
    return {tuple(row[:width]): tuple(int(one) for one in row[width:]) for row in rows}


def _against_rollups(
    connection: sa.Connection,
    report: Report,
    journals: Journals,
    found: dict[Group, tuple[int, ...]],
    day: str,
) -> int:
    """Hold rows against their daily sums; gives the difference in nano-dollars."""
    columns = [usage_daily.c[name] for name in (*GROUP, *SUMS)]
    statement = sa.select(*columns).where(usage_daily.c.day >= day)
    expected = _grouped(connection.execute(statement))
    gap, nothing, amount = 0, (0,) * len(SUMS), SUMS.index("amount_nanousd")
    for group in sorted(expected.keys() | found.keys()):
        there, must = found.get(group, nothing), expected.get(group, nothing)
        if there == must:
            continue
        gap += abs(there[amount] - must[amount])
        if len(report.groups) < NAMED:
            report.groups.append(Finding(" ".join(map(str, group)), must[amount], there[amount]))
        if there[0] > must[0]:
            for request_id in _unknown_rows(connection, journals, group, there[0] - must[0]):
                _name(report.doubled, request_id)
    return gap


def _unknown_rows(connection: sa.Connection, journals: Journals, group: Group, excess: int) -> list[str]:
    """Give the rows of a group that nothing speaks for: no journal, or exact copies of another row."""
    remembered = {
        request_id
        for request_id, entry, _ in msgspec.structs.replace(journals, proven=frozenset()).entries()
        if entry is None or (day_of(entry.ts), entry.key_id) == (group[0], group[3])
    }
    start_s = datetime.fromisoformat(group[0]).replace(tzinfo=UTC).timestamp()
    matches = [ledger.c[name] == value for name, value in zip(GROUP[1:], group[1:], strict=True)]
    matches += [ledger.c.ts >= start_s, ledger.c.ts < start_s + DAY_S]
    unknown: list[sa.Row[Any]] = []
    known: set[tuple[Any, ...]] = set()
    for row in connection.execute(sa.select(ledger).where(*matches).order_by(ledger.c.ts)):
        if row.request_id in remembered:
            known.add(tuple(row[1:]))
        else:
            unknown.append(row)
    copies: list[str] = []
    for row in unknown:
        if tuple(row[1:]) in known:
            copies.append(row.request_id)
        known.add(tuple(row[1:]))
    return copies[:excess] if len(copies) >= excess else [row.request_id for row in unknown]


def _against_minutes(
    connection: sa.Connection, report: Report, found: Mapping[Group, tuple[int, ...]], since: int
) -> int:
    """Hold the minutes of each day against its rows; gives the difference in nano-dollars.

    Days of which some minutes are not held are left out; ``since`` counts days as ``iso_day`` does.
    """
    begins = max(since, minutes.begins(connection))
    expected: dict[Group, list[int]] = {}
    for (of, org, _, _, *rest), sums in found.items():
        if of >= iso_day(begins):
            for whose in (org, minutes.ALL):
                total = expected.setdefault((of, whose, *rest), [0] * len(minutes.SUMS))
                for place, amount in enumerate(minutes.summed(sums)):
                    total[place] += amount
    columns = usage_minutely.c
    number = columns.minute // minutes.DAY_MINUTES
    names = (columns.org, columns.model, columns.source, columns.status)
    statement = sa.select(number, *names, *(sa.func.sum(columns[name]) for name in minutes.SUMS))
    held = statement.where(columns.minute >= begins * minutes.DAY_MINUTES).group_by(number, *names)
    there = {
        (iso_day(int(row[0])), *row[1:5]): [int(one) for one in row[5:]] for row in connection.execute(held)
    }
    gaps = [0, 0]  # of the organisations, and of all together: the same money twice
    nothing, amount = [0] * len(minutes.SUMS), minutes.SUMS.index("amount_nanousd")
    for group in sorted(expected.keys() | there.keys()):
        must, kept = expected.get(group, nothing), there.get(group, nothing)
        if must != kept:
            gaps[group[1] == minutes.ALL] += abs(must[amount] - kept[amount])
            if len(report.minutes) < NAMED:
                report.minutes.append(Finding(" ".join(group), must[amount], kept[amount]))
    return max(gaps)


def _against_balances(connection: sa.Connection, report: Report) -> int:
    """Hold balances against transfers and usage; gives the difference in nano-dollars."""
    found = {row.account: row for row in connection.execute(sa.select(balances))}
    spent = _totals(connection, sa.select(spend_daily.c.account, sa.func.sum(spend_daily.c.amount_nanousd)),
                    spend_daily.c.account)  # fmt: skip
    used = _used_by_level(connection)
    moved: dict[str, int] = {}
    for side, sign in ((transfers.c.debit, -1), (transfers.c.credit, 1)):
        totals = _totals(connection, sa.select(side, sa.func.sum(transfers.c.amount_nanousd)), side)
        for account, amount in totals.items():
            moved[account] = moved.get(account, 0) + sign * amount
    gap = 0
    for account in sorted(found.keys() | used.keys() | moved.keys() | spent.keys()):
        row = found.get(account)
        pairs = [
            (f"{account} transferred", moved.get(account, 0), row.transferred_nanousd if row else 0),
            (f"{account} used", used.get(account, spent.get(account, 0)), row.used_nanousd if row else 0),
        ]
        if account != accounts.REVENUE:
            must = used.get(account, row.used_nanousd if row else 0)
            pairs.append((f"{account} by day", must, spent.get(account, 0)))
        for what, must, there in pairs:
            if must != there:
                gap += abs(must - there)
                report.balances.append(Finding(what, must, there))
    return gap


def _used_by_level(connection: sa.Connection) -> dict[str, int]:
    """Add the roll-ups up for each level's account and for the house's revenue."""
    names = (usage_daily.c.org, usage_daily.c.project, usage_daily.c.key_id)
    statement = sa.select(*names, sa.func.sum(usage_daily.c.amount_nanousd)).group_by(*names)
    used: dict[str, int] = {}
    for org, project, key_id, total in connection.execute(statement):
        for account in (accounts.organisation(org), accounts.project(org, project), accounts.key(key_id)):
            used[account] = used.get(account, 0) + int(total)
        used[accounts.REVENUE] = used.get(accounts.REVENUE, 0) - int(total)
    return used


def _totals(connection: sa.Connection, statement: sa.Select[Any], key: sa.Column[Any]) -> dict[str, int]:
    return {name: int(total) for name, total in connection.execute(statement.group_by(key))}


def _day_number(connection: sa.Connection) -> sa.ColumnElement[int]:
    """Give the day of a row as ``day_of`` counts it: whole seconds first, so that midnight is midnight."""
    ts = sa.func.floor(ledger.c.ts) if connection.dialect.name == "postgresql" else ledger.c.ts
    return sa.cast(ts, sa.BigInteger) // DAY_S


def _name(names: list[str], request_id: str) -> None:
    if len(names) < NAMED:
        names.append(request_id)
