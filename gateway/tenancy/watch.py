"""Looks at the sums of the books for budgets and credits that are used up, and writes alerts.

Only roll-ups are read, and only where a threshold may have been crossed since the last look: five rows tell,
since no level can have used more than all together. Any number of processes may look: the unique row of a
crossing goes in once, with the messages to the organisation's webhooks in the same transaction. All of it is
blocking work for the books' thread.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database import as_struct
from gateway.state.periods import DAY_S, Span, spans
from gateway.tables import alerts, balances, spend_daily, transfers, webhook_endpoints
from gateway.tenancy import accounts, deliveries, ledger
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.alerts import (
    LATE_S,
    Credit,
    Gauge,
    Kind,
    Level,
    Mark,
    Sums,
    crossed,
    gauges,
    levels,
    newly_crossed,
    room_nanousd,
    spans_to_look_at,
)
from gateway.tenancy.directory import Directory
from gateway.tenancy.paging import Window, page

EVENT = "budget.threshold"
_NAMES = ", ".join(f"'{account}'" for account in sorted(accounts.HOUSE))
_HOUSE = f"SELECT account, transferred_nanousd, used_nanousd FROM balances WHERE account IN ({_NAMES})"  # noqa: S608
CHUNK = 500  # accounts in a question; SQLite takes 32766 values, and a plan should fit many

T = TypeVar("T")


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold that was crossed; ``period`` is the budget's, or the movement that opened the credit."""

    id: str
    ts: float
    account: str
    org: str
    project: str
    key_id: str
    kind: Kind
    period: str
    threshold_percent: int
    limit_nanousd: int
    used_nanousd: int


class Watch:
    """What one process knows to have been told already; ``refused`` is ``Billing.refused``."""

    def __init__(self, directory: Directory, refused: Mapping[str, int]) -> None:
        self._directory = directory
        self._refused = refused
        self._known: frozenset[Mark] = frozenset()
        self._marker: object = None
        self._sold_nanousd = 0  # by all levels together, at the last look
        self._room_nanousd = 0.0

    def look(self, engine: sa.Engine, now_s: float) -> list[Alert]:
        """Write alerts of what is newly crossed; gives those that no other process wrote.

        Raises SQLAlchemyError and has then written nothing.
        """
        revision = self._directory.revision  # before the keys, so that they are at least as new
        refused, keys = dict(self._refused), self._directory.keys()
        with engine.connect() as connection:
            house = _house(connection)
            transferred, used = house.pop(accounts.REVENUE, (0, 0))
            sold, marker = -used, (revision, house, transferred, _labels(now_s), refused)
            if marker == self._marker and sold - self._sold_nanousd < self._room_nanousd:
                return []
            found = levels(keys)
            sums = msgspec.structs.replace(read(connection, found, now_s), refused=refused)
            seen = gauges(found.values(), sums, now_s)
        told = write(engine, newly_crossed(seen, self._known), now_s)
        self._known = frozenset(one.mark(threshold) for one in seen for threshold in crossed(one))
        self._marker, self._sold_nanousd, self._room_nanousd = marker, sold, room_nanousd(seen)
        return told


def read(connection: sa.Connection, found: Mapping[str, Level], now_s: float) -> Sums:
    """Read what levels have spent and what their credits are. Raises SQLAlchemyError."""
    by_span: dict[Span, list[str]] = {}
    for account, level in found.items():
        for span in spans_to_look_at(level, now_s):
            by_span.setdefault(span, []).append(account)
    spent = {
        (account, span): amount
        for span, names in by_span.items()
        for account, amount in _spent(connection, names, span)
    }
    with_credit = [account for account, level in found.items() if level.bound.credit]
    return Sums(spent, dict(_credits(connection, with_credit)))


