"""The roll-up by minute says what the ledger's rows say, over SQLite and PostgreSQL."""

import itertools
import random
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway import database, tables
from gateway.tenancy import ledger, minutes
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.journal import Entry
from gateway.tenancy.reconcile import Finding, Report, reconcile
from tests.fakes.entries import entry

DAY_S = 86400
NOW_S = 20_000 * DAY_S + 40_000.0
SPAN = (NOW_S // 60 * 60 - 3600, NOW_S // 60 * 60)
WHOLE = Reach()


def some(rows: int, until_s: float = NOW_S, seed: int = 1) -> list[Entry]:
    """Rows of the last two hours, a few of them on the very edge of a minute."""
    chance = random.Random(seed)
    return [
        entry(
            f"r{number}",
            ts=until_s
            - (chance.random() * 7200 if number % 5 else chance.randrange(120) * 60 + until_s % 60),
            org=f"org{chance.randrange(3)}",
            key_id=f"k{chance.randrange(4)}",
            model=chance.choice(("small", "large")),
            source=chance.choice(("upstream", "hit-exact")),
            status=chance.choice(("ok", "error")),
            prompt_tokens=chance.randrange(100),
            completion_tokens=chance.randrange(100),
            amount_nanousd=chance.randrange(10**9),
            baseline_nanousd=chance.randrange(10**9),
        )
        for number in range(rows)
    ]


def added(rows: list[Entry], span: tuple[float, float], step_s: int) -> list[minutes.Activity]:
    """Add rows up by hand."""

    def group(one: Entry) -> tuple[float, str, str]:
        return float(int(one.ts) // step_s * step_s), one.status, one.source

    within = sorted((one for one in rows if span[0] <= one.ts < span[1]), key=group)
    return [
        minutes.Activity(
            ts=ts,
            status=status,
            source=source,
            requests=len(found := list(same)),
            tokens=sum(one.prompt_tokens + one.completion_tokens for one in found),
            amount_nanousd=sum(one.amount_nanousd for one in found),
            baseline_nanousd=sum(one.baseline_nanousd for one in found),
        )
        for (ts, status, source), same in itertools.groupby(within, group)
    ]


def proof(engine: sa.Engine) -> Report:
    return reconcile(engine, Path("none"), Path("none"))


def asked(
    engine: sa.Engine, reach: Reach = WHOLE, span: tuple[float, float] = SPAN, step_s: int = 60,
    **filters: str,
) -> list[minutes.Activity]:  # fmt: skip
    with engine.connect() as connection:
        return minutes.activity(connection, reach, filters, span, step_s)


def reads(engine: sa.Engine, span: tuple[float, float] = SPAN, step_s: int = 60) -> set[str]:
    """Give the tables that an answer is read from."""
    said: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *told: said.append(told[2]))
    asked(engine, span=span, step_s=step_s)
    return {name for name in ("ledger", "usage_minutely") if any(f"FROM {name}" in one for one in said)}


@pytest.mark.parametrize("step_s", [60, 360, 1440, 15])
def test_every_reach_filter_and_step_says_what_the_rows_say(engine: sa.Engine, step_s: int) -> None:
    rows = some(400)
    for start in range(0, 400, 90):  # in several transactions, some rows twice
        ledger.insert(engine, rows[max(0, start - 20) : start + 90])
    span = (SPAN[0] // 1440 * 1440, SPAN[1] // 1440 * 1440 + 1440)
    wanted = {
        (EVERYTHING, None): rows,
        ("org1", None): [one for one in rows if one.org == "org1"],
        ("org1", "k2"): [one for one in rows if (one.org, one.key_id) == ("org1", "k2")],
    }
    for (org, key_id), own in wanted.items():
        assert asked(engine, Reach(org, key_id), span, step_s) == added(own, span, step_s)
        large = [one for one in own if one.model == "large"]
        assert asked(engine, Reach(org, key_id), span, step_s, model="large") == added(large, span, step_s)
        others = [one for one in own if one.org == "org2"]
        assert asked(engine, Reach(org, key_id), span, step_s, org="org2") == added(others, span, step_s)
    assert proof(engine).well


def test_only_what_needs_them_reads_the_rows(engine: sa.Engine) -> None:
    ledger.insert(engine, some(10))
    assert reads(engine) == {"usage_minutely"}
    assert "ledger" in reads(engine, step_s=15)
    assert "ledger" in reads(engine, (SPAN[0] + 1, SPAN[1] + 1))


def test_old_days_are_forgotten_and_still_answered(engine: sa.Engine) -> None:
    old, new = some(50, NOW_S - 4 * DAY_S), some(60, seed=2)
    old = [entry(f"old{number}", ts=one.ts, org=one.org) for number, one in enumerate(old)]
    ledger.insert(engine, [*old, *new])
    assert minutes.forget(engine, NOW_S) > 0
    assert minutes.forget(engine, NOW_S) == 0
    assert minutes.forget(engine, NOW_S - DAY_S) == 0, "what is forgotten stays so"
    before = (SPAN[0] - 4 * DAY_S, SPAN[1] - 4 * DAY_S)
    late = entry("late", ts=before[0] + 1, org="org1")
    ledger.insert(engine, [late])
    assert asked(engine, span=before) == added([*old, late], before, 60)
    assert asked(engine) == added(new, SPAN, 60)
    assert proof(engine).well


def test_a_spoiled_minute_is_named(engine: sa.Engine) -> None:
    ledger.insert(engine, [entry("r0", ts=NOW_S, amount_nanousd=5), entry("r1", ts=NOW_S, org="other")])
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE usage_minutely SET amount_nanousd = 14 WHERE org = 'org'")
    report = proof(engine)
    assert report.minutes == [Finding("2024-10-04 org small upstream ok", 5, 14)]
    assert (report.gap_nanousd, report.well) == (9, False)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM usage_minutely WHERE org = '*'")
    assert [one.what for one in proof(engine).minutes] == [
        "2024-10-04 * small upstream ok",
        "2024-10-04 org small upstream ok",
    ]


def test_the_schema_before_is_brought_on_with_its_last_days(url: str) -> None:
    engine = database.connect(url)
    database.migrate(engine, "0009")
    now_s = time.time() // 60 * 60
    rows = some(200, now_s)
    columns = [column.name for column in tables.ledger.columns]
    with engine.begin() as connection:
        connection.execute(
            sa.insert(tables.ledger), [{name: getattr(one, name) for name in columns} for one in rows]
        )
    database.migrate(engine)
    span = (now_s - 7200, now_s)
    assert asked(engine, span=span) == added(rows, span, 60)
    assert proof(engine).minutes == []
    # Gateways of the version before go on over PostgreSQL, and do not fill it.
    postgres = url.startswith("postgresql")
    assert reads(engine, span) >= ({"ledger"} if postgres else {"usage_minutely"})
    assert ("ledger" in reads(engine, span)) == postgres
    ledger.insert(engine, [entry("new", ts=now_s - 1)])
    assert sum(one.requests for one in asked(engine, span=span)) == 1 + len(
        [one for one in rows if one.ts < now_s]
    )
    assert proof(engine).minutes == []
    engine.dispose()
