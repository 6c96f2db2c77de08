"""Questions about usage: single requests by page, sums by day, and what a period comes to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import ROUTED, ledger, transfers, usage_daily
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.accounts import HOUSE
from gateway.tenancy.ledger import DAY_S, SUMS, export
from gateway.tenancy.paging import Window, page

GROUPS = 1000


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One settled request; ``metadata`` is JSON text, ``end_user`` a hash, both empty where there is none."""

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
    reasoning_tokens: int
    baseline_nanousd: int
    service: str
    operation: str
    end_user: str
    metadata: str


Span = tuple[float | None, float | None]
Wanted = str | Sequence[str] | None  # a value, some values, any


def requests(
    connection: sa.Connection, reach: Reach, window: Window, filters: Mapping[str, Wanted], span: Span
) -> tuple[list[RequestRow], str | None]:
    """Give a page of requests, newest first, of a half-open span of time; filters say what columns hold."""
    statement = sa.select(*(ledger.c[name] for name in RequestRow.__struct_fields__))
    bounded = _days(connection, reach, filters, span)
    if bounded is None:
        return [], None
    statement = _within(statement, reach, filters, bounded)
    rows, behind = page(connection, statement, (ledger.c.ts, ledger.c.request_id), window, newest_first=True)
    return [as_struct(row, RequestRow) for row in rows], behind


Dimension = Literal["day", "org", "project", "key_id", "model", "source", "status"]


