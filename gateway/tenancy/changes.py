"""How tenants are changed: one at a time, with a line in the audit log and a higher revision.

A change begins by raising the revision, one integer in one row, whose lock lets changes come one after
another on both databases. A process that sees the revision unchanged knows that it knows everything. Secrets
never come into the audit log: callers hand over what may be shown.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import audit, revisions
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.paging import Window, page

REVISION = "tenants"
_READ = f"SELECT value FROM revisions WHERE name = '{REVISION}'"  # noqa: S608

State = dict[str, Any] | None


class Change(msgspec.Struct, frozen=True):
    """A transaction that changes something, who makes it, and when (seconds since the epoch).

    Actors are ``admin-key``, ``key:ID``, ``person:ID``, ``cli``, ``file``, ``routing`` (what it learns).
    """

    connection: sa.Connection
    actor: str
    now_s: float

    def record(self, action: str, subject: tuple[str, str], before: State, after: State) -> None:
        """Note what was done; ``subject`` is the organisation and the id of what was changed."""
        self.connection.execute(
            sa.insert(audit).values(
                id="aud_" + secrets.token_hex(10),
                ts=self.now_s,
                actor=self.actor,
                org=subject[0],
                action=action,
                subject=subject[1],
                before=sa.null() if before is None else before,
                after=sa.null() if after is None else after,
            )
        )


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as the audit log keeps it; ``org`` is ``*`` where it concerns the whole installation."""

    id: str
    ts: float
    actor: str
    org: str
    action: str
    subject: str
    before: State
    after: State


@contextmanager
def changing(engine: sa.Engine, actor: str, now_s: float) -> Iterator[Change]:
    """Open a change; leaving it well commits. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        bump(connection)
        yield Change(connection, actor, now_s)


def bump(connection: sa.Connection) -> None:
    """Raise the revision: all processes read again within two seconds."""
    statement = sa.update(revisions).where(revisions.c.name == REVISION)
    connection.execute(statement.values(value=revisions.c.value + 1))


def revision(connection: sa.Connection) -> int:
    """Give the revision."""
    return int(connection.exec_driver_sql(_READ).scalar_one())


class Glance:
    """Looks at the revision by a connection of its own that stays open.

    Every process looks every second: through the pool that would be a tenth of all it does while it idles.
    """

    def __init__(self) -> None:
        self._connection: sa.PoolProxiedConnection | None = None

    def revision(self, engine: sa.Engine) -> int | None:
        """Give the revision; None where something is in the way, which a proper question will tell."""
        try:
            if self._connection is None:
                self._connection = engine.raw_connection()
            connection = self._connection
            cursor = connection.cursor()
            cursor.execute(_READ)
            (found,) = cursor.fetchone() or (None,)
            cursor.close()
            connection.rollback()  # the next look must not see this one's moment
        except Exception:  # the driver's own: each has others
            self.close()
            return None
        return None if found is None else int(found)

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()


def lines(
    connection: sa.Connection, reach: Reach, window: Window, filters: dict[str, str | None]
) -> tuple[list[Line], str | None]:
    """Give a page of the audit log, newest first; ``filters`` are columns and the values they must have."""
    statement = sa.select(audit)
    if reach.org != EVERYTHING:
        statement = statement.where(audit.c.org == reach.org)
    for column, value in filters.items():
        if value is not None:
            statement = statement.where(audit.c[column] == value)
    rows, behind = page(connection, statement, (audit.c.ts, audit.c.id), window, newest_first=True)
    return [as_struct(row, Line) for row in rows], behind
