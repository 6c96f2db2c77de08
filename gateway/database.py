"""One SQL engine (SQLite or PostgreSQL), and the way to the newest schema of ``gateway.tables``.

Everything here is synchronous and runs in threads: SQL is never on the way of a request. The schema is
changed by migrations only.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

# A host that is gone without a word is noticed within seconds, not when TCP gives up.
POSTGRES = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
SQLITE_BUSY_S = 30.0  # its writers wait for each other without an order, and a busy disk is slow
MOMENT_S = 0.1  # a file's time moves on in steps of some milliseconds
MIGRATIONS = Path(__file__).parent / "migrations"

T = TypeVar("T", bound=msgspec.Struct)


class DatabaseError(Exception):
    """The database cannot be used; the text says why and what to do."""


def connect(url: str) -> sa.Engine:
    """Make the engine; nothing is opened yet. Raises DatabaseError for an unusable URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError("database.url is not a URL; use sqlite:///FILE or postgresql://...") from None
    if parsed.drivername == "sqlite":
        # What it sorts for a while has room beside it, and /tmp may be memory, or missing. SQLite looks once,
        # when it is loaded.
        if parsed.database:
            os.environ.setdefault("SQLITE_TMPDIR", str(Path(parsed.database).absolute().parent))
        engine = sa.create_engine(parsed, connect_args={"timeout": SQLITE_BUSY_S})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sa.create_engine(parsed, pool_pre_ping=True, connect_args=POSTGRES)
    raise DatabaseError(f"database.url has the scheme {parsed.drivername!r}; use sqlite or postgresql")


def migrate(engine: sa.Engine, to: str = "head") -> None:
    """Bring the schema to the newest version, or to an older one. Raises DatabaseError."""
    # Alembic's templates colour errors if they can: 4 MiB for good, and no template is ever made here.
    sys.modules.setdefault("mako.ext.pygmentplugin", None)  # type: ignore[arg-type]  # says: not installed
    from alembic import command  # a quarter of a second, needed once
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        if engine.url.database and engine.url.drivername == "sqlite":
            path = Path(engine.url.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # hashes of keys and the ledger are nobody else's business
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseError(
            f"the database cannot be opened or migrated: {reason(error)} (database.url says which it is)"
        ) from error


def last_write(url: sa.URL) -> tuple[int, int, int] | None:
    """Give what tells the last write to an SQLite database from those before, at the price of a ``stat``.

    None where that cannot be told: another database, no log, or the next write might come in the same moment.
    Source: https://sqlite.org/wal.html (each commit writes to the log).
    """
    if url.drivername != "sqlite" or not url.database:
        return None
    try:
        found = os.stat(f"{url.database}-wal")  # a Path would cost as much again
    except OSError:
        return None
    whole_seconds = found.st_mtime_ns % 10**9 == 0  # are all that some file systems know
    if whole_seconds or time.time() - found.st_mtime < MOMENT_S:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def reason(error: Exception) -> str:
    """Give the short cause, without the statement and its values."""
    original = getattr(error, "orig", None) or error
    return str(original).strip().splitlines()[0] if str(original).strip() else type(original).__name__


def as_struct(row: sa.RowMapping, kind: type[T]) -> T:
    """Give a row as a struct; every field is a column of its name. Raises msgspec.ValidationError."""
    return msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # A statement of many rows keeps what it would have to undo: in a file that takes a write for each page.
    cursor.execute("PRAGMA temp_store=MEMORY")
    cursor.close()