class Sum(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of requests comes to; a dimension that was not asked for is null."""

    day: str | None = None
    org: str | None = None
    project: str | None = None
    key_id: str | None = None
    model: str | None = None
    source: str | None = None
    status: str | None = None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    amount_nanousd: int
    baseline_nanousd: int


class Share(msgspec.Struct, frozen=True):
    """What the requests with one value of a metadata key come to; null: those without the key."""

    value: str | None
    requests: int
    amount_nanousd: int


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation owes for a month: usage by project, key and model, and how its account moved."""

    org: str
    month: str
    lines: list[Sum]
    usage_nanousd: int
    baseline_nanousd: int
    transfers: dict[str, int]


def daily(
    connection: sa.Connection,
    reach: Reach,
    filters: Mapping[str, str | None],
    days: tuple[str | None, str | None],
    by: Sequence[Dimension],
) -> list[Sum]:
    """Add the roll-ups up by some dimensions, over a half-open span of days; at most ``GROUPS`` groups."""
    names = [usage_daily.c[name] for name in by]
    statement = sa.select(
        *names, *(sa.cast(sa.func.sum(usage_daily.c[name]), sa.BigInteger).label(name) for name in SUMS)
    )
    for column, value in (*filters.items(), *_own(reach).items()):
        if value is not None:
            statement = statement.where(usage_daily.c[column] == value)
    if days[0] is not None:
        statement = statement.where(usage_daily.c.day >= days[0])
    if days[1] is not None:
        statement = statement.where(usage_daily.c.day < days[1])
    rows = connection.execute(statement.group_by(*names).order_by(*names).limit(GROUPS)).mappings()
    wanted = (*by, *SUMS)
    return [msgspec.convert({name: row[name] for name in wanted}, Sum) for row in rows if row["requests"]]


def by_metadata(
    connection: sa.Connection, reach: Reach, filters: Mapping[str, str | None], span: Span, name: str
) -> list[Share]:
    """Add requests up by the value of one metadata key, the dearest first; at most ``GROUPS`` values."""
    if connection.dialect.name == "postgresql":
        found = sa.cast(ledger.c.metadata, sa.JSON)[name].as_string()
    else:
        found = sa.func.json_extract(ledger.c.metadata, f'$."{name}"')
    value = sa.case((ledger.c.metadata != "", found)).label("value")
    amount = sa.func.sum(ledger.c.amount_nanousd)
    statement = _within(sa.select(value, sa.func.count(), amount), reach, filters, span)
    statement = statement.group_by(value).order_by(amount.desc(), value).limit(GROUPS)
    return [Share(value, count, int(total)) for value, count, total in connection.execute(statement)]


def invoice(connection: sa.Connection, org: str, month: str) -> Invoice:
    """Give what a month (``2026-11``, UTC) comes to for an organisation."""
    first = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
    after = (first + timedelta(days=31)).replace(day=1)
    days = (first.date().isoformat(), after.date().isoformat())
    lines = daily(connection, Reach(org), {}, days, ("project", "key_id", "model"))
    moved = sa.select(transfers.c.kind, transfers.c.debit, sa.func.sum(transfers.c.amount_nanousd)).where(
        transfers.c.org == org, transfers.c.ts >= first.timestamp(), transfers.c.ts < after.timestamp()
    )
    totals: dict[str, int] = {}
    for kind, debit, total in connection.execute(moved.group_by(transfers.c.kind, transfers.c.debit)):
        totals[kind] = totals.get(kind, 0) + (int(total) if debit in HOUSE else -int(total))
    return Invoice(
        org=org,
        month=month,
        lines=lines,
        usage_nanousd=sum(line.amount_nanousd for line in lines),
        baseline_nanousd=sum(line.baseline_nanousd for line in lines),
        transfers=totals,
    )


def rows(
    engine: sa.Engine, reach: Reach, filters: Mapping[str, str | None], span: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """Give the ledger rows of a half-open span of time, oldest first, without holding them all."""
    with engine.connect() as connection:
        bounded = _days(connection, reach, filters, span)
    return iter(()) if bounded is None else export(engine, *span, _asked(reach, filters, bounded))


def _days(connection: sa.Connection, reach: Reach, filters: Mapping[str, Wanted], span: Span) -> Span | None:
    """Narrow a span to that of a route, and to the days on which the roll-ups know such rows; None: no rows.

    Without it, a look for what is rare or not there would read the whole ledger.
    """
    if (route := filters.get("route")) is not None:
        # Each end by itself is one step in the index; both in one question would read all between.
        of_route = (_is(ledger.c.route, route), ROUTED)
        ends = (sa.select(end(ledger.c.ts)).where(*of_route) for end in (sa.func.min, sa.func.max))
        first_s, last_s = (connection.execute(one).scalar() for one in ends)
        if first_s is None or last_s is None:
            return None
        span = _narrowed(span, (first_s, math.nextafter(last_s, math.inf)))
    rolled = {name: value for name, value in {**filters, **_own(reach)}.items() if name in usage_daily.c}
    if all(value is None for value in rolled.values()):
        return span
    statement = sa.select(sa.func.min(usage_daily.c.day), sa.func.max(usage_daily.c.day))
    for name, value in rolled.items():
        if value is not None:
            statement = statement.where(_is(usage_daily.c[name], value))
    first, last = connection.execute(statement).one()
    if first is None:
        return None
    from_s, to_s = (datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in (first, last))
    return _narrowed(span, (from_s, to_s + DAY_S))


def _narrowed(span: Span, bounds: tuple[float, float]) -> Span:
    low, high = bounds
    return low if span[0] is None else max(low, span[0]), high if span[1] is None else min(high, span[1])


def _own(reach: Reach) -> dict[str, str | None]:
    return {"org": None if reach.org == EVERYTHING else reach.org, "key_id": reach.key_id}


def _within(
    statement: sa.Select[Any], reach: Reach, filters: Mapping[str, Wanted], span: Span
) -> sa.Select[Any]:
    return statement.where(*_asked(reach, filters, span))


def _is(column: sa.ColumnElement[str], value: str | Sequence[str]) -> sa.ColumnElement[bool]:
    return column == value if isinstance(value, str) else column.in_(value)


def _asked(reach: Reach, filters: Mapping[str, Wanted], span: Span) -> list[sa.ColumnElement[bool]]:
    named = [*filters.items(), *_own(reach).items()]
    found = [_is(ledger.c[column], value) for column, value in named if value is not None]
    wanted = {name for name, value in named if value is not None}
    if "route" in wanted and not wanted & {"org", "key_id"}:
        found.append(ROUTED)  # by the route's index; that of an organisation or a key finds them sooner
    if span[0] is not None:
        found.append(ledger.c.ts >= span[0])
    if span[1] is not None:
        found.append(ledger.c.ts < span[1])
    return found
