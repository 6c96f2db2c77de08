"""Holds in real databases: rounds of many processes at the same time, on accounts in any order."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway import database, tables
from gateway.state.holds import LEASE_S, Wish
from gateway.state.limits import Bound
from gateway.tenancy import holds, ledger
from gateway.tenancy.journal import Entry
from tests.integration.admin import emptied

NOW_S = 1_795_000_000.0
LIMIT = 1000
ACCOUNTS = [Bound(account=f"key:{name}", budget_nanousd=LIMIT, budget_period="total") for name in "abc"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'holds.db'}"
    return emptied(request.getfixturevalue("postgres"))


def booked(account: str, cost: int, number: int) -> Entry:
    name = f"{account}-{number}"
    return Entry(name, NOW_S, "o", "p", account, "m", "", "ok", 1, 0, 1, cost, "v", "upstream", 1, "r", False)


def test_rounds_at_the_same_time_never_give_out_more_than_there_is(url: str) -> None:
    """Each process asks, spends all it has, carries that, and gives up the hold."""
    first = database.connect(url)
    database.migrate(first)

    def live(number: int) -> int:
        engine, chance = database.connect(url), random.Random(number)
        spent = 0
        for turn in range(12):
            asked = chance.sample(ACCOUNTS, chance.randrange(1, 4))
            wishes = [
                Wish(
                    bound=one,
                    held=0,
                    reserved=0,
                    need=chance.randrange(1, 40),
                    least=1,
                    spare=turn < 2 and number < 2,
                )
                for one in asked
            ]
            found = holds.hold(engine, f"process-{number}", wishes, NOW_S)
            costs = {grant.account.removeprefix("key:"): max(0, grant.held) for grant in found.grants}
            ledger.insert(engine, [booked(name, cost, 100 * number + turn) for name, cost in costs.items()])
            # What is booked now is held no more.
            holds.hold(engine, f"process-{number}", [_nothing(wish) for wish in wishes], NOW_S)
            spent += sum(costs.values())
        engine.dispose()
        return spent

    with ThreadPoolExecutor(8) as pool:
        spent = sum(pool.map(live, range(8)))
    with first.connect() as connection:
        found = {name: cost for name, cost in ledger.spent(connection).items() if name.startswith("key:")}
    first.dispose()
    assert found == {one.account: LIMIT for one in ACCOUNTS}, "nothing is left, nothing is too much"
    assert spent == 3 * LIMIT


def _nothing(wish: Wish) -> Wish:
    return Wish(bound=wish.bound, held=0, reserved=0, need=0, spare=False)


def test_an_end_user_is_counted_over_all_keys_of_the_level(url: str) -> None:
    engine = database.connect(url)
    database.migrate(engine)
    with engine.begin() as connection:
        _tenants(connection)
    entries = [
        Entry(
            f"r{number}", NOW_S, "o", project, key, "m", "", "ok", 1, 0, 1, 10, "v", "upstream", 1, "r",
            estimated=False, end_user="hash",
        )
        for number, (project, key) in enumerate([("p", "k1"), ("p", "k2"), ("q", "k3")])
    ]  # fmt: skip
    ledger.insert(engine, entries)
    found = {}
    for account in ("user:o/hash", "user:o/p/hash", "user:o/p/k1/hash", "user:o/p/k1/other"):
        bound = Bound(account=account, budget_nanousd=100, budget_period="month")
        wish = Wish(bound=bound, held=0, reserved=0, need=100, least=1, spare=False)
        ((grant,),) = (holds.hold(engine, "process", [wish], NOW_S).grants,)
        found[account] = grant.held
    assert found == {
        "user:o/hash": 70,
        "user:o/p/hash": 80,
        "user:o/p/k1/hash": 90,
        "user:o/p/k1/other": 100,
    }
    engine.dispose()


def _tenants(connection: sa.Connection) -> None:
    connection.execute(tables.organisations.insert().values(id="o1", name="o", created_s=0.0))
    for project in ("p", "q"):
        connection.execute(
            tables.projects.insert().values(id=project, organisation_id="o1", name=project, created_s=0.0)
        )
    for key, project in (("k1", "p"), ("k2", "p"), ("k3", "q")):
        connection.execute(
            tables.api_keys.insert().values(
                id=key, project_id=project, name=key, prefix="sk", sha256=key, origin="api", created_s=0.0
            )
        )


def test_holds_of_a_process_that_is_gone_are_free_after_its_lease_and_forgotten_later(url: str) -> None:
    engine = database.connect(url)
    database.migrate(engine)
    wish = Wish(bound=ACCOUNTS[0], held=0, reserved=0, need=900, least=900, spare=False)
    assert holds.hold(engine, "gone", [wish], NOW_S).grants[0].held == 900
    before = holds.hold(engine, "other", [wish], NOW_S + LEASE_S - 1).grants[0]
    assert (before.held, before.others_spare) == (0, 0)
    assert holds.hold(engine, "other", [wish], NOW_S + LEASE_S + 1).grants[0].held == 900
    holds.give_back(engine, "other")
    holds.hold(engine, "late", [], NOW_S + 2 * holds.FORGET_S)
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.holders.c.holder)).scalars().all() == ["late"]
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.holds)).scalar() == 0
    engine.dispose()