def write(engine: sa.Engine, marks: Mapping[Mark, Gauge], now_s: float) -> list[Alert]:
    """Write alerts and the messages about them; gives those that were not there. Raises SQLAlchemyError."""
    if not marks:
        return []
    told = []
    with engine.begin() as connection:
        for (account, kind, period, threshold), gauge in marks.items():
            alert = Alert(
                id="alt_" + secrets.token_hex(10),
                ts=now_s,
                account=account,
                org=gauge.level.org,
                project=gauge.level.project,
                key_id=gauge.level.key_id,
                kind=kind,
                period=period,
                threshold_percent=threshold,
                limit_nanousd=gauge.limit_nanousd,
                used_nanousd=gauge.used_nanousd,
            )
            if _insert(connection, alert):
                _tell(connection, alert)
                told.append(alert)
    return told


def list_alerts(
    connection: sa.Connection, reach: Reach, window: Window, filters: Mapping[str, str | None]
) -> tuple[list[Alert], str | None]:
    """Give a page, newest first; ``filters`` are columns and the values they must have."""
    statement = sa.select(alerts)
    if reach.org != EVERYTHING:
        statement = statement.where(alerts.c.org == reach.org)
    for column, value in filters.items():
        if value is not None:
            statement = statement.where(alerts.c[column] == value)
    rows, behind = page(connection, statement, (alerts.c.ts, alerts.c.id), window, newest_first=True)
    return [as_struct(row, Alert) for row in rows], behind


def _insert(connection: sa.Connection, alert: Alert) -> bool:
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = make(alerts).values(**msgspec.to_builtins(alert)).on_conflict_do_nothing()
    return connection.execute(statement.returning(alerts.c.id)).first() is not None


def _tell(connection: sa.Connection, alert: Alert) -> None:
    endpoints = sa.select(webhook_endpoints.c.id).where(webhook_endpoints.c.org == alert.org)
    for endpoint_id in list(connection.execute(endpoints).scalars()):
        body = deliveries.message(EVENT, alert.ts, alert)
        deliveries.put(connection, endpoint_id, EVENT, body, alert.ts)


def _house(connection: sa.Connection) -> dict[str, tuple[int, int]]:
    """Give the accounts of the house: every movement and every row with an amount changes one of them."""
    # Asked all the time: in the driver's own words it costs half.
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.exec_driver_sql(_HOUSE)}


def _labels(now_s: float) -> tuple[str, str]:
    return spans(now_s)["day"].label, spans(max(0.0, now_s - LATE_S))["day"].label


def _spent(connection: sa.Connection, names: Sequence[str], span: Span) -> Iterator[tuple[str, int]]:
    columns = spend_daily.c
    within = [columns.day >= ledger.day_of(span.start_s)]
    if span.label != "total":
        within.append(columns.day <= ledger.day_of(span.end_s - DAY_S / 2))
    for some in _chunks(names):
        statement = sa.select(columns.account, sa.func.sum(columns.amount_nanousd))
        statement = statement.where(columns.account.in_(some), *within).group_by(columns.account)
        yield from ((account, int(amount)) for account, amount in connection.execute(statement))


def _credits(connection: sa.Connection, names: Sequence[str]) -> Iterator[tuple[str, Credit]]:
    for some in _chunks(names):
        opened = {row.credit: row for row in connection.execute(_last_put_in(some))}
        columns = (balances.c.account, balances.c.transferred_nanousd, balances.c.used_nanousd)
        for row in connection.execute(sa.select(*columns).where(balances.c.account.in_(some))):
            by = opened.get(row.account)
            of_credit = ("", 0) if by is None else (by.id, by.used_nanousd)
            yield row.account, Credit(row.transferred_nanousd, row.used_nanousd, *of_credit)


def _last_put_in(names: Sequence[str]) -> sa.Select[tuple[str, str, int]]:
    """Ask for the last grant or top-up of each account; refunds and corrections open no new credit."""
    columns = transfers.c
    newest = (columns.ts.desc(), columns.id.desc())
    place = sa.func.row_number().over(partition_by=columns.credit, order_by=newest).label("place")
    ranked = (
        sa.select(columns.credit, columns.id, columns.used_nanousd, place)
        .where(columns.credit.in_(names), columns.kind.in_(("grant", "top_up")))
        .subquery()
    )
    return sa.select(ranked.c.credit, ranked.c.id, ranked.c.used_nanousd).where(ranked.c.place == 1)


def _chunks(names: Sequence[T]) -> Iterable[Sequence[T]]:
    return (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
