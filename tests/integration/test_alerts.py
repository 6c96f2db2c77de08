"""Alerts and deliveries over SQLite and PostgreSQL: once, whoever looks, whatever dies meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gateway import tables
from gateway.settings import KeySettings
from gateway.tenancy import changes, deliveries, key_store, keys, ledger, transfers, watch, webhooks
from gateway.tenancy.access import Reach
from gateway.tenancy.changes import changing
from gateway.tenancy.deliveries import GIVE_UP_S, KEEP_S, LEASE_S, Delivery, Parcel
from gateway.tenancy.directory import Directory
from gateway.tenancy.keys import KeyTable
from gateway.tenancy.organisations import Draft, NotThere, Taken, create_organisation
from gateway.tenancy.paging import Window
from gateway.tenancy.terms import Terms
from gateway.tenancy.transfers import Transfer
from gateway.tenancy.watch import Alert, Watch
from tests.fakes.entries import entry

DAY_S = 86400.0
NOON_S = 20_000 * DAY_S + DAY_S / 2


class House:
    """An organisation with a key, a webhook, and processes that watch."""

    def __init__(self, engine: sa.Engine, directory: Path, **terms: Any) -> None:
        self.engine = engine
        self.path = directory
        record = keys.from_settings(KeySettings(name="n", org="acme", project="chat"), "ab" * 32, "")
        key_store.import_file(
            engine, [msgspec.structs.replace(record, origin="api", terms=Terms(**terms))], 1.0
        )
        self.key_id = record.id
        with self.changing(1.0) as change:
            self.webhook = webhooks.create(change, Reach(), "acme", "https://example.com/x")
        self.number = 0

    @contextmanager
    def changing(self, now_s: float) -> Iterator[changes.Change]:
        with changing(self.engine, "cli", now_s) as change:
            yield change

    def process(self) -> "Watching":
        """Start a process that watches."""
        directory = Directory(self.path / f"keys-{self.number}.json", KeyTable())
        directory.refresh(self.engine)
        return Watching(self, directory)

    def spend(self, amount_nanousd: int, at_s: float = NOON_S) -> None:
        self.number += 1
        row = entry(
            f"r{self.number}",
            ts=at_s,
            org="acme",
            project="chat",
            key_id=self.key_id,
            amount_nanousd=amount_nanousd,
        )
        ledger.insert(self.engine, [row])

    def put_in(self, amount_nanousd: int, at_s: float, kind: Any = "top_up") -> str:
        given = Transfer(
            kind=kind,
            account=f"key:{self.key_id}",
            org="acme",
            amount_nanousd=amount_nanousd,
            ts=at_s,
            actor="t",
        )
        with self.engine.begin() as connection:
            return transfers.transfer(connection, given)

    def waiting(self) -> list[Delivery]:
        with self.engine.connect() as connection:
            return deliveries.list_deliveries(connection, self.webhook.id, Window(200), None)[0]

    def settle(self, parcel: Parcel, status: int | None, error: str, now_s: float) -> str:
        with self.engine.begin() as connection:
            return deliveries.settle(connection, parcel, status, error, now_s)


class Watching:
    def __init__(self, house: House, directory: Directory) -> None:
        self.house, self.directory, self.refused = house, directory, dict[str, int]()
        self.watch = Watch(directory, self.refused)

    def look(self, now_s: float = NOON_S) -> list[tuple[str, int]]:
        """Look; gives the accounts and thresholds that this process wrote."""
        return [(one.account, one.threshold_percent) for one in self.alerts(now_s)]

    def alerts(self, now_s: float) -> list[Alert]:
        return self.watch.look(self.house.engine, now_s)


def test_a_budget_is_told_of_at_each_threshold_once(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000, budget_period="day")
    account = f"key:{house.key_id}"
    first, second = house.process(), house.process()
    assert first.look() == []
    house.spend(499)
    assert first.look() == []
    house.spend(1)
    (alert,) = first.alerts(NOON_S)
    assert (alert.account, alert.org, alert.project, alert.key_id) == (account, "acme", "chat", house.key_id)
    assert (alert.kind, alert.period, alert.threshold_percent) == ("budget", "2024-10-04", 50)
    assert (alert.limit_nanousd, alert.used_nanousd) == (1000, 500)
    assert second.look() == first.look() == []
    house.spend(600)
    assert second.look() == [(account, 80), (account, 100)]
    assert first.look() == []
    assert house.process().look() == [], "a restart tells nothing again"
    sent = house.waiting()
    assert [one.event for one in sent] == ["budget.threshold"] * 3
    tomorrow_s = NOON_S + DAY_S
    assert first.look(tomorrow_s) == []
    house.spend(500, tomorrow_s)
    assert first.look(tomorrow_s) == [(account, 50)]


def test_levels_are_read_only_where_a_threshold_may_have_been_crossed(
    engine: sa.Engine, tmp_path: Path
) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000, budget_period="day")
    process, asked = house.process(), list[str]()

    def note(_1: object, _2: object, statement: str, _3: object, _4: object, _5: object) -> None:
        asked.append(statement)

    def questions(amount_nanousd: int) -> int:
        house.spend(amount_nanousd)
        asked.clear()
        process.look()
        return sum("spend_daily" in statement for statement in asked)

    sa.event.listen(engine, "before_cursor_execute", note)
    spending = [(100, True), (100, False), (299, False), (1, True), (299, False), (1, True), (300, True)]
    assert [questions(amount) > 0 for amount, _ in spending] == [read for _, read in spending]
    assert not questions(5), "nothing is left to cross"
    sa.event.remove(engine, "before_cursor_execute", note)


def test_what_cannot_be_spent_any_more_is_used_up(engine: sa.Engine, tmp_path: Path) -> None:
    """A request was refused: at less than four fifths it was too large, above them the budget is."""
    house = House(engine, tmp_path, budget_nanousd=1000, budget_period="day")
    account = f"key:{house.key_id}"
    first, second = house.process(), house.process()
    house.spend(799)
    first.refused[account] = 300
    assert first.look() == [(account, 50)]
    house.spend(100)
    first.refused[account] = 101
    assert first.look() == [(account, 80)], "it would fit, had nobody else reserved"
    first.refused[account] = 102
    (alert,) = first.alerts(NOON_S)
    assert (alert.threshold_percent, alert.limit_nanousd, alert.used_nanousd) == (100, 1000, 899)
    house.spend(200)
    assert second.look() == first.look() == []
    house.spend(899, NOON_S + DAY_S)
    assert house.process().look(NOON_S + DAY_S) == [(account, 50), (account, 80)]


def test_what_comes_late_into_the_books_still_counts_for_its_period(
    engine: sa.Engine, tmp_path: Path
) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000, budget_period="day")
    process = house.process()
    midnight_s = NOON_S + DAY_S / 2
    house.spend(900, midnight_s - 1)
    assert [threshold for _, threshold in process.look(midnight_s + 600)] == [50, 80]


def test_a_changed_budget_is_seen_without_any_spending(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000)
    process = house.process()
    house.spend(400)
    assert process.look() == []
    with house.changing(NOON_S) as change:
        record = key_store.key(change.connection, Reach(), house.key_id)
        key_store.revise(change, Reach(), record, key_store.KeyWish(version=1, terms={"budget_nanousd": 800}))
    assert process.look() == []
    assert process.directory.refresh(engine)
    assert [threshold for _, threshold in process.look()] == [50]


def test_a_credit_is_measured_anew_after_each_top_up(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path, credit="prepaid")
    process = house.process()
    assert process.look() == []
    first = house.put_in(1000, NOON_S)
    assert process.look() == []
    house.spend(800)
    alerts = process.alerts(NOON_S)
    assert [(one.kind, one.period, one.threshold_percent) for one in alerts] == [
        ("credit", first, 50), ("credit", first, 80)
    ]  # fmt: skip
    house.put_in(1, NOON_S + 1, "refund")
    assert process.look() == []
    house.put_in(799, NOON_S + 2)
    assert process.look() == [], "a thousand are there again"
    house.spend(500)
    (alert,) = process.alerts(NOON_S)
    assert (alert.limit_nanousd, alert.used_nanousd, alert.threshold_percent) == (1000, 500, 50)


def test_many_levels_are_looked_at_in_several_questions(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path)
    count = 2 * watch.CHUNK + 3
    records = [
        keys.KeyRecord(
            id=f"key_{number}", org="acme", project="chat", name="n", prefix="", sha256=f"{number:064x}",
            terms=Terms(budget_nanousd=10, budget_period="total", credit="prepaid"),
        )
        for number in range(count)
    ]  # fmt: skip
    key_store.import_file(engine, records, 1.0)
    rows = [
        entry(f"m{number}", ts=NOON_S, org="acme", key_id=f"key_{number}", amount_nanousd=5)
        for number in range(count)
    ]
    ledger.insert(engine, rows)
    told = house.process().look()
    assert sorted(told) == sorted((f"key:key_{number}", 50) for number in range(count))


def test_processes_that_look_at_once_write_once(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000)
    house.spend(1000)
    processes = [house.process() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        told = [one for found in pool.map(Watching.look, processes) for one in found]
    assert sorted(threshold for _, threshold in told) == [50, 80, 100]
    assert len(house.waiting()) == 3


# ---------------------------------------------------------------- deliveries
def put(house: House, now_s: float = NOON_S) -> Delivery:
    with house.engine.begin() as connection:
        return deliveries.put(connection, house.webhook.id, "ping", b"{}", now_s)


def test_a_message_is_claimed_by_one_process_until_its_lease_ends(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path)
    made = {put(house).id for _ in range(3)}
    with ThreadPoolExecutor(4) as pool:
        taken = [one for found in pool.map(deliveries.claim, [engine] * 4, [NOON_S] * 4) for one in found]
    assert sorted(one.id for one in taken) == sorted(made)
    assert {one.url for one in taken} == {"https://example.com/x"}
    assert deliveries.claim(engine, NOON_S + LEASE_S - 1) == []
    again = deliveries.claim(engine, NOON_S + LEASE_S)
    assert {(one.id, one.attempts) for one in again} == {(name, 2) for name in made}
    late = taken[0]
    house.settle(late, 204, "", NOON_S + LEASE_S)
    assert {one.state for one in house.waiting()} == {"pending"}, "a lost lease settles nothing"


def test_a_hanging_receiver_holds_up_its_own_messages_only(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path)
    with house.changing(1.0) as change:
        other = webhooks.create(change, Reach(), "acme", "https://example.org/x")
    for _ in range(deliveries.AT_ONCE):
        put(house)
    with engine.begin() as connection:
        mine = deliveries.put(connection, other.id, "ping", b"{}", NOON_S + 1)
    taken = deliveries.claim(engine, NOON_S + 1)
    assert mine.id in {one.id for one in taken}
    assert len(taken) == deliveries.PER_ENDPOINT + 1


def test_failures_are_tried_again_and_given_up_after_a_day(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path)
    put(house)
    now_s = NOON_S
    states: list[str] = []
    while not states or states[-1] == "pending":
        (parcel,) = deliveries.claim(engine, now_s)
        assert parcel.attempts == len(states) + 1
        states.append(house.settle(parcel, 500, "an error status", now_s))
        (row,) = house.waiting()
        assert (row.attempts, row.last_status, row.last_error) == (len(states), 500, "an error status")
        assert states[-1] != "pending" or deliveries.claim(engine, row.next_s - 0.5) == []
        now_s = row.next_s
    assert (row.state, row.done_s) == ("given_up", now_s)
    assert NOON_S + GIVE_UP_S - 3600 <= now_s <= NOON_S + GIVE_UP_S
    assert deliveries.claim(engine, now_s + GIVE_UP_S) == []
    with engine.begin() as connection:
        deliveries.forget(connection, now_s + KEEP_S)
    assert len(house.waiting()) == 1
    with engine.begin() as connection:
        deliveries.forget(connection, now_s + KEEP_S + 1)
    assert house.waiting() == []


def test_a_deleted_webhook_gets_nothing_more(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path, budget_nanousd=1000)
    put(house)
    (parcel,) = deliveries.claim(engine, NOON_S)
    with house.changing(NOON_S) as change:
        webhooks.delete(change, house.webhook)
    house.settle(parcel, 204, "", NOON_S)
    house.spend(1000)
    assert len(house.process().look()) == 3
    assert house.waiting() == []
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.webhook_deliveries)).first() is None


def test_an_organisation_has_few_webhooks_each_to_another_address(engine: sa.Engine, tmp_path: Path) -> None:
    house = House(engine, tmp_path)
    with house.changing(NOON_S) as change:
        create_organisation(change, Draft(name="other"))
        with pytest.raises(Taken, match="already"):
            webhooks.create(change, Reach("acme"), "acme", "https://example.com/x")
        with pytest.raises(NotThere):
            webhooks.create(change, Reach("acme"), "other", "https://example.com/x")
        with pytest.raises(NotThere):
            webhooks.endpoint(change.connection, Reach("other"), house.webhook.id)
        for number in range(webhooks.MAX_PER_ORGANISATION - 1):
            webhooks.create(change, Reach("acme"), "acme", f"https://example.com/{number}")
        with pytest.raises(Taken, match="16"):
            webhooks.create(change, Reach("acme"), "acme", "https://example.com/more")
