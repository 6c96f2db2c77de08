"""The control plane of tenancy: opens the database, imports keys and prices, carries the journal into SQL.

Everything blocking runs in one thread. While the database is away the known keys are served from memory (at
start: from the snapshot on disk), usage stays in the journal, and the part is named in ``errors``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.settings import Settings
from gateway.state.limits import MemoryLimits
from gateway.tenancy import key_store, keys, ledger
from gateway.tenancy.directory import Directory
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
        directory: Directory,
        limits: MemoryLimits,
        *,
        wall: Callable[[], float],
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.errors: dict[str, str] = {}
        self.engine = database.connect(settings.database.url)
        self._journal = journal
        self._carrier = ledger.Carrier(self.engine, journal)
        self._directory = directory
        self._limits = limits
        self._wall = wall
        self._environ = environ
        self._started_s = wall()
        self._month = _month(self._started_s)
        self._spent: dict[str, tuple[int, int]] = {}  # per key before this process: ever, this month
        self._imported: Settings | None = None
        self._opened = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="books")

    async def open(self) -> None:
        """Serve the known keys, then those of the database if it is there."""
        self._directory.start(keys.bootstrap(self.settings.keys, self._environ))
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError):
            await self.refresh_keys()

    async def refresh_keys(self) -> None:
        """Read the keys again where they changed; opens, migrates and imports first where needed."""
        await self._run("database", self._read_keys)
        while self._spent:
            key_id, (ever, month) = self._spent.popitem()
            self._limits.book(key_id, spent_nanousd=ever, spent_month_nanousd=month)

    async def carry(self) -> None:
        """Carry new journal lines into SQL; begins the budgets of a new month."""
        month = _month(self._wall())
        if month != self._month:
            self._month = month
            self._limits.new_month()
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
        self.engine.dispose()

    def _read_keys(self) -> None:
        if not self._opened:
            self._open_database()
        if self._imported is not self.settings:
            self._import(self.settings)
        self._directory.refresh(self.engine)

    def _open_database(self) -> None:
        database.migrate(self.engine)
        journal_dir = self._journal.segments()[0].path.parent
        own = {segment.path for segment in self._journal.segments()}
        recovered = ledger.recover(self.engine, journal_dir, own)
        if recovered:
            log.warning("settled %d requests that an earlier process left behind", recovered)
        before = ledger.spent_by_key(self.engine, 0.0, self._started_s)
        month = ledger.spent_by_key(self.engine, _month_start_s(self._started_s), self._started_s)
        self._spent = {key_id: (spent, month.get(key_id, 0)) for key_id, spent in before.items()}
        self._opened = True

    def _import(self, settings: Settings) -> None:
        now_s = self._wall()
        key_store.import_file(self.engine, keys.bootstrap(settings.keys, self._environ), now_s)
        save_prices(self.engine, [price_of_model(model) for model in settings.models], now_s)
        self._imported = settings

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


def _month(wall_s: float) -> tuple[int, int]:
    moment = datetime.fromtimestamp(wall_s, UTC)
    return moment.year, moment.month


def _month_start_s(wall_s: float) -> float:
    year, month = _month(wall_s)
    return datetime(year, month, 1, tzinfo=UTC).timestamp()
