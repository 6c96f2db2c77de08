"""API keys: shown once, kept as a hash; known without the database; gone when revoked."""

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.settings import KeySettings, ServerSettings, Settings
from gateway.state.limits import Ask, Bound
from gateway.state.memory import MemoryLimits
from gateway.tenancy import directory, key_store, keys, ledger
from gateway.tenancy.access import Reach
from gateway.tenancy.books import BUSY_EVERY_S, BUSY_ROWS, EVERY_S, RESTS, SETTLED_S, Books
from gateway.tenancy.changes import changing
from gateway.tenancy.journal import Journal
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.terms import Terms
from tests.fakes.entries import accepted, entry

TEXT = "sk-sg-the-secret-text-of-a-key"


def key(text: str = TEXT, **fields: Any) -> keys.KeyRecord:
    return keys.from_settings(KeySettings(name="n", **fields), keys.digest(text), keys.shown_prefix(text))


def test_a_new_key_has_256_random_bits_and_is_shown_by_its_beginning() -> None:
    texts = {keys.new_text() for _ in range(100)}
    assert len(texts) == 100
    assert all(re.fullmatch(r"sk-sg-[A-Za-z0-9_-]{43}", text) for text in texts)
    assert keys.shown_prefix(TEXT) == "sk-sg-the-"


def resolved(*records: keys.KeyRecord) -> list[keys.Key]:
    return keys.resolve(keys.Registry(organisations={}, projects={}, keys=list(records)))


def test_the_table_finds_by_text_and_forgets_the_revoked() -> None:
    table = keys.KeyTable(resolved(key(), key("other")))
    assert [table.find(TEXT.encode(), 0.0)] == resolved(key())
    for text in (b"", b"\xff\xfe", TEXT.encode()[:-1], TEXT.upper().encode(), key().sha256.encode()):
        assert table.find(text, 0.0) is None
    table.replace(resolved(msgspec.structs.replace(key(), revoked_s=1.0), key("other")))
    assert table.find(TEXT.encode(), 0.0) is None
    assert len(table) == 1


def test_a_key_counts_until_it_expires() -> None:
    table = keys.KeyTable(resolved(msgspec.structs.replace(key(), expires_s=10.0)))
    assert [table.find(TEXT.encode(), at) is not None for at in (0.0, 9.9, 10.0, 11.0)] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(("expires_s", "until_s"), [(None, 50.0), (80.0, 50.0), (30.0, 30.0)])
def test_a_rotated_key_counts_by_both_texts_for_a_while(expires_s: float | None, until_s: float) -> None:
    record = msgspec.structs.replace(
        key("new"), previous_sha256=key().sha256, previous_until_s=50.0, expires_s=expires_s
    )
    table = keys.KeyTable(resolved(record))
    old, new = table.find(TEXT.encode(), until_s - 1), table.find(b"new", until_s - 1)
    assert old is not None
    assert new is not None
    assert (old.id, old.bounds, old.tenant) == (new.id, new.bounds, new.tenant)
    assert table.find(TEXT.encode(), until_s) is None


def test_hashes_in_capitals_are_the_same_key() -> None:
    (one,) = keys.bootstrap([KeySettings(name="n", sha256=keys.digest(TEXT).upper())], {})
    assert keys.KeyTable(resolved(one)).find(TEXT.encode(), 0.0) == resolved(one)[0]
    assert one.id == key().id


def test_bootstrap_keys_come_by_hash_or_by_variable() -> None:
    by_hash, by_env = keys.bootstrap(
        [
            KeySettings(name="a", sha256=keys.digest(TEXT), rpm=5),
            KeySettings(name="b", key_env="K", budget_usd=1.5),
        ],
        {"K": "sk-sg-other"},
    )
    assert (by_hash.sha256, by_hash.terms.rpm, by_hash.prefix) == (keys.digest(TEXT), 5, "")
    assert (by_env.sha256, by_env.terms.budget_nanousd) == (keys.digest("sk-sg-other"), 1_500_000_000)
    assert by_env.prefix == "sk-sg-othe"


def test_the_snapshot_holds_hashes_for_nobody_else_to_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    known = keys.Registry(
        organisations={"o": Terms(rpm=5)},
        projects={"o": {"p": Terms(models=("a",))}},
        keys=[key(models=("a",))],
    )
    directory.write_snapshot(path, known)
    assert TEXT.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert directory.read_snapshot(path) == known
    assert [one.name for one in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"id":"\xff"}]', b"\0\0", None])
def test_a_snapshot_that_cannot_be_read_is_no_snapshot(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)
    assert directory.read_snapshot(path).keys == []


