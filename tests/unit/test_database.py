"""One engine, one schema, one sentence where it cannot be used."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gateway import database, tables
from gateway.database import DatabaseError


def test_the_migrations_lead_to_the_tables_that_the_code_names(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path / 'made' / 'x.db'}")
    for _ in range(2):
        database.migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA temp_store").scalar() == 2
    engine.dispose()


SORTS = """
import os, sys
from pathlib import Path
from gateway import database
with database.connect(f"sqlite:///{sys.argv[1]}/x.db").connect() as connection:
    connection.exec_driver_sql("PRAGMA temp_store=FILE")
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT i FROM n"
    rows = connection.exec_driver_sql(many + " ORDER BY hex(i) || randomblob(60)")
    rows.fetchone()
    for one in Path("/proc/self/fd").iterdir():
        if one.is_symlink() and "etilqs" in os.readlink(one):
            print(Path(os.readlink(one)).parent)
"""


def test_what_is_sorted_for_a_while_lies_beside_the_database(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SORTS, str(tmp_path)]
    environ = {name: value for name, value in os.environ.items() if name != "SQLITE_TMPDIR"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {str(tmp_path)}


def test_the_last_write_is_known_once_the_next_one_would_show(tmp_path: Path) -> None:
    engine = database.connect(f"sqlite:///{tmp_path / 'x.db'}")
    assert database.last_write(engine.url) is None  # no log
    database.migrate(engine)
    log = tmp_path / "x.db-wal"
    assert database.last_write(engine.url) is None  # too recent
    os.utime(log, ns=(10**18, 10**18))
    assert database.last_write(engine.url) is None  # whole seconds
    os.utime(log, ns=(10**18 + 1, 10**18 + 1))
    known = database.last_write(engine.url)
    assert known is not None
    assert known == database.last_write(engine.url)
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.revisions).values(name="x", value=1))
    assert log.stat().st_mtime_ns > 10**18 + 1
    assert database.last_write(engine.url) != known
    assert database.last_write(sa.make_url("postgresql://host/name")) is None
    assert database.last_write(sa.make_url("sqlite://")) is None
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a URL"),
        ("switchgear.db", "not a URL"),
        ("postgresql://user@host:port/db", "not a URL"),
        ("mysql://user@host/db", "'mysql'"),
        ("postgresql+asyncpg://user@host/db", "'postgresql+asyncpg'"),
    ],
)
def test_an_unusable_url_is_said(url: str, words: str) -> None:
    with pytest.raises(DatabaseError, match=r"database\.url") as caught:
        database.connect(url)
    assert words in str(caught.value)


def test_a_password_is_never_in_the_text_of_an_error() -> None:
    with pytest.raises(DatabaseError) as caught:
        database.connect("mysql://user:secret@host/db")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("what", ["directory", "garbage", "behind a file"])
def test_a_file_that_is_no_database_gives_one_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.db"
    if what == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"not a database, but quite long" * 100)
    if what == "behind a file":
        path = path / "y.db"
    engine = database.connect(f"sqlite:///{path}")
    with pytest.raises(DatabaseError, match="cannot be opened or migrated") as caught:
        database.migrate(engine)
    assert "\n" not in str(caught.value)
    engine.dispose()


KILLED = """
import os, sys
import sqlalchemy as sa
from gateway import database
engine = database.connect(sys.argv[1])

def stop(connection, cursor, statement, *rest):
    if "CREATE TABLE ledger" in statement:
        os._exit(9)

sa.event.listen(engine, "before_cursor_execute", stop)
database.migrate(engine)
"""


def test_a_start_that_is_killed_within_a_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    assert subprocess.run([sys.executable, "-c", KILLED, url], check=False).returncode == 9
    with sqlite3.connect(tmp_path / "x.db") as raw:
        assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    raw.close()
    engine = database.connect(url)
    database.migrate(engine)
    engine.dispose()


def test_the_reason_of_an_error_holds_no_statement_and_no_values() -> None:
    engine = database.connect("sqlite://")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as caught:
        connection.execute(sa.text("SELECT * FROM nowhere WHERE key = :key"), {"key": "secret"})
    assert database.reason(caught.value) == "no such table: nowhere"
    assert database.reason(ValueError()) == "ValueError"
    engine.dispose()


def test_a_sqlite_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sg.db"
    engine = database.connect(f"sqlite:///{path}")
    database.migrate(engine)
    engine.dispose()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_migration_loads_nothing_that_colours_text(tmp_path: Path) -> None:
    code = (
        "import sys; from gateway import database;"
        f"database.migrate(database.connect('sqlite:///{tmp_path}/new.db'));"
        "print([name for name in ('alembic', 'pygments') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "['alembic']"), done.stderr
