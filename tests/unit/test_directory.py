"""What a process knows of its tenants: read again only where something changed."""

import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database, tables
from gateway.tenancy import key_store, organisations
from gateway.tenancy.access import Reach
from gateway.tenancy.changes import changing
from gateway.tenancy.directory import Directory, read_snapshot
from gateway.tenancy.key_store import KeyDraft
from gateway.tenancy.keys import KeyTable
from gateway.tenancy.paging import Window


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    made = database.connect(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate(made)
    return made


def make_key(engine: sa.Engine, org: str = "acme") -> str:
    with changing(engine, "cli", 1.0) as change:
        project_id = organisations.ensured_project(change, org, "chat")
        return key_store.create(change, Reach(), project_id, KeyDraft(name="n"))[1]


def make_twice(engine: sa.Engine) -> None:
    with changing(engine, "cli", 1.0) as change:
        for _ in range(2):
            organisations.create_organisation(change, organisations.Draft(name="acme"))


def test_one_integer_is_read_where_nothing_changed(engine: sa.Engine, tmp_path: Path) -> None:
    table = KeyTable()
    directory = Directory(tmp_path / "keys.json", table)
    assert not directory.read_once()
    text = make_key(engine)
    assert directory.refresh(engine)
    assert directory.read_once()
    assert table.find(text.encode(), 0.0) is not None
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *seen: statements.append(seen[2]))
    for _ in range(3):
        assert not directory.refresh(engine)
    assert statements == []  # nor is the pool asked: a connection of its own looks
    other = make_key(engine)
    assert directory.refresh(engine)
    assert table.find(other.encode(), 0.0) is not None
    directory.close()
    assert not directory.refresh(engine)
    directory.close()
    engine.dispose()


def test_a_change_that_fails_leaves_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "keys.json", KeyTable())
    directory.refresh(engine)
    with pytest.raises(organisations.Taken):
        make_twice(engine)
    assert not directory.refresh(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.audit)).scalar() == 0
    engine.dispose()


def test_a_failing_database_changes_nothing_and_a_disk_without_room_neither(
    engine: sa.Engine, tmp_path: Path
) -> None:
    table = KeyTable()
    (tmp_path / f"keys.{os.getpid()}.partial").mkdir()  # nothing can be written there
    directory = Directory(tmp_path / "keys.json", table)
    text = make_key(engine)
    assert directory.refresh(engine)
    assert table.find(text.encode(), 0.0) is not None
    assert read_snapshot(tmp_path / "keys.json").keys == []
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE revisions")
    with pytest.raises(SQLAlchemyError):
        directory.refresh(engine)
    assert table.find(text.encode(), 0.0) is not None
    engine.dispose()


def test_limits_of_an_organisation_are_known_without_the_database(engine: sa.Engine, tmp_path: Path) -> None:
    text = make_key(engine)
    with changing(engine, "cli", 2.0) as change:
        (org,), _ = organisations.list_organisations(change.connection, Reach(), Window())
        wish = organisations.Revision(version=org.version, terms={"rpm": 5, "end_user": {"rpm": 1}})
        after = organisations.change_organisation(change, org, wish)
    assert after.terms.rpm == 5
    Directory(tmp_path / "keys.json", KeyTable()).refresh(engine)
    table = KeyTable()
    Directory(tmp_path / "keys.json", table).start([])
    key = table.find(text.encode(), 0.0)
    assert key is not None
    assert [(bound.account, bound.rpm) for bound in key.bounds] == [("org:acme", 5)]
    assert [(bound.account, bound.rpm) for bound in key.end_users] == [("user:acme/", 1)]
    engine.dispose()
