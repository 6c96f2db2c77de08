"""What a request said of its sender is forgotten in time; what it cost is not. Over both databases."""

from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.tenancy import ledger
from gateway.tenancy.keys import KeyRecord, Registry
from gateway.tenancy.retention import Retention, kept_days
from gateway.tenancy.terms import Terms
from tests.fakes.entries import entry

DAY_S = 86400.0
NOW_S = 100 * DAY_S


def record(name: str, **fields: Any) -> KeyRecord:
    terms = Terms(**fields)
    return KeyRecord(id=name, org="org", project="p", name=name, prefix="sk", sha256="00", terms=terms)


def registry(*keys: KeyRecord, org_days: int | None = None) -> Registry:
    terms = Terms(retention_days=org_days)
    return Registry(organisations={"org": terms}, projects={"org": {"p": Terms()}}, keys=list(keys))


def contents(engine: sa.Engine) -> dict[str, tuple[str, str]]:
    return {row["request_id"]: (row["end_user"], row["metadata"]) for row in ledger.export(engine, 0.0, 1e12)}


def test_the_shortest_of_the_levels_counts() -> None:
    keys = (record("a", retention_days=7), record("b"), record("c", retention_days=90))
    assert kept_days(registry(*keys, org_days=30)) == {"a": 7, "b": 30, "c": 30}
    assert kept_days(registry(*keys)) == {"a": 7, "c": 90}


def test_old_rows_lose_their_content_and_keep_their_money(engine: sa.Engine) -> None:
    told: dict[str, Any] = {"end_user": "ab" * 16, "metadata": '{"team":"x"}'}
    rows = [
        entry(f"{key}{age}", key_id=key, ts=NOW_S - age * DAY_S, **told) for key in "ab" for age in (1, 8, 40)
    ]
    ledger.insert(engine, rows)
    before = {row["request_id"]: row for row in ledger.export(engine, 0.0, 1e12)}
    known = registry(record("a", retention_days=7), record("b"))
    retention = Retention()
    assert retention.step(engine, known, NOW_S) == 2
    assert retention.step(engine, known, NOW_S) == 0
    kept = (told["end_user"], told["metadata"])
    assert contents(engine) == {
        "a1": kept, "a8": ("", ""), "a40": ("", ""), "b1": kept, "b8": kept, "b40": kept,
    }  # fmt: skip
    for row in ledger.export(engine, 0.0, 1e12):
        assert {**row, "end_user": "", "metadata": ""} == {
            **before[row["request_id"]], "end_user": "", "metadata": "",
        }  # fmt: skip
    ledger.insert(engine, [msgspec.structs.replace(rows[1], request_id="late")])
    assert retention.step(engine, known, NOW_S + DAY_S / 2) == 1, "a row that came late"
    assert retention.step(engine, known, NOW_S + 7 * DAY_S) == 1
    assert retention.step(engine, registry(record("a"), record("b"), org_days=0), NOW_S + 7 * DAY_S) == 3
