"""What a request said of its sender is forgotten when the terms say so; its money stays.

The shortest ``retention_days`` of key, project and organisation counts. Of older ledger rows the end user and
the metadata are emptied, amounts and tokens stay as they are: sums and proofs do not notice.
"""

import sqlalchemy as sa

from gateway.tables import ledger
from gateway.tenancy.keys import Registry
from gateway.tenancy.ledger import DAY_S
from gateway.tenancy.terms import NOTHING

BATCH = 1000  # rows of one transaction: nobody waits for it for long


def kept_days(registry: Registry) -> dict[str, int]:
    """Give for how many days each key's requests keep their content; keys without a limit are left out."""
    found: dict[str, int] = {}
    for record in registry.keys:
        levels = (
            registry.organisations.get(record.org, NOTHING),
            registry.projects.get(record.org, {}).get(record.project, NOTHING),
            record.terms,
        )
        days = [one.retention_days for one in levels if one.retention_days is not None]
        if days:
            found[record.id] = min(days)
    return found


class Retention:
    """Empties what is due; of each key it remembers until when that is done."""

    def __init__(self) -> None:
        self._done_until_s: dict[str, float] = {}

    def step(self, engine: sa.Engine, registry: Registry, now_s: float) -> int:
        """Empty the content of rows that are too old; gives how many. Raises SQLAlchemyError."""
        emptied = 0
        for key_id, days in kept_days(registry).items():
            until_s = now_s - days * DAY_S
            # A day again and again: rows may come late, carried after a long absence of the database.
            from_s = min(self._done_until_s.get(key_id, 0.0), until_s) - DAY_S
            done = BATCH
            while done == BATCH:
                with engine.begin() as connection:
                    done = _empty(connection, key_id, from_s, until_s)
                emptied += done
            self._done_until_s[key_id] = until_s
        return emptied


def _empty(connection: sa.Connection, key_id: str, from_s: float, until_s: float) -> int:
    due = sa.select(ledger.c.request_id).where(
        ledger.c.key_id == key_id,
        ledger.c.ts >= from_s,
        ledger.c.ts < until_s,
        sa.or_(ledger.c.end_user != "", ledger.c.metadata != ""),
    )
    statement = sa.update(ledger).where(ledger.c.request_id.in_(due.limit(BATCH)))
    return connection.execute(statement.values(end_user="", metadata="")).rowcount
