"""What happened in each minute of the last days: the roll-up that the console's first page reads.

It is kept for each organisation and for all together, and changes in the transaction that inserts the rows it
comes from (``ledger``). Whole days that are older than ``KEPT_DAYS`` are forgotten; ``begins`` is the first
one that it holds in full. What it cannot answer (other steps, single keys, older days) is added up from the
ledger's own rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.tables import ledger, revisions, usage_minutely
from gateway.tenancy.access import EVERYTHING, Reach

UNIT_S = 60
DAY_MINUTES = 1440
KEPT_DAYS = 2  # whole ones, beside the present one: any span of a day that ends now or lately
GROUP = ("org", "minute", "model", "source", "status")
SUMS = ("requests", "tokens", "amount_nanousd", "baseline_nanousd")
ALL = EVERYTHING  # stands for all organisations together
BEGINS = "minutes"  # the name among the revisions of the first day that is held in full


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one outcome and source within a step of time that begins at ``ts``."""

    ts: float
    status: str
    source: str
    requests: int
    tokens: int
    amount_nanousd: int
    baseline_nanousd: int


def summed(sums: Sequence[int]) -> tuple[int, ...]:
    """Give the sums of a minute from those of a day (``ledger.SUMS``)."""
    requests, prompt, _, completion, _, amount, baseline = sums
    return requests, prompt + completion, amount, baseline


def activity(
    connection: sa.Connection,
    reach: Reach,
    filters: Mapping[str, str | None],
    span: tuple[float, float],
    step_s: int,
) -> list[Activity]:
    """Add requests up by step of time, outcome and source, in order of time; filters are org and model."""
    own = {"org": None if reach.org == EVERYTHING else reach.org, "key_id": reach.key_id}
    named = [(name, value) for name, value in (*filters.items(), *own.items()) if value is not None]
    if reach.key_id is None and all(at % UNIT_S == 0 for at in (*span, step_s)):
        found = _found(connection, _of_minutes(named, span, step_s))
        # Looked at behind the sums: what was forgotten before them shows here.
        if begins(connection) * DAY_MINUTES * UNIT_S <= span[0]:
            return found
    return _found(connection, _of_rows(named, span, step_s))


def begins(connection: sa.Connection) -> int:
    """Give the first day that is held in full, in days since the epoch."""
    statement = sa.select(revisions.c.value).where(revisions.c.name == BEGINS)
    return int(connection.execute(statement).scalar() or 0)


def forget(engine: sa.Engine, now_s: float) -> int:
    """Forget whole days that are too old; gives how many rows they had. Raises SQLAlchemyError."""
    day = int(now_s) // UNIT_S // DAY_MINUTES - KEPT_DAYS
    with engine.begin() as connection:
        if day <= begins(connection):
            return 0
        at = sa.update(revisions).where(revisions.c.name == BEGINS).values(value=day)
        if connection.execute(at).rowcount == 0:
            connection.execute(sa.insert(revisions).values(name=BEGINS, value=day))
        old = sa.delete(usage_minutely).where(usage_minutely.c.minute < day * DAY_MINUTES)
        return connection.execute(old).rowcount


Named = list[tuple[str, str]]


def _of_minutes(named: Named, span: tuple[float, float], step_s: int) -> sa.Select[Any]:
    columns = usage_minutely.c
    step = (columns.minute * UNIT_S // step_s * step_s).label("begins")
    where = [columns[name] == value for name, value in named]
    if not any(name == "org" for name, _ in named):
        where.append(columns.org == ALL)
    where += [columns.minute >= int(span[0]) // UNIT_S, columns.minute < int(span[1]) // UNIT_S]
    sums = (sa.func.sum(columns[name]) for name in SUMS)
    return _grouped(step, columns.status, columns.source, *sums).where(*where)


def _of_rows(named: Named, span: tuple[float, float], step_s: int) -> sa.Select[Any]:
    columns = ledger.c
    step = (sa.cast(sa.func.floor(columns.ts / step_s), sa.BigInteger) * step_s).label("begins")
    where = [columns[name] == value for name, value in named]
    where += [columns.ts >= span[0], columns.ts < span[1]]
    tokens = sa.func.sum(columns.prompt_tokens + columns.completion_tokens)
    money = (sa.func.sum(columns.amount_nanousd), sa.func.sum(columns.baseline_nanousd))
    return _grouped(step, columns.status, columns.source, sa.func.count(), tokens, *money).where(*where)


def _grouped(step: sa.ColumnElement[int], *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    status, source, *_ = more
    return sa.select(step, *more).group_by(step, status, source).order_by(step, status, source)


def _found(connection: sa.Connection, statement: sa.Select[Any]) -> list[Activity]:
    return [
        Activity(
            ts=float(ts),
            status=status,
            source=source,
            requests=int(count),
            tokens=int(tokens),
            amount_nanousd=int(amount),
            baseline_nanousd=int(baseline),
        )
        for ts, status, source, count, tokens, amount, baseline in connection.execute(statement)
    ]
