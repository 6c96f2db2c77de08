"""The known tenants of one process: from SQL when something changed, from a snapshot where SQL is away.

A refresh reads one integer; only where it is new does it read everything, work the terms of organisations and
projects into the keys, and put them in force as a whole. The snapshot (hashes only) lets a gateway start
while the database is away. All of it is blocking work for threads other than the loop's.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.tables import organisations, projects
from gateway.tenancy import changes, key_store
from gateway.tenancy.keys import Key, KeyRecord, KeyTable, Registry, resolve
from gateway.tenancy.terms import Terms


def _nothing(_connection: sa.Connection, _keys: list[Key]) -> None:
    """Prepare nothing."""


class Directory:
    """Keeps a key table as the database says.

    ``prepare`` is called, in the thread that refreshes, before new keys count: what else changed with the
    revision, prices and balances, is put in force first.
    """

    def __init__(self, snapshot: Path, table: KeyTable) -> None:
        self._snapshot = snapshot
        self._table = table
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._glance = changes.Glance()
        self.prepare: Callable[[sa.Connection, list[Key]], None] = _nothing

    def read_once(self) -> bool:
        """Tell whether the database has been read."""
        return self._revision is not None

    @property
    def revision(self) -> int | None:
        """The revision that was read last, which is in force; None before the first."""
        return self._revision

    def keys(self) -> Iterable[Key]:
        """Give the keys that count."""
        return self._table.keys()

    def start(self, own: Iterable[KeyRecord]) -> None:
        """Put the snapshot in force, and the keys of the file, whose terms count."""
        known = read_snapshot(self._snapshot)
        self._table.replace(resolve(msgspec.structs.replace(known, keys=_merged(known.keys, own))))

    def refresh(self, engine: sa.Engine) -> bool:
        """Read again what is new; tells whether anything was. Raises SQLAlchemyError and changes nothing."""
        with self._lock:
            if self._revision is not None and self._glance.revision(engine) == self._revision:
                return False
            with engine.connect() as connection:
                revision = changes.revision(connection)
                if revision == self._revision:
                    return False
                registry = load(connection)
                found = resolve(registry)
                self.prepare(connection, found)
            self._table.replace(found)
            self._revision = revision
            with contextlib.suppress(OSError):
                write_snapshot(self._snapshot, registry)
            return True

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._glance.close()


def load(connection: sa.Connection) -> Registry:
    """Read all tenants. Raises SQLAlchemyError."""
    by_org = sa.select(organisations.c.name, organisations.c.terms)
    by_project = sa.select(organisations.c.name, projects.c.name, projects.c.terms).join(organisations)
    found: dict[str, dict[str, Terms]] = {}
    for org, name, terms in connection.execute(by_project):
        found.setdefault(org, {})[name] = msgspec.convert(terms, Terms)
    return Registry(
        organisations={name: msgspec.convert(terms, Terms) for name, terms in connection.execute(by_org)},
        projects=found,
        keys=key_store.all_keys(connection),
    )


def write_snapshot(path: Path, registry: Registry) -> None:
    """Keep what is known on disk, atomically. Raises OSError."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(registry))
    partial.replace(path)


def read_snapshot(path: Path) -> Registry:
    """Read what is kept on disk; nothing where there is no usable file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Registry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Registry(organisations={}, projects={}, keys=[])


def _merged(known: list[KeyRecord], own: Iterable[KeyRecord]) -> list[KeyRecord]:
    """Give the known keys and those of the file, whose terms count; a revoked key stays revoked."""
    by_hash = {record.sha256: record for record in known}
    for record in own:
        before = by_hash.get(record.sha256, record)
        by_hash[record.sha256] = msgspec.structs.replace(
            record, id=before.id, revoked_s=before.revoked_s, expires_s=before.expires_s
        )
    return list(by_hash.values())
