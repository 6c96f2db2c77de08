"""Big books: fills a database with ledger rows, then times pages, sums, export and proof.

``python -m bench.books [--rows 10000000] [--url sqlite:///FILE]``. Rows are spread over a year, a hundred
organisations and a thousand keys. A figure is the slowest of a few pages, in milliseconds of wall time.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from gateway import database, tables
from gateway.tenancy import ledger, minutes, usage
from gateway.tenancy.access import Reach
from gateway.tenancy.journal import Entry
from gateway.tenancy.paging import Window
from gateway.tenancy.reconcile import reconcile

START_S = 1_760_000_000.0
YEAR_S = 365 * 86400.0
BATCH = 20_000
STEP = 500_000  # rows of one transaction


def entries(rows: int, seed: int = 1) -> Iterator[Entry]:
    """Give rows in order of time."""
    chance = random.Random(seed)
    for number in range(rows):
        key = min(int(chance.paretovariate(0.6)), 1000)
        yield Entry(
            f"req_{chance.getrandbits(128):032x}", START_S + YEAR_S * number / rows, f"org{key % 100}",
            f"project{key % 3}", f"key_{key:04d}", chance.choice(("small", "large")), "auto",
            "ok" if number % 50 else "error", 200, 20, 100, 123_456, "p-0123456789abcdef", "upstream", 1,
            "small-0", False, 0, 999_999, "standard", "chat", "", '{"team":"red"}' if number % 4 == 0 else "",
        )  # fmt: skip


def inserted(engine: sa.Engine, rows: int) -> float:
    """Insert rows as the gateway does; gives the microseconds each took."""
    started_s = time.perf_counter()
    source = entries(rows)
    while batch := list(itertools.islice(source, BATCH)):
        ledger.insert(engine, batch)
    return (time.perf_counter() - started_s) / rows * 1e6


def filled(engine: sa.Engine, rows: int) -> None:
    """Multiply what is there to so many rows, in SQL, each copy with an id and a moment of its own."""
    columns = [column.name for column in tables.ledger.columns]
    lite = engine.dialect.name == "sqlite"
    random_hex = "lower(hex(randomblob(16)))" if lite else "replace(gen_random_uuid()::text, '-', '')"
    shift = "ts + (abs(random()) % 86400)" if lite else "ts + random() * 86400"
    values = ", ".join(
        {"request_id": f"'req_' || {random_hex}", "ts": shift}.get(name, name) for name in columns
    )
    with engine.connect() as connection:
        if lite:
            connection.exec_driver_sql("PRAGMA cache_size = -600000")
        there = connection.exec_driver_sql("SELECT count(*) FROM ledger").scalar() or 0
        while there < rows:
            more = min(there, rows - there, STEP)
            connection.exec_driver_sql(
                f"INSERT INTO ledger ({', '.join(columns)}) SELECT {values} FROM ledger LIMIT {more}"
            )
            connection.commit()
            there += more
        groups, sums = ", ".join(ledger.GROUP[1:]), ", ".join(f"sum({name})" for name in ledger.SUMS[1:])
        day = "date(CAST(ts AS INTEGER), 'unixepoch')"
        if not lite:
            day = "to_char(to_timestamp(floor(ts)) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        connection.exec_driver_sql("DELETE FROM usage_daily")
        connection.exec_driver_sql(
            f"INSERT INTO usage_daily SELECT {day}, {groups}, count(*), {sums} "
            f"FROM ledger GROUP BY {day}, {groups}"
        )
        _fill_minutes(connection, "CAST(ts AS INTEGER) / 60" if lite else "CAST(floor(ts) AS BIGINT) / 60")
        connection.exec_driver_sql("ANALYZE")
        connection.commit()


def _fill_minutes(connection: sa.Connection, minute: str) -> None:
    """Add the last days up by minute, and say from which day on."""
    begins = int(START_S + YEAR_S) // ledger.DAY_S - minutes.KEPT_DAYS
    connection.exec_driver_sql("DELETE FROM usage_minutely")
    for whose in ("org", f"'{minutes.ALL}'"):
        group = (
            f"{whose}, {minute}, model, source, status"
            if whose == "org"
            else f"{minute}, model, source, status"
        )
        connection.exec_driver_sql(
            f"INSERT INTO usage_minutely SELECT {whose}, {minute}, model, source, status, count(*), "
            "sum(prompt_tokens + completion_tokens), sum(amount_nanousd), sum(baseline_nanousd) "
            f"FROM ledger WHERE ts >= {begins * ledger.DAY_S} GROUP BY {group}"
        )
    connection.exec_driver_sql(f"INSERT INTO revisions VALUES ('{minutes.BEGINS}', {begins})")


def active(engine: sa.Engine, step_s: int) -> None:
    """Add the last day up as the overview does; by less than a minute it reads the rows."""
    end_s = int(START_S + YEAR_S) // 1440 * 1440
    with engine.connect() as connection:
        minutes.activity(connection, Reach(), {}, (end_s - 86400.0, end_s), step_s)


def pages(engine: sa.Engine, filters: dict[str, str | None], reach: Reach) -> None:
    """Turn five pages of a hundred, from the newest on."""
    window = Window(100)
    for _ in range(5):
        with engine.connect() as connection:
            _, behind = usage.requests(connection, reach, window, filters, (None, None))
        if behind is None:
            return
        window = Window(100, behind)


def exported(engine: sa.Engine, from_s: float, reach: Reach) -> None:
    """Export ten thousand rows from a moment on: five pages."""
    for _ in itertools.islice(usage.rows(engine, reach, {}, (from_s, 1e12)), 10_000):
        pass


def summed(engine: sa.Engine) -> None:
    """Add a month up by day and model."""
    with engine.connect() as connection:
        usage.daily(connection, Reach(), {}, ("2026-01-01", "2026-02-01"), ("day", "model"))


def timed(what: str, work: Callable[[], object], times: int = 3) -> None:
    """Print the slowest of a few runs."""
    slowest = 0.0
    for _ in range(times):
        started_s = time.perf_counter()
        work()
        slowest = max(slowest, time.perf_counter() - started_s)
    print(f"{what:45} {slowest * 1000:10.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--url", help="an empty database; default: a SQLite file that is removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = database.connect(options.url or f"sqlite:///{folder}/books.db")
        database.migrate(engine)
        first = min(options.rows, 200_000)
        print(f"{inserted(engine, first):.1f} us a row, of the first {first}", flush=True)
        filled(engine, options.rows)
        print(f"{options.rows} rows", flush=True)
        half_s = START_S + YEAR_S / 2
        everything = Reach()
        timed("5 pages of all requests", lambda: pages(engine, {}, everything))
        timed("5 pages of a big key", lambda: pages(engine, {"key_id": "key_0001"}, everything))
        timed("5 pages of a small key", lambda: pages(engine, {"key_id": "key_0777"}, everything))
        timed("5 pages of a big organisation", lambda: pages(engine, {}, Reach("org1")))
        timed("5 pages of a small organisation", lambda: pages(engine, {}, Reach("org77")))
        timed("5 pages of errors", lambda: pages(engine, {"status": "error"}, everything))
        timed("5 pages of a model that is not there", lambda: pages(engine, {"model": "none"}, everything))
        timed("10000 rows exported from the beginning", lambda: exported(engine, 0.0, everything))
        timed("10000 rows exported from the middle", lambda: exported(engine, half_s, everything))
        timed("... of a big organisation", lambda: exported(engine, half_s, Reach("org1")))
        timed("... of a small organisation", lambda: exported(engine, half_s, Reach("org77")))
        timed("a month by day and model", lambda: summed(engine))
        timed("the last day by steps of 24 minutes", lambda: active(engine, 1440))
        timed("... from the rows", lambda: active(engine, 1450))
        nowhere = Path(folder) / "none"
        recent_s = START_S + YEAR_S - 2 * 86400
        timed(
            "proof of two days (spend and balances are not filled)",
            lambda: reconcile(engine, nowhere, nowhere, recent_s),
            1,
        )
        timed("proof of everything", lambda: reconcile(engine, nowhere, nowhere), 1)
        engine.dispose()


if __name__ == "__main__":
    main()
