"""Idempotency keys in SQL: who runs the request of a key, and what it was answered.

One row for each key of a project, by hash. While its request runs, a lease says that its process lives; when
it is answered, the row holds the answer until the retention time is over. Any number of processes may begin
at once: one of them gets the row.
"""

from typing import Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.tables import idempotency_keys as table


class Claimed(msgspec.Struct, frozen=True):
    """What somebody begins; times in seconds since the epoch."""

    id: str
    fingerprint: str
    owner: str
    leased_until_s: float
    expires_s: float


class Begun(msgspec.Struct, frozen=True):
    """The request is to be run, by whoever asked."""


class Busy(msgspec.Struct, frozen=True):
    """Another process runs it."""


class Conflict(msgspec.Struct, frozen=True):
    """The key was used for another request."""


class Kept(msgspec.Struct, frozen=True):
    """It was answered before."""

    answer: bytes


State = Begun | Busy | Conflict | Kept
RUNNING: Literal["running"] = "running"
ANSWERED: Literal["answered"] = "answered"


def begin(engine: sa.Engine, wanted: Claimed, now_s: float) -> State:
    """Take the row of a key if nobody has it. Raises SQLAlchemyError."""
    fresh = {**msgspec.structs.asdict(wanted), "state": RUNNING, "answer": None}
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(table).values(**fresh))
        return Begun()
    except IntegrityError:
        pass
    with engine.begin() as connection:
        row = connection.execute(sa.select(table).where(table.c.id == wanted.id)).mappings().first()
        if row is None:
            return Busy()  # it went this very moment: ask again
        if row["expires_s"] > now_s:
            if row["fingerprint"] != wanted.fingerprint:
                return Conflict()
            if row["state"] == ANSWERED:
                return Kept(row["answer"])
            if row["leased_until_s"] > now_s:
                return Busy()
        taken = connection.execute(
            sa.update(table)
            .where(table.c.id == wanted.id, table.c.owner == row["owner"])
            .where(table.c.leased_until_s == row["leased_until_s"], table.c.state == row["state"])
            .values(**fresh)
        )
        return Begun() if taken.rowcount == 1 else Busy()


def finish(engine: sa.Engine, record_id: str, owner: str, answer: bytes | None) -> None:
    """Keep the answer, or free the key where there is none. Raises SQLAlchemyError."""
    ours = (table.c.id == record_id, table.c.owner == owner, table.c.state == RUNNING)
    with engine.begin() as connection:
        if answer is None:
            connection.execute(sa.delete(table).where(*ours))
        else:
            connection.execute(sa.update(table).where(*ours).values(state=ANSWERED, answer=answer))


def renew(engine: sa.Engine, owner: str, leased_until_s: float) -> None:
    """Say that a process lives. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.owner == owner, table.c.state == RUNNING)
            .values(leased_until_s=leased_until_s)
        )


def sweep(engine: sa.Engine, now_s: float) -> None:
    """Forget what is over its time. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.expires_s <= now_s))
