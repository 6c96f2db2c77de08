"""The ledger in SQL: one row per accepted request, and the sums that are kept with the rows.

A row debits the key's account and credits ``revenue``. Balances, the spend of each account per day and the
roll-ups by day and by minute change in the transaction that inserts the rows they come from. Rows are
inserted once, by request id: inserting a row twice changes nothing.
"""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from gateway.tables import balances, journal_segments, ledger, spend_daily, usage_daily, usage_minutely
from gateway.tenancy import accounts, minutes
from gateway.tenancy.journal import Entry

BATCH = 2000
TOGETHER = 64  # rows in a statement
DAY_S = 86400
COLUMNS = Entry.__struct_fields__
SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens",
        "amount_nanousd", "baseline_nanousd")  # fmt: skip
GROUP = ("day", "org", "project", "key_id", "model", "source", "status")


class Carried(msgspec.Struct, frozen=True):
    """How far a journal's segment is in SQL."""

    segment: str
    offset_bytes: int


class _Twice(Exception):
    """Some of the rows are there already."""


def insert(engine: sa.Engine, entries: list[Entry], carried: Sequence[Carried] = ()) -> int:
    """Insert entries in one transaction, note how far the journal is carried; gives the number of new rows.

    Rows that are there already stay as they are. Raises SQLAlchemyError.
    """
    if not entries and not carried:
        return 0
    try:
        with engine.begin() as connection:
            _insert(connection, entries)
            _note(connection, carried)
            return len(entries)
    except _Twice:
        with engine.begin() as connection:
            new = _unknown(connection, entries)
            _insert(connection, new)
            _note(connection, carried)
            return len(new)


def export(
    engine: sa.Engine, from_s: float, to_s: float, where: Sequence[sa.ColumnElement[bool]] = ()
) -> Iterator[dict[str, Any]]:
    """Give ledger rows of a half-open span of time, oldest first, without holding them all.

    ``where`` are further conditions. Each page of rows is a question of its own: a slow
    reader keeps neither a connection nor a transaction, and the last page costs what the first one does.
    """
    place = (ledger.c.ts, ledger.c.request_id)
    statement = sa.select(ledger).where(ledger.c.ts >= from_s, ledger.c.ts < to_s)
    asked = statement = statement.where(*where).order_by(*place).limit(BATCH)
    while True:
        with engine.connect() as connection:
            rows = connection.execute(asked).mappings().all()
        yield from map(dict, rows)
        if len(rows) < BATCH:
            return
        last = (sa.literal(rows[-1]["ts"]), sa.literal(rows[-1]["request_id"]))
        # The time once more by itself: not every planner finds it in the pair.
        asked = statement.where(ledger.c.ts >= last[0], sa.tuple_(*place) > sa.tuple_(*last))


def spent(connection: sa.Connection, since_day: str = "") -> dict[str, int]:
    """Give what each account has spent since a day (``2026-11-01``, UTC), or ever, in nano-dollars."""
    statement = (
        sa.select(spend_daily.c.account, sa.func.sum(spend_daily.c.amount_nanousd))
        .where(spend_daily.c.day >= since_day)
        .group_by(spend_daily.c.account)
    )
    return {account: int(total) for account, total in connection.execute(statement)}


def balance(connection: sa.Connection, account: str) -> int:
    """Give the balance of an account, in nano-dollars: what was put in less what was used."""
    statement = sa.select(balances.c.transferred_nanousd - balances.c.used_nanousd)
    return int(connection.execute(statement.where(balances.c.account == account)).scalar() or 0)


def all_balances(connection: sa.Connection) -> dict[str, int]:
    """Give the balances of all accounts, those of the house included."""
    statement = sa.select(balances.c.account, balances.c.transferred_nanousd - balances.c.used_nanousd)
    return {account: int(amount) for account, amount in connection.execute(statement)}


@lru_cache(maxsize=64)
def iso_day(day: int) -> str:
    """Write a number of days since the epoch as an ISO date."""
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()


