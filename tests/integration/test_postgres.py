"""Keys, prices and ledger behave the same over SQLite and PostgreSQL."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gateway import database, tables
from gateway.settings import KeySettings
from gateway.tenancy import changes, key_store, keys, ledger, usage
from gateway.tenancy.access import Reach
from gateway.tenancy.carrier import Carrier
from gateway.tenancy.changes import changing
from gateway.tenancy.journal import Entry, Journal
from gateway.tenancy.organisations import NotThere
from gateway.tenancy.paging import Window
from gateway.tenancy.terms import Terms
from tests.fakes.entries import accepted, entry

MIGRATE = """
import sys
from gateway import database
sys.stdin.readline()
engine = database.connect(sys.argv[1])
database.migrate(engine)
print(database.connect(sys.argv[1]).connect().exec_driver_sql("SELECT count(*) FROM ledger").scalar())
"""


def rows(engine: sa.Engine) -> list[dict[str, object]]:
    return list(ledger.export(engine, 0.0, 1e12))


def key(text: str = "sk-sg-a", **fields: object) -> keys.KeyRecord:
    settings = msgspec.convert({"name": "n", **fields}, KeySettings)
    return keys.from_settings(settings, keys.digest(text), keys.shown_prefix(text))


@contextlib.contextmanager
def asked(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """Note the statements that the driver gets, with their values."""
    found: list[tuple[str, Any]] = []

    def note(_1: object, _2: object, statement: str, values: Any, _3: object, _4: object) -> None:
        found.append((statement, values))

    sa.event.listen(engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(engine, "before_cursor_execute", note)


def test_the_migrations_lead_to_the_tables_that_the_code_names(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    database.migrate(engine)


def test_processes_that_start_together_migrate_once(url: str) -> None:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate() for child in children]
    assert [out.strip() for out, _ in said] == ["0"] * 2, said


def test_a_row_comes_back_as_it_went_in_and_only_once(engine: sa.Engine) -> None:
    one = entry("r1", ts=1_790_000_000.123456, amount_nanousd=2**62, prompt_tokens=2**40)
    ledger.insert(engine, [one])
    ledger.insert(engine, [one, msgspec.structs.replace(one, amount_nanousd=1), entry("r2", ts=5.0)])
    ledger.insert(engine, [])
    second, first = rows(engine)
    assert first == {name: getattr(one, name) for name in Entry.__struct_fields__}
    assert second["request_id"] == "r2"


@pytest.mark.parametrize("count", [ledger.TOGETHER, 3 * ledger.TOGETHER + 1])
def test_many_rows_come_in_once_where_one_of_them_is_there(engine: sa.Engine, count: int) -> None:
    many = [entry(f"r{number:06d}", ts=float(number), amount_nanousd=1) for number in range(count)]
    assert ledger.insert(engine, [many[1], many[-1]]) == 2
    assert ledger.insert(engine, many) == count - 2
    assert ledger.insert(engine, many) == 0
    assert [row["request_id"] for row in rows(engine)] == [one.request_id for one in many]
    with engine.connect() as connection:
        assert ledger.spent(connection)[f"key:{many[0].key_id}"] == count


def test_sums_and_spans(engine: sa.Engine) -> None:
    ledger.insert(
        engine,
        [
            entry(f"r{number}", ts=float(number), key_id="ab"[number % 2], amount_nanousd=2**60)
            for number in range(5)
        ],
    )
    with engine.connect() as connection:
        spent = ledger.spent(connection)
    assert (spent["key:a"], spent["key:b"]) == (3 * 2**60, 2 * 2**60)
    assert [row["request_id"] for row in ledger.export(engine, 1.0, 3.0)] == ["r1", "r2"]


def test_many_rows_are_exported_in_order(engine: sa.Engine) -> None:
    count = 2 * ledger.BATCH + 7
    ledger.insert(engine, [entry(f"r{number:06d}", ts=float(number // 3)) for number in range(count)])
    assert [row["request_id"] for row in rows(engine)] == [f"r{number:06d}" for number in range(count)]


def test_the_carrier_carries_everything_once(engine: sa.Engine, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "a")
    carrier = Carrier(engine, journal)
    assert carrier.step() == 0
    for number in range(5):
        segment = journal.append(accepted(f"r{number}"))
        segment.open_requests += 1
        journal.append(entry(f"r{number}"))
        segment.open_requests -= 1
    assert not carrier.caught_up()
    assert carrier.step() == 5
    assert carrier.caught_up()
    assert carrier.step() == 0
    assert Carrier(engine, journal).step() == 5  # a second time changes nothing
    assert len(rows(engine)) == 5
    journal.close(settled=True)


def stored(engine: sa.Engine) -> list[keys.KeyRecord]:
    with engine.connect() as connection:
        return key_store.all_keys(connection)


def revoke(engine: sa.Engine, key_id: str, now_s: float) -> None:
    with changing(engine, "cli", now_s) as change:
        key_store.revoke(change, key_store.key(change.connection, Reach(), key_id))


def revision(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return changes.revision(connection)


def test_a_key_of_the_file_is_imported_updated_and_revoked(engine: sa.Engine) -> None:
    full = key(
        org="acme", project="chat", rpm=2**53, tpm=2, concurrency=3, budget_usd=1e6, prepaid_usd=0.5,
        floor_usd=0.1, band="batch", models=["a", "b"],
    )  # fmt: skip
    other = key("sk-sg-b")
    key_store.import_file(engine, [full, other], 1.0)
    at_first = [msgspec.structs.replace(one, created_s=1.0) for one in (full, other)]
    assert sorted(stored(engine), key=str) == sorted(at_first, key=str)
    before = revision(engine)
    key_store.import_file(engine, [full, other], 2.0)
    assert revision(engine) == before
    changed = msgspec.structs.replace(full, terms=Terms(), project="other", name="renamed")
    key_store.import_file(engine, [changed], 3.0)
    assert revision(engine) > before
    wanted = msgspec.structs.replace(changed, created_s=1.0, version=2)
    assert wanted in stored(engine)
    for at_s in (4.0, 5.0):
        revoke(engine, full.id, at_s)
    with pytest.raises(NotThere):
        revoke(engine, "key_none", 4.0)
    key_store.import_file(engine, [full], 6.0)  # an import does not bring it back
    assert {one.revoked_s for one in stored(engine)} == {4.0, None}


def test_organisations_and_projects_are_made_once(engine: sa.Engine) -> None:
    for number in range(3):
        key_store.import_file(engine, [key(f"k{number}", org="acme", project="chat")], 1.0)
    key_store.import_file(engine, [key("k9", org="other", project="chat")], 1.0)
    with engine.connect() as connection:
        counts = [
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for table in (tables.organisations, tables.projects, tables.api_keys)
        ]
    assert counts == [2, 2, 4]


def test_the_limits_of_older_keys_move_into_their_terms(url: str) -> None:
    engine = database.connect(url)
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    database.migrate(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO organisations (id, name, created_s) VALUES ('o', 'acme', 1)")
        connection.exec_driver_sql(
            "INSERT INTO projects (id, organisation_id, name, created_s) VALUES ('p', 'o', 'chat', 1)"
        )
        for key_id, values in (("a", "5, NULL, 7, 0, 9, 1, 'batch', '[\"m\"]'"),
                               ("b", "NULL, NULL, NULL, NULL, NULL, 0, 'standard', '[]'")):  # fmt: skip
            connection.exec_driver_sql(
                "INSERT INTO api_keys (id, project_id, name, prefix, sha256, origin, created_s, rpm, tpm, "
                "concurrency, budget_nanousd, prepaid_nanousd, floor_nanousd, band, models) "
                f"VALUES ('{key_id}', 'p', 'n', '', '{key_id}', 'cli', 1, {values})"
            )
    database.migrate(engine)
    first, second = stored(engine)
    assert first.terms == Terms(
        rpm=5, concurrency=7, budget_nanousd=0, credit="prepaid", floor_nanousd=1, band="batch", models=("m",)
    )
    assert (first.org, first.project, first.prepaid_nanousd) == ("acme", "chat", 9)
    assert second.terms == Terms(band="standard", floor_nanousd=0)
    engine.dispose()


def test_a_lesson_of_before_stays_and_another_may_stand_beside_it(url: str) -> None:
    engine = database.connect(url)
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    database.migrate(engine, "0011")
    row = {
        "route": "auto", "tenant": "org:a", "in_force": False, "was_in_force": True, "weights": "w",
        "body": b"x", "trial": {"labels": 100, "shipped": 0.5, "challenger": 0.6}, "changed_s": 1.0,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.routing_lessons), row)
    database.migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.routing_lessons), row | {"was_in_force": False})
        found = connection.execute(sa.select(tables.routing_lessons)).mappings()
        both = sorted(map(dict, found), key=lambda one: not one["was_in_force"])
        assert both == [row, row | {"was_in_force": False}]
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(tables.routing_lessons), row)
    engine.dispose()


def test_a_routes_requests_are_found_by_its_index_also_where_there_are_none(engine: sa.Engine) -> None:
    """What is asked for, in the plan that the database makes of it."""
    rows = [
        entry(f"r{at}", ts=float(at), org=f"o{at % 2}", route="auto" if at % 3 else "") for at in range(9)
    ]
    rows += [entry("rare", ts=20.0, org="o0", route="rare"), entry("last", ts=30.0, org="o0", route="auto")]
    ledger.insert(engine, rows)

    def found(connection: sa.Connection, **filters: str) -> list[str]:
        page, _ = usage.requests(connection, Reach(), Window(50, None), filters, (None, 29.0))
        return [row.request_id for row in page]

    with engine.connect() as connection:
        assert found(connection, route="auto") == ["r8", "r7", "r5", "r4", "r2", "r1"]
        assert found(connection, route="auto", org="o0") == ["r8", "r4", "r2"]
        assert found(connection, route="rare") == ["rare"]
        assert found(connection, route="never") == found(connection, route="") == []
        with asked(engine) as statements:
            found(connection, route="never")
        assert len(statements) == 2, "both ends; no look at the rows"
        with asked(engine) as statements:
            found(connection, route="rare")
            found(connection, route="auto", org="o0")
        if engine.dialect.name == "sqlite":  # (PostgreSQL plans by what it knows of the rows)
            plans = [
                str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all())
                for text, values in statements
                if " ledger" in text
            ]
            *by_route, by_organisation = plans
            assert len(by_route) == 5
            assert all("ix_ledger_route_ts" in plan for plan in by_route)
            assert "ix_ledger_org_ts" in by_organisation


def test_the_longest_names_fit(engine: sa.Engine) -> None:
    long = "x" * 200
    key_store.import_file(engine, [key(name=long, org=long, project=long)], 1.0)
    ledger.insert(engine, [entry("r" * 64, org=long, project=long, model="m" * 128, route="m" * 128)])
    assert stored(engine)[0].org == long


def test_an_address_where_no_database_is_gives_one_sentence(tmp_path: Path) -> None:
    gone = database.connect(f"postgresql://nobody@/none?host={tmp_path}")
    with pytest.raises(database.DatabaseError, match="cannot be opened or migrated") as caught:
        database.migrate(gone)
    assert "\n" not in str(caught.value)
    gone.dispose()
