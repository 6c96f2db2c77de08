"""The control plane of tenancy: opens the database, imports keys and prices, carries the journal into SQL.

Everything blocking runs in one thread. While the database is away the known keys are served from memory (at
start: from the snapshot on disk), usage stays in the journal, and the part is named in ``errors``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.settings import Settings
from gateway.state.limits import Limits, Standing
from gateway.state.periods import Period, spans
from gateway.tenancy import keys, ledger
from gateway.tenancy.journal import Journal
from gateway.tenancy.pricing import Price, price_of_model

log = logging.getLogger("switchgear.books")

T = TypeVar("T")


class Books:
    """Keys, prices and ledger of one process; ``errors`` says what does not work, by part."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        table: keys.KeyTable,
        limits: Limits,
        *,
        wall: Callable[[], float],
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.errors: dict[str, str] = {}
        self._engine = database.connect(settings.database.url)
        self._journal = journal
        self._carrier = ledger.Carrier(self._engine, journal)
        self._table = table
        self._limits = limits
        self._snapshot = Path(settings.server.state_dir) / "keys.json"
        self._known: list[keys.Key] = []
        self._wall = wall
        self._environ = environ
        self._booked: object = None  # the generation of the limits and the keys that were booked last
        self._imported: Settings | None = None
        self._opened = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="books")

    async def open(self) -> None:
        """Serve the known keys, then those of the database if it is there."""
        own = keys.bootstrap(self.settings.keys, self._environ)
        known = _merged(keys.read_snapshot(self._snapshot), own)
        self._publish(known)
        self._limits.book(_standings(known, {}), self._wall())
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError):
            await self.refresh_keys()

    async def refresh_keys(self) -> None:
        """Read the keys again; opens, migrates and imports where that has not been done yet."""
        found = await self._run("database", self._read_keys)
        changed = self._publish(found)
        generation = self._limits.generation
        if changed or generation != self._booked:
            now_s = self._wall()
            standings = await self._run("database", lambda: self._standings(found, now_s))
            self._limits.book(standings, now_s)
            self._booked = generation

    async def carry(self) -> None:
        """Carry new journal lines into SQL."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.sync)
        if self._opened:
            await self._run("database", self._carrier.step)

    async def close(self) -> None:
        """Carry what is left and close; the journal stays on disk where it could not be carried."""
        settled = False
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError, OSError):
            if self._opened:
                await self._run("database", self._carrier.step)
                settled = self._carrier.caught_up()
        self._journal.close(settled=settled)
        self._thread.shutdown(wait=True)
        self._engine.dispose()

    def _read_keys(self) -> list[keys.Key]:
        if not self._opened:
            self._open_database()
        if self._imported is not self.settings:
            self._import(self.settings)
        return keys.load(self._engine)

    def _open_database(self) -> None:
        database.migrate(self._engine)
        journal_dir = self._journal.segments()[0].path.parent
        own = {segment.path for segment in self._journal.segments()}
        recovered = ledger.recover(self._engine, journal_dir, own)
        if recovered:
            log.warning("settled %d requests that an earlier process left behind", recovered)
        self._opened = True

    def _import(self, settings: Settings) -> None:
        now_s = self._wall()
        for key in keys.bootstrap(settings.keys, self._environ):
            keys.save(self._engine, key, "file", now_s)
        save_prices(self._engine, [price_of_model(model) for model in settings.models], now_s)
        self._imported = settings

    def _standings(self, found: list[keys.Key], now_s: float) -> dict[str, Standing]:
        """Read what every key has spent; what this process has settled is carried before."""
        self._carrier.step()
        spent = {
            period: ledger.spent_by_key(self._engine, span.start_s, span.end_s)
            for period, span in spans(now_s).items()
        }
        return _standings(found, spent)

    def _publish(self, found: list[keys.Key]) -> bool:
        if found == self._known:
            return False
        self._known = found
        self._table.replace(found)
        with contextlib.suppress(OSError):
            keys.write_snapshot(self._snapshot, found)
        return True

    async def _run(self, part: str, work: Callable[[], T]) -> T:
        """Run blocking work in the thread; keep track of whether the part works."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (SQLAlchemyError, database.DatabaseError) as error:
            self.errors[part] = database.reason(error)
            raise
        self.errors.pop(part, None)
        return result


def save_prices(engine: sa.Engine, found: list[Price], now_s: float) -> None:
    """Keep the price versions that are new."""
    with engine.begin() as connection:
        known = set(connection.execute(sa.select(database.prices.c.version)).scalars())
        new = {
            price.version: price
            for price in found
            if price.version not in known and price.version != "unpriced"
        }
        if new:
            rows = [
                {field: getattr(price, field) for field in Price.__struct_fields__} | {"created_s": now_s}
                for price in new.values()
            ]
            connection.execute(sa.insert(database.prices), rows)


def _merged(known: list[keys.Key], own: list[keys.Key]) -> list[keys.Key]:
    """Give the known keys and those of the file, whose limits count; a revoked key stays revoked."""
    by_hash = {key.sha256: key for key in known}
    for key in own:
        before = by_hash.get(key.sha256, key)
        kept = msgspec.structs.replace(key, id=before.id, revoked_s=before.revoked_s)
        by_hash[key.sha256] = keys.bounded(kept)
    return list(by_hash.values())


def _standings(found: list[keys.Key], spent: Mapping[Period, Mapping[str, int]]) -> dict[str, Standing]:
    """Give the standing of every key that has bounds; ``spent`` is by period and key."""
    standings = {}
    for key in found:
        if key.bounds:
            by_period = {period: amounts.get(key.id, 0) for period, amounts in spent.items()}
            balance = (key.prepaid_nanousd or 0) - by_period.get("total", 0)
            standings[f"key:{key.id}"] = Standing(balance_nanousd=balance, spent=by_period)
    return standings