# ---------------------------------------------------------------- the books: keys and the database
class Desk:
    """Books with a clock and places of their own."""

    def __init__(self, home: Path, *bootstrap: KeySettings, url: str = "") -> None:
        self.wall_s = 1_790_000_000.0
        self.home = home
        self.url = url or f"sqlite:///{home / 'db' / 'switchgear.db'}"
        server = ServerSettings(state_dir=str(home / "state"))
        self.settings = Settings(server=server, database=database_settings(self.url), keys=bootstrap)
        self.table = keys.KeyTable()
        self.limits = MemoryLimits()
        self.journal = Journal(home / "state" / "journal", f"p{len(list(home.rglob('*.jsonl')))}")
        known = directory.Directory(home / "state" / "keys.json", self.table)
        self.books = Books(
            self.settings,
            self.journal,
            known,
            self.limits,
            PriceTable(),
            wall=lambda: self.wall_s,
            environ={},
        )

    def spend(self, name: str, **fields: Any) -> None:
        """Let a request come and go."""
        segment = self.journal.append(accepted(name))
        segment.open_requests += 1
        self.journal.append(entry(name, **fields))
        segment.open_requests -= 1

    def rows(self) -> dict[str, dict[str, Any]]:
        engine = database.connect(self.url)
        found = {row["request_id"]: row for row in ledger.export(engine, 0.0, 1e12)}
        engine.dispose()
        return found


def database_settings(url: str) -> Any:
    return msgspec.convert({"database": {"url": url}}, Settings).database


def bootstrap_key(**fields: Any) -> KeySettings:
    return KeySettings(name="boot", sha256=keys.digest(TEXT), **fields)


def test_keys_of_the_file_are_imported_and_updated(tmp_path: Path) -> None:
    async def life(desk: Desk) -> None:
        await desk.books.open()
        await desk.books.close()

    for rpm in (5, 7):
        desk = Desk(tmp_path, bootstrap_key(rpm=rpm))
        asyncio.run(life(desk))
        found = desk.table.find(TEXT.encode(), 0.0)
        assert found is not None
        assert found.bounds[0].rpm == rpm
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TEXT.encode() not in path.read_bytes()
    assert resolved(*directory.read_snapshot(tmp_path / "state" / "keys.json").keys) == [found]


def test_a_reload_imports_the_new_file(tmp_path: Path) -> None:
    async def life() -> None:
        desk = Desk(tmp_path, bootstrap_key(rpm=5))
        await desk.books.open()
        desk.books.settings = msgspec.structs.replace(desk.settings, keys=(bootstrap_key(rpm=9),))
        await desk.books.refresh_keys()
        found = desk.table.find(TEXT.encode(), 0.0)
        assert found is not None
        assert found.bounds[0].rpm == 9
        await desk.books.close()

    asyncio.run(life())


def test_a_revocation_in_the_database_holds_at_the_next_refresh_and_after_a_start_without_it(
    tmp_path: Path,
) -> None:
    async def life() -> None:
        desk = Desk(tmp_path, bootstrap_key())
        await desk.books.open()
        engine = database.connect(desk.url)
        with changing(engine, "cli", 5.0) as change:
            key_store.revoke(change, key_store.key(change.connection, Reach(), key().id))
        engine.dispose()
        await desk.books.refresh_keys()
        assert desk.table.find(TEXT.encode(), 0.0) is None
        await desk.books.close()
        (tmp_path / "db").rename(tmp_path / "away")
        (tmp_path / "db").write_text("in the way")
        again = Desk(tmp_path, bootstrap_key(rpm=3))
        await again.books.open()
        assert again.table.find(TEXT.encode(), 0.0) is None
        await again.books.close()

    asyncio.run(life())


def test_a_database_that_nobody_wrote_to_is_not_asked(tmp_path: Path) -> None:
    async def life() -> None:
        desk = Desk(tmp_path, bootstrap_key())
        await desk.books.open()
        log = Path(f"{tmp_path}/db/switchgear.db-wal")
        await desk.books.refresh_keys()
        assert desk.books.keys_due()  # just written to: the next write might look the same
        os.utime(log, ns=(10**18 + 1, 10**18 + 1))
        assert desk.books.keys_due()
        await desk.books.refresh_keys()
        assert not desk.books.keys_due()
        engine = database.connect(desk.url)
        with changing(engine, "cli", 5.0) as change:
            key_store.revoke(change, key_store.key(change.connection, Reach(), key().id))
        engine.dispose()
        assert desk.books.keys_due()
        await desk.books.refresh_keys()
        assert desk.table.find(TEXT.encode(), 0.0) is None
        await desk.books.close()

    asyncio.run(life())


def test_rows_that_trickle_in_share_a_commit(tmp_path: Path) -> None:
    """The first one is carried at once, those behind it together; many do not wait."""

    async def life() -> tuple[list[int], list[float]]:
        desk = Desk(tmp_path, bootstrap_key())
        await desk.books.open()
        known, periods = [], []
        for turn, count in enumerate((0, 1, 1, BUSY_ROWS, 1, 0)):
            for number in range(count):
                desk.spend(f"r{turn}-{number}")
            await desk.books.carry()
            known.append(len(desk.rows()))
            periods.append(desk.books.every_s())
        await desk.books.close()
        return known, periods

    known, periods = asyncio.run(life())
    assert known == [0, 1, 1, BUSY_ROWS + 2, BUSY_ROWS + 3, BUSY_ROWS + 3]
    assert [period == BUSY_EVERY_S for period in periods] == [False] * 3 + [True] + [False] * 2
    assert SETTLED_S > (RESTS + 1) * EVERY_S