def day_of(ts: float) -> str:
    """Give the day of a moment, UTC."""
    return iso_day(int(ts) // DAY_S)


def _insert(connection: sa.Connection, entries: list[Entry]) -> None:
    if not entries:
        return
    statements = _statements(connection.dialect.paramstyle)
    rows = [msgspec.structs.astuple(entry) for entry in entries]
    if _put(connection, rows) != len(rows):
        raise _Twice
    sums = _sums(entries)
    connection.exec_driver_sql(statements.daily, sums.daily)
    connection.exec_driver_sql(statements.minutely, sums.minutely)
    connection.exec_driver_sql(
        statements.spend, [(account, day, amount) for (account, day), amount in sums.spending]
    )
    totals = {accounts.REVENUE: 0}
    for (account, _), amount in sums.spending:
        totals[account] = totals.get(account, 0) + amount
        if account.startswith("key:"):
            totals[accounts.REVENUE] -= amount
    connection.exec_driver_sql(statements.used, sorted(totals.items()))


def _put(connection: sa.Connection, rows: list[tuple[Any, ...]]) -> int:
    """Insert ledger rows in the driver's own words, an expression would cost much; gives how many are new.

    Many at once: for each statement the driver lets go of the interpreter's lock, and must get it back.
    """
    style, new = connection.dialect.paramstyle, 0
    whole = len(rows) - len(rows) % TOGETHER
    for start in range(0, whole, TOGETHER):
        values = tuple(itertools.chain.from_iterable(rows[start : start + TOGETHER]))
        new += connection.exec_driver_sql(_rows(style, TOGETHER), values).rowcount
    if whole < len(rows):
        new += connection.exec_driver_sql(_rows(style, 1), rows[whole:]).rowcount
    return new


class _Sums(NamedTuple):
    """What some rows add to the roll-ups; sorted, so that two writers cannot lock each other."""

    daily: list[tuple[Any, ...]]
    minutely: list[tuple[Any, ...]]
    spending: list[tuple[tuple[str, str], int]]


def _sums(entries: list[Entry]) -> _Sums:
    """Add entries up by group and day, by group and minute, and by account and day."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for one in entries:
        # A quarter of what a row costs is spent here: one look-up, then plain additions.
        group = (int(one.ts) // minutes.UNIT_S, one.org, one.project, one.key_id, one.model, one.source,
                 one.status, one.end_user)  # fmt: skip
        sums = groups.get(group)
        if sums is None:
            sums = groups[group] = [0] * len(SUMS)
        sums[0] += 1
        sums[1] += one.prompt_tokens
        sums[2] += one.cached_tokens
        sums[3] += one.completion_tokens
        sums[4] += one.reasoning_tokens
        sums[5] += one.amount_nanousd
        sums[6] += one.baseline_nanousd
    daily: dict[tuple[Any, ...], list[int]] = {}
    minutely: dict[tuple[Any, ...], list[int]] = {}
    spending: dict[tuple[str, str], int] = {}
    for (minute, org, project, key_id, *rest, end_user), sums in groups.items():
        day = iso_day(minute // minutes.DAY_MINUTES)
        _add(daily, (day, org, project, key_id, *rest), sums)
        for whose in (org, minutes.ALL):
            _add(minutely, (whose, minute, *rest), minutes.summed(sums))
        names = [accounts.organisation(org), accounts.project(org, project), accounts.key(key_id)]
        if end_user:
            names.append(accounts.users(org, project, key_id) + end_user)
        for account in names:
            spending[account, day] = spending.get((account, day), 0) + sums[5]
    return _Sums(_flat(daily), _flat(minutely), sorted(spending.items()))


def _add(groups: dict[tuple[Any, ...], list[int]], group: tuple[Any, ...], more: Sequence[int]) -> None:
    sums = groups.get(group)
    groups[group] = (
        list(more) if sums is None else [one + other for one, other in zip(sums, more, strict=True)]
    )


def _flat(groups: dict[tuple[Any, ...], list[int]]) -> list[tuple[Any, ...]]:
    return sorted((*group, *sums) for group, sums in groups.items())


def _note(connection: sa.Connection, carried: Sequence[Carried]) -> None:
    if not carried:
        return
    mark = _mark(connection.dialect.paramstyle)
    statement = _upsert(journal_segments, ("name",), ("carried_bytes",), mark, "excluded.carried_bytes")
    connection.exec_driver_sql(statement, sorted((one.segment, one.offset_bytes) for one in carried))


def _unknown(connection: sa.Connection, entries: list[Entry]) -> list[Entry]:
    """Give the entries whose rows are not there, each once, the first of them."""
    new = {entry.request_id: entry for entry in reversed(entries)}
    names = list(new)
    for start in range(0, len(names), 500):
        statement = sa.select(ledger.c.request_id).where(ledger.c.request_id.in_(names[start : start + 500]))
        for name in connection.execute(statement).scalars():
            del new[name]
    return [new[name] for name in reversed(new)]


@lru_cache
def _rows(paramstyle: str, count: int) -> str:
    """Give the statement for so many rows."""
    row = f"({', '.join([_mark(paramstyle)] * len(COLUMNS))})"
    return (
        f"INSERT INTO ledger ({', '.join(COLUMNS)}) VALUES {', '.join([row] * count)} ON CONFLICT DO NOTHING"  # noqa: S608
    )


class _Statements(NamedTuple):
    daily: str
    minutely: str
    spend: str
    used: str


@lru_cache
def _statements(paramstyle: str) -> _Statements:
    """Give the statements for roll-ups, spend and balances, in the driver's own words."""
    mark = _mark(paramstyle)
    used = (
        f"INSERT INTO balances (account, transferred_nanousd, used_nanousd) VALUES ({mark}, 0, {mark}) "  # noqa: S608
        "ON CONFLICT (account) DO UPDATE SET used_nanousd = balances.used_nanousd + excluded.used_nanousd"
    )
    return _Statements(
        _upsert(usage_daily, GROUP, SUMS, mark),
        _upsert(usage_minutely, minutes.GROUP, minutes.SUMS, mark),
        _upsert(spend_daily, ("account", "day"), ("amount_nanousd",), mark),
        used,
    )


def _upsert(table: sa.Table, key: tuple[str, ...], added: tuple[str, ...], mark: str, value: str = "") -> str:
    """Write an insert that adds to a row that is there (or puts ``value`` into it)."""
    name = table.name
    sets = ", ".join(f"{one} = {value or f'{name}.{one} + excluded.{one}'}" for one in added)
    return (
        f"INSERT INTO {name} ({', '.join((*key, *added))}) "  # noqa: S608
        f"VALUES ({', '.join([mark] * (len(key) + len(added)))}) ON CONFLICT ({', '.join(key)}) "
        f"DO UPDATE SET {sets}"
    )


def _mark(paramstyle: str) -> str:
    return "?" if paramstyle == "qmark" else "%s"
