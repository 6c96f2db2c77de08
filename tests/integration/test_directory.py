"""What a process knows of its tenants, from a PostgreSQL that goes and comes back."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.tenancy import key_store, organisations
from gateway.tenancy.access import Reach
from gateway.tenancy.changes import changing
from gateway.tenancy.directory import Directory
from gateway.tenancy.key_store import KeyDraft
from gateway.tenancy.keys import KeyTable
from tests.integration.admin import emptied

OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%'"


def make_key(engine: sa.Engine) -> str:
    with changing(engine, "cli", 1.0) as change:
        project_id = organisations.ensured_project(change, "acme", "chat")
        return key_store.create(change, Reach(), project_id, KeyDraft(name="n"))[1]


def test_a_look_leaves_no_transaction_and_a_cut_connection_is_replaced(postgres: str, tmp_path: Path) -> None:
    url = emptied(postgres)
    engine, other = database.connect(url), database.connect(url)
    database.migrate(engine)
    table = KeyTable()
    directory = Directory(tmp_path / "keys.json", table)
    make_key(other)
    assert directory.refresh(engine)
    assert not directory.refresh(engine)
    with other.connect() as connection:
        assert connection.exec_driver_sql(OPEN).scalar() == 0
    text = make_key(other)
    with other.connect() as connection:
        assert connection.exec_driver_sql(OTHERS).all()
    assert directory.refresh(engine)
    assert table.find(text.encode(), 0.0) is not None
    assert not directory.refresh(engine)
    with other.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE revisions RENAME TO away")
    with pytest.raises(SQLAlchemyError):
        directory.refresh(engine)
    with other.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO revisions")
    assert not directory.refresh(engine)
    directory.close()
    for one in (engine, other):
        one.dispose()