def test_without_the_database_known_keys_are_served_and_usage_is_kept(tmp_path: Path) -> None:
    """Away at the start; back later: nothing is lost and what was spent meanwhile counts."""

    async def life() -> None:
        before = Desk(tmp_path, bootstrap_key(prepaid_usd=150e-9))
        await before.books.open()
        before.spend("r0", ts=before.wall_s - 10, key_id=key().id, amount_nanousd=100)
        await before.books.carry()
        await before.books.close()
        blocked = tmp_path / "db"
        blocked.rename(tmp_path / "away")
        blocked.write_text("in the way")

        desk = Desk(tmp_path)
        await desk.books.open()
        assert "database" in desk.books.errors
        known = desk.table.find(TEXT.encode(), 0.0)
        assert known is not None
        bounds = known.bounds
        ask = Ask(bounds=bounds, tokens=1, cost_nanousd=30)
        assert (await desk.limits.take(ask, desk.wall_s)).short is None
        desk.limits.settle(ask, 30, 1, 30, desk.wall_s)
        desk.spend("r1", ts=desk.wall_s + 1, key_id=key().id, amount_nanousd=30)
        await desk.books.carry()
        with pytest.raises((SQLAlchemyError, database.DatabaseError)):
            await desk.books.refresh_keys()

        blocked.unlink()
        (tmp_path / "away").rename(blocked)
        await desk.books.refresh_keys()
        assert desk.books.errors == {}
        assert (await desk.limits.take(ask, desk.wall_s)).short == "credit"  # 100 before and 30 since
        await desk.books.carry()
        assert set(desk.rows()) == {"r0", "r1"}
        await desk.books.close()

    asyncio.run(life())
    assert list((tmp_path / "state" / "journal").iterdir()) == []


def test_what_could_not_be_carried_is_carried_by_the_next_start(tmp_path: Path) -> None:
    async def life() -> None:
        blocked = tmp_path / "db"
        blocked.write_text("in the way")
        desk = Desk(tmp_path, bootstrap_key())
        await desk.books.open()
        desk.spend("r1")
        desk.journal.append(accepted("r2"))
        await desk.books.close()
        assert len(list((tmp_path / "state" / "journal").iterdir())) == 1
        blocked.unlink()
        again = Desk(tmp_path, bootstrap_key())
        await again.books.open()
        await again.books.close()
        assert {name: row["status"] for name, row in again.rows().items()} == {
            "r1": "ok",
            "r2": "interrupted",
        }

    asyncio.run(life())


def test_budgets_begin_anew_with_the_month(tmp_path: Path) -> None:
    async def life() -> None:
        first = Desk(tmp_path, bootstrap_key(budget_usd=10e-9))
        await first.books.open()
        first.spend("now", ts=first.wall_s, key_id=key().id, amount_nanousd=10)
        await first.books.close()
        desk = Desk(tmp_path, bootstrap_key(budget_usd=10e-9))
        await desk.books.open()
        ask = Ask(bounds=resolved(key(budget_usd=10e-9))[0].bounds, tokens=1, cost_nanousd=10)
        assert (await desk.limits.take(ask, desk.wall_s)).short == "budget"
        desk.wall_s += 31 * 86400
        assert (await desk.limits.take(ask, desk.wall_s)).short is None
        await desk.books.close()

    asyncio.run(life())


def test_a_start_counts_what_was_spent_this_month_and_ever(tmp_path: Path) -> None:
    async def life() -> None:
        limited = bootstrap_key(prepaid_usd=58e-9)
        first = Desk(tmp_path, limited)
        await first.books.open()
        first.spend("old", ts=first.wall_s - 40 * 86400, key_id=key().id, amount_nanousd=50)
        first.spend("new", ts=first.wall_s - 5, key_id=key().id, amount_nanousd=7)
        await first.books.close()
        desk = Desk(tmp_path, limited)
        await desk.books.open()
        account = f"key:{key().id}"
        for bound in (Bound(account=account, budget_nanousd=8), Bound(account=account, credit=True)):
            too_much = Ask(bounds=(bound,), tokens=1, cost_nanousd=2)
            assert (await desk.limits.take(too_much, desk.wall_s)).short
            fits = Ask(bounds=(bound,), tokens=1, cost_nanousd=1)
            assert (await desk.limits.take(fits, desk.wall_s)).short is None
            desk.limits.settle(fits, 1, 0, 0, desk.wall_s)
        await desk.books.close()

    asyncio.run(life())
