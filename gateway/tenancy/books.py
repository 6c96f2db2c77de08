"""The control plane of tenancy: opens the database, imports keys and prices, carries the journal into SQL.

Everything blocking runs in one thread. While the database is away the known keys are served from memory (at
start: from the snapshot on disk), usage stays in the journal, and the part is named in ``errors``.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.settings import Settings
from gateway.state.limits import Limits, Standing
from gateway.state.periods import spans
from gateway.tenancy import keys, ledger, prices, transfers
from gateway.tenancy.carrier import Carrier, recover
from gateway.tenancy.journal import Journal, prune
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.pricing import price_of_model
from gateway.tenancy.reconcile import Report, reconcile

log = logging.getLogger("switchgear.books")

T = TypeVar("T")

ORPHANS_EVERY_S = 5.0
PROOF_DAYS = 2


class Books:
    """Keys, prices and ledger of one process; ``errors`` says what does not work, by part."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        table: keys.KeyTable,
        limits: Limits,
        price_table: PriceTable,
        *,
        wall: Callable[[], float],
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.errors: dict[str, str] = {}
        self._engine = database.connect(settings.database.url)
        self._journal = journal
        self._carrier = Carrier(self._engine, journal)
        self._table = table
        self._limits = limits
        self._prices = price_table
        self._price_snapshot = Path(settings.server.state_dir) / "prices.json"
        self._looked_for_orphans_s = -math.inf
        self.gap_nanousd: int | None = None
        self._snapshot = Path(settings.server.state_dir) / "keys.json"
        self._known: list[keys.Key] = []
        self._wall = wall
        self._environ = environ
        self._booked: object = None  # the generation of the limits and the keys that were booked last
        self._imported: Settings | None = None
        self._opened = False
        self._read_prices: list[prices.Row] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="books")

    async def open(self) -> None:
        """Serve the known keys, then those of the database if it is there."""
        self._put_in_force(prices.read_snapshot(self._price_snapshot))
        own = keys.bootstrap(self.settings.keys, self._environ)
        known = _merged(keys.read_snapshot(self._snapshot), own)
        self._publish(known)
        self._limits.book(_standings(known, {}), self._wall())
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError):
            await self.refresh_keys()

    def adopt(self, settings: Settings) -> None:
        """Put the prices of a new file in force at once; SQL learns them and the keys at the next refresh."""
        self.settings = settings
        self._put_in_force(self._prices.rows)

    async def refresh_keys(self) -> None:
        """Read the keys again; opens, migrates and imports where that has not been done yet."""
        found = await self._run("database", self._read_keys)
        changed = self._publish(found)
        if self._read_prices is not None:
            self._put_in_force(self._read_prices)
        generation = self._limits.generation
        if changed or generation != self._booked:
            now_s = self._wall()
            standings = await self._run("database", lambda: self._standings(found, now_s))
            self._limits.book(standings, now_s)
            self._booked = generation

    async def carry(self) -> None:
        """Carry new journal lines into SQL."""
        self._journal.pay()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._journal.sync)
        if self._opened:
            await self._run("database", self._carry)

    async def prove(self) -> None:
        """Hold the books of the last days against each other, and put old journals away for good."""
        if self._opened:
            since_s = self._wall() - PROOF_DAYS * ledger.DAY_S
            report = await asyncio.to_thread(self._reconcile, since_s)
            self.gap_nanousd = report.gap_nanousd
            if not report.well:
                log.error(
                    "the books do not agree: %d nano-dollars; see 'switchgear ledger reconcile'",
                    report.gap_nanousd,
                )

    async def expire(self) -> None:
        """Take back what is left of grants that have expired."""
        if self._opened:
            await self._run("database", self._expire)

    async def close(self) -> None:
        """Carry what is left and close; the journal stays on disk where it could not be carried."""
        settled = False
        self._journal.pay()
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
        with self._engine.connect() as connection:
            found = prices.load(connection)
        self._read_prices = found
        if found != list(self._prices.rows):
            with contextlib.suppress(OSError):
                prices.write_snapshot(self._price_snapshot, found)
        return keys.load(self._engine)

    def _open_database(self) -> None:
        database.migrate(self._engine)
        self._recover()
        self._opened = True

    def _recover(self) -> None:
        own = {segment.path for segment in self._journal.segments()}
        recovered = recover(self._engine, self._journal.directory, own, self._journal.kept)
        if recovered:
            log.warning("settled %d requests that another process left behind", recovered)
        self._looked_for_orphans_s = self._wall()

    def _carry(self) -> None:
        self._carrier.step()
        if not 0 <= self._wall() - self._looked_for_orphans_s < ORPHANS_EVERY_S:
            self._recover()

    def _expire(self) -> None:
        with self._engine.begin() as connection:
            transfers.expire(connection, self._wall())

    def _reconcile(self, since_s: float) -> Report:
        kept = self._journal.kept
        assert kept is not None
        billing = self.settings.billing
        prune(
            kept,
            older_than_s=self._wall() - billing.keep_journal_days * ledger.DAY_S,
            over_bytes=billing.keep_journal_bytes,
        )
        return reconcile(self._engine, self._journal.directory, kept, since_s)

    def _import(self, settings: Settings) -> None:
        now_s = self._wall()
        for key in keys.bootstrap(settings.keys, self._environ):
            keys.save(self._engine, key, "file", now_s)
        with self._engine.begin() as connection:
            prices.import_file(connection, [price_of_model(model) for model in settings.models], now_s)
        self._imported = settings

    def _standings(self, found: list[keys.Key], now_s: float) -> dict[str, Standing]:
        """Read what every account has spent; what this process has settled is carried before."""
        self._carrier.step()
        with self._engine.connect() as connection:
            return {}

    def _put_in_force(self, known: Sequence[prices.Row]) -> None:
        """Use a price book, and what the file says beyond it until that is imported."""
        found = [price_of_model(model) for model in self.settings.models]
        self._prices.replace((*known, *prices.imported(known, found, self._wall())))

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


def _merged(known: list[keys.Key], own: list[keys.Key]) -> list[keys.Key]:
    """Give the known keys and those of the file, whose limits count; a revoked key stays revoked."""
    by_hash = {key.sha256: key for key in known}
    for key in own:
        before = by_hash.get(key.sha256, key)
        kept = msgspec.structs.replace(key, id=before.id, revoked_s=before.revoked_s)
        by_hash[key.sha256] = keys.bounded(kept)
    return list(by_hash.values())


