"""After a restore: usage that went into the database that was lost is carried into the one that is there.

The kept segments of the journal remember it. A database notes how far each segment is carried, so that one
which knows less of a kept segment than is in it comes from a backup. A row that was deleted from a database
that knows its segment stays missing, for the proof to name it.
"""

import itertools
from pathlib import Path

import sqlalchemy as sa

from gateway.tables import journal_segments
from gateway.tenancy.ledger import BATCH, Carried, insert
from gateway.tenancy.reconcile import Journals


def carry_again(engine: sa.Engine, journal: Path, kept: Path) -> int:
    """Carry what a restored database lacks; gives the number of new rows. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        offsets = {name: int(size) for name, size in connection.execute(sa.select(journal_segments))}
    sizes = {path.name: path.stat().st_size for path in kept.glob("*.jsonl")}
    behind = [Carried(name, size) for name, size in sizes.items() if offsets.get(name, 0) < size]
    if not behind:
        return 0
    found = Journals(journal, kept, offsets).entries()
    entries = (entry for _, entry, certain in found if certain and entry is not None)
    new = 0
    while part := list(itertools.islice(entries, BATCH)):
        new += insert(engine, part)
    insert(engine, [], behind)
    return new
