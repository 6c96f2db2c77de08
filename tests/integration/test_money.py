"""The books over SQLite and PostgreSQL: prices, movements, balances, and whether everything agrees."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway import database, tables
from gateway.tenancy import accounts, ledger, prices, transfers
from gateway.tenancy.carrier import Carrier
from gateway.tenancy.journal import Entry, Journal
from gateway.tenancy.ledger import Carried
from gateway.tenancy.prices import PriceTable, Row
from gateway.tenancy.pricing import PriceError, unpriced
from gateway.tenancy.reconcile import Report, reconcile
from gateway.tenancy.transfers import Transfer, TransferError
from tests.fakes.entries import accepted, entry, progress
from tests.fakes.prices import priced

DAY_S = 86400
KEY = accounts.key("key_1")


def table(engine: sa.Engine, one: sa.Table) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(one)).mappings()]


def balances(engine: sa.Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return ledger.all_balances(connection)


def book(engine: sa.Engine, **fields: Any) -> str:
    given = {
        "kind": "grant",
        "account": KEY,
        "org": "org",
        "amount_nanousd": 1000,
        "ts": 1.0,
        "actor": "test",
    }
    with engine.begin() as connection:
        return transfers.transfer(connection, Transfer(**{**given, **fields}))


# ---------------------------------------------------------------- rows and their sums
def test_rows_change_balances_and_roll_ups_with_them(engine: sa.Engine) -> None:
    first = [
        entry("r1", ts=5.0, amount_nanousd=100, baseline_nanousd=300, reasoning_tokens=2, end_user="u"),
        entry("r2", ts=DAY_S - 0.000001, amount_nanousd=10, baseline_nanousd=30),
        entry("r3", ts=DAY_S + 0.0, amount_nanousd=1, key_id="key_2", project="other", status="error"),
    ]
    assert ledger.insert(engine, first) == 3
    assert ledger.insert(engine, [entry("r4", ts=6.0, amount_nanousd=1000, source="hit-exact")]) == 1
    assert balances(engine) == {
        "org:org": -1111, "project:org/project": -1110, "project:org/other": -1, "key:key_1": -1110,
        "key:key_2": -1, "user:org/project/key_1/u": -100, "revenue": 1111,
    }  # fmt: skip
    daily = {(row["day"], row["key_id"], row["source"]): row for row in table(engine, tables.usage_daily)}
    one = daily["1970-01-01", "key_1", "upstream"]
    assert (one["requests"], one["amount_nanousd"], one["baseline_nanousd"]) == (2, 110, 330)
    assert (one["prompt_tokens"], one["cached_tokens"], one["completion_tokens"]) == (20, 8, 14)
    assert one["reasoning_tokens"] == 2
    assert daily["1970-01-02", "key_2", "upstream"]["status"] == "error"
    assert len(daily) == 3
    with engine.connect() as connection:
        assert ledger.spent(connection)["org:org"] == 1111
        assert ledger.spent(connection, "1970-01-02") == {
            "org:org": 1,
            "project:org/other": 1,
            "key:key_2": 1,
        }
        assert ledger.balance(connection, "key:nobody") == 0


def test_rows_that_are_there_already_change_nothing(engine: sa.Engine) -> None:
    one, two = entry("r1", amount_nanousd=5), entry("r2", amount_nanousd=7)
    assert ledger.insert(engine, [one]) == 1
    before = balances(engine)
    assert ledger.insert(engine, [one, msgspec.structs.replace(one, amount_nanousd=9)]) == 0
    assert balances(engine) == before
    assert ledger.insert(engine, [two, one, two], [Carried("s", 10)]) == 1
    assert balances(engine)[KEY] == -12
    assert sum(row["requests"] for row in table(engine, tables.usage_daily)) == 2
    assert table(engine, tables.journal_segments) == [{"name": "s", "carried_bytes": 10}]
    assert ledger.insert(engine, [], [Carried("s", 20)]) == 0
    assert table(engine, tables.journal_segments) == [{"name": "s", "carried_bytes": 20}]


def test_the_first_schema_is_brought_to_the_present_one_with_its_money(url: str) -> None:
    engine = database.connect(url)
    database.migrate(engine, "0001")
    rest = f"'v', 'upstream', 1, '', {'true' if engine.dialect.name == 'postgresql' else 1}"
    old = [
        f"('r{n}', {DAY_S * n}.5, 'o', 'p', 'k{n % 2}', 'm', '', 'ok', 1, 0, 1, {n}, {rest})"
        for n in range(5)
    ]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO ledger VALUES {', '.join(old)}")
        connection.exec_driver_sql("INSERT INTO prices VALUES ('v', 'm', 1, 2, 3, 4, 5, 6.5)")
    database.migrate(engine)
    assert balances(engine) == {"org:o": -10, "project:o/p": -10, "key:k0": -6, "key:k1": -4, "revenue": 10}
    with engine.connect() as connection:
        assert ledger.spent(connection, "1970-01-03")["org:o"] == 9
        (row,) = prices.load(connection)
    assert (row.price.version, row.price.reasoning_nanousd, row.valid_from_s) == ("v", 3, 6.5)
    assert reconcile(engine, Path("none"), Path("none")).well
    engine.dispose()


# ---------------------------------------------------------------- prices
def test_the_file_adds_a_price_only_where_it_changed(engine: sa.Engine) -> None:
    old, new = priced("m", input=1.0), priced("m", input=2.0)
    for found, now_s in (([old], 10.0), ([old, unpriced("free")], 20.0), ([new], 30.0), ([old], 40.0)):
        with engine.begin() as connection:
            prices.import_file(connection, found, now_s)
    with engine.connect() as connection:
        book_ = PriceTable(prices.load(connection))
    assert [book_.find("m", "any", now_s) for now_s in (0.0, 29.9, 30.0, 39.9, 40.0)] == [
        old,
        old,
        new,
        new,
        old,
    ]
    assert book_.find("free", "any", 50.0) == unpriced("free")


def test_a_price_of_the_admin_outlives_a_restart_with_the_same_file(engine: sa.Engine) -> None:
    file, admin = priced("m", input=1.0), priced("m", input=3.0)
    with engine.begin() as connection:
        prices.import_file(connection, [file], 10.0)
        id_ = prices.add(connection, Row(price=admin, valid_from_s=20.0, origin="admin", created_s=15.0))
        prices.import_file(connection, [file], 30.0)
    with engine.begin() as connection:
        book_ = PriceTable(prices.load(connection))
        assert [book_.find("m", "", now_s) for now_s in (19.0, 20.0, 99.0)] == [file, admin, admin]
        with pytest.raises(PriceError, match="valid_from"):
            prices.add(connection, Row(price=priced("m", input=9.0), valid_from_s=20.0, origin="admin"))
        assert prices.end(connection, id_, 50.0)
        assert not prices.end(connection, id_, 60.0)
        assert not prices.end(connection, "price_none", 60.0)
        assert PriceTable(prices.load(connection)).find("m", "", 50.0) == file


def test_an_organisations_own_price_goes_first(engine: sa.Engine) -> None:
    general, own = priced("m", input=1.0), priced("m", "acme", input=0.5)
    with engine.begin() as connection:
        prices.import_file(connection, [general], 10.0)
        prices.add(
            connection, Row(price=own, valid_from_s=20.0, valid_to_s=30.0, origin="admin", created_s=1.0)
        )
        book_ = PriceTable(prices.load(connection))
    assert [book_.find("m", "acme", now_s) for now_s in (19.0, 20.0, 30.0)] == [general, own, general]
    assert book_.find("m", "other", 25.0) == general


# ---------------------------------------------------------------- movements
def test_every_movement_has_two_sides(engine: sa.Engine) -> None:
    book(engine)
    book(engine, kind="top_up", amount_nanousd=500, account="org:org")
    book(engine, kind="refund", amount_nanousd=20, request_id="r1")
    book(engine, kind="correction", amount_nanousd=-5)
    book(engine, kind="correction", amount_nanousd=2)
    book(engine, kind="write_off", amount_nanousd=100)
    ledger.insert(engine, [entry("r1", amount_nanousd=30)])
    found = balances(engine)
    assert found == {
        "key:key_1": 1000 + 20 - 5 + 2 + 100 - 30, "org:org": 500 - 30, "project:org/project": -30,
        "promotions": -1000, "cash": -500, "revenue": -20 + 30, "corrections": 3, "losses": -100,
    }  # fmt: skip
    assert sum(row["transferred_nanousd"] for row in table(engine, tables.balances)) == 0


def test_a_movement_is_booked_once(engine: sa.Engine) -> None:
    first = book(engine, idempotency_key="a")
    assert book(engine, idempotency_key="a", ts=2.0) == first
    assert balances(engine)[KEY] == 1000
    with pytest.raises(TransferError, match="idempotency_key"):
        book(engine, idempotency_key="a", amount_nanousd=1001)
    assert book(engine) != book(engine)
    assert balances(engine)[KEY] == 3000


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"amount_nanousd": 0}, "amount_usd"), ({"amount_nanousd": -1}, "amount_usd"),
     ({"amount_nanousd": 2**61}, "amount_usd"), ({"kind": "correction", "amount_nanousd": 0}, "amount_usd"),
     ({"account": "revenue"}, "account"), ({"kind": "refund", "expires_s": 5.0}, "expires_s")],
)  # fmt: skip
def test_a_movement_that_makes_no_sense_is_refused(
    engine: sa.Engine, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(TransferError, match=f"^{named}: "):
        book(engine, **fields)
    assert balances(engine) == {}


def test_credit_that_is_declared_is_brought_to_the_amount(engine: sa.Engine) -> None:
    def declare(amount: int) -> str | None:
        given = Transfer(kind="grant", account=KEY, org="org", amount_nanousd=amount, ts=1.0, actor="file")
        with engine.begin() as connection:
            return transfers.set_declared(connection, given)

    book(engine, amount_nanousd=7)
    assert declare(100)
    assert declare(100) is None
    assert declare(40)
    assert declare(100)
    assert balances(engine)[KEY] == 107


def test_a_grant_expires_with_what_is_left_of_it(engine: sa.Engine) -> None:
    book(engine, amount_nanousd=100, ts=1.0)
    ledger.insert(engine, [entry("r1", amount_nanousd=50)])
    book(engine, amount_nanousd=100, ts=2.0, expires_s=50.0)  # used before the older one, for it expires
    ledger.insert(engine, [entry("r2", amount_nanousd=30)])
    with engine.begin() as connection:
        assert transfers.expire(connection, 49.0) == []
    with engine.begin() as connection:
        assert transfers.expire(connection, 51.0) == [KEY]
    assert balances(engine)[KEY] == 50
    with engine.begin() as connection:
        assert transfers.expire(connection, 99.0) == []
    expiries = [row for row in table(engine, tables.transfers) if row["kind"] == "expiry"]
    assert [row["amount_nanousd"] for row in expiries] == [70]


def test_a_grant_that_was_used_up_expires_with_nothing(engine: sa.Engine) -> None:
    book(engine, amount_nanousd=100, expires_s=50.0)
    ledger.insert(engine, [entry("r1", amount_nanousd=130)])
    for _ in range(2):
        with engine.begin() as connection:
            transfers.expire(connection, 60.0)
    assert balances(engine)[KEY] == -30
    assert [row["amount_nanousd"] for row in table(engine, tables.transfers)] == [100, 0]


# ---------------------------------------------------------------- do the books agree?
class Desk:
    """A journal, a database, and a way to spoil either."""

    def __init__(self, engine: sa.Engine, directory: Path) -> None:
        self.engine = engine
        self.live, self.kept = directory / "journal", directory / "kept"
        self.journal = Journal(self.live, "a", self.kept)
        self.carrier = Carrier(engine, self.journal)

    def serve(self, *entries: Entry) -> None:
        for one in entries:
            segment = self.journal.append(accepted(one.request_id))
            segment.open_requests += 1
            self.journal.append(one)
            segment.open_requests -= 1

    def spoil(self, statement: str) -> None:
        with self.engine.begin() as connection:
            assert connection.exec_driver_sql(statement).rowcount == 1

    def report(self, since_s: float = 0.0) -> Report:
        return reconcile(self.engine, self.live, self.kept, since_s)


@pytest.fixture
def desk(engine: sa.Engine, tmp_path: Path) -> Desk:
    desk = Desk(engine, tmp_path)
    desk.serve(*(entry(f"r{n}", ts=n * 40000.0, amount_nanousd=10**n, key_id=f"k{n % 2}") for n in range(6)))
    desk.carrier.step()
    book(engine, account="key:k0")
    return desk


@pytest.mark.parametrize("closed", [False, True], ids=["running", "stopped"])
def test_books_that_agree_have_no_gap(desk: Desk, closed: bool) -> None:
    if closed:
        desk.journal.close(settled=True)
        assert list(desk.live.iterdir()) == []
    report = desk.report()
    assert report.well
    assert (report.rows, report.journal_entries) == (6, 6)


def test_what_is_not_carried_yet_is_not_missing(desk: Desk) -> None:
    desk.serve(entry("late"))
    desk.journal.append(accepted("running"))
    desk.journal.append(progress("running", 32))
    assert desk.report().well
    desk.carrier.step()
    assert desk.report().well


@pytest.mark.parametrize("closed", [False, True], ids=["running", "stopped"])
def test_a_planted_deletion_is_named(desk: Desk, closed: bool) -> None:
    if closed:
        desk.journal.close(settled=True)
    desk.spoil("DELETE FROM ledger WHERE request_id = 'r3'")
    report = desk.report()
    assert (report.missing, report.doubled, report.altered, report.gap_nanousd) == (["r3"], [], [], 1000)
    assert [finding.what for finding in report.groups] == [
        "1970-01-02 org project k1 small upstream ok",
    ]


def test_a_deletion_that_no_journal_remembers_is_named_by_its_group(desk: Desk) -> None:
    desk.journal.close(settled=False)
    for path in desk.live.iterdir():
        path.unlink()
    desk.spoil("DELETE FROM ledger WHERE request_id = 'r3'")
    report = desk.report()
    assert not report.well
    assert (report.missing, report.gap_nanousd, len(report.groups)) == ([], 1000, 1)


def test_a_planted_doubling_is_named(desk: Desk) -> None:
    rest = ", ".join(column.name for column in tables.ledger.columns if column.name != "request_id")
    desk.spoil(
        f"INSERT INTO ledger (request_id, {rest}) SELECT 'x', {rest} FROM ledger WHERE request_id = 'r4'"
    )
    report = desk.report()
    assert (report.missing, report.doubled, report.gap_nanousd) == ([], ["x"], 10**4)


def test_a_planted_amount_is_named(desk: Desk) -> None:
    desk.spoil("UPDATE ledger SET amount_nanousd = amount_nanousd + 5 WHERE request_id = 'r2'")
    report = desk.report()
    assert (report.altered, report.gap_nanousd) == (["r2"], 5)


def test_a_planted_row_is_named(desk: Desk) -> None:
    ledger_columns = [column.name for column in tables.ledger.columns]
    one = entry("planted", ts=1.0)
    values = ", ".join(repr(getattr(one, name)).lower() if isinstance(getattr(one, name), bool)
                       else repr(getattr(one, name)) for name in ledger_columns)  # fmt: skip
    desk.spoil(f"INSERT INTO ledger ({', '.join(ledger_columns)}) VALUES ({values})")
    assert desk.report().doubled == ["planted"]


@pytest.mark.parametrize(
    ("statement", "what"),
    [("UPDATE balances SET used_nanousd = used_nanousd - 9 WHERE account = 'key:k1'", "key:k1 used"),
     ("UPDATE balances SET transferred_nanousd = transferred_nanousd + 9 WHERE account = 'key:k0'",
      "key:k0 transferred"),
     ("UPDATE spend_daily SET amount_nanousd = amount_nanousd + 9 "
      "WHERE account = 'org:org' AND day = '1970-01-01'", "org:org by day"),
     ("UPDATE balances SET used_nanousd = used_nanousd + 9 WHERE account = 'revenue'", "revenue used")],
)  # fmt: skip
def test_a_spoiled_balance_is_named(desk: Desk, statement: str, what: str) -> None:
    desk.spoil(statement)
    report = desk.report()
    assert ([finding.what for finding in report.balances], report.gap_nanousd) == ([what], 9)


def test_the_last_days_alone_can_be_proved(desk: Desk) -> None:
    desk.spoil("DELETE FROM ledger WHERE request_id = 'r0'")
    assert desk.report(since_s=DAY_S).well
    assert desk.report(since_s=DAY_S + 0.9 * DAY_S).well, "roll-ups know whole days"
    assert not desk.report().well
