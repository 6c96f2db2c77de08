"""The control plane of tenancy: opens the database, imports the file, carries the journal, says what is left.

Everything blocking runs in one thread, but for what takes long (proof, retention) and what may not wait
behind it: a revoked key must be known within two seconds, whatever is being carried. While the database is
away the known keys are served from memory (at start: from the snapshots on disk), usage stays in the journal,
and the part is named in ``errors``.
"""

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.settings import Settings
from gateway.state.holds import Round, SharedPurses, Wish
from gateway.state.limits import Limits
from gateway.tenancy import (
    accounts,
    changes,
    holds,
    key_store,
    keys,
    ledger,
    minutes,
    prices,
    standings,
    transfers,
)
from gateway.tenancy.carrier import Carrier, recover
from gateway.tenancy.directory import Directory, load
from gateway.tenancy.journal import Journal, prune
from gateway.tenancy.prices import PriceTable
from gateway.tenancy.pricing import price_of_model
from gateway.tenancy.reconcile import Report, reconcile
from gateway.tenancy.restored import carry_again
from gateway.tenancy.retention import Retention

log = logging.getLogger("switchgear.books")

T = TypeVar("T")

EVERY_S, BUSY_EVERY_S = 1.0, 0.1
BUSY_ROWS = 40  # carried at once
# A commit costs what thirty rows do: after one of a few rows, so many turns only force the journal to the
# disk. Not where SQL is another machine, which lasts when this one's disk is lost.
RESTS = 1
ORPHANS_EVERY_S = 5.0
SETTLED_S = 4.0  # after which every process has carried what it has settled
CLOCKS_S = 3600.0  # by how much the clocks of several gateways may differ
PROOF_DAYS = 2


class Books:
    """Keys, prices and ledger of one process; ``errors`` says what does not work, by part.

    ``gap_nanousd`` is by how much the books differed at the last proof, None before the first one.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        directory: Directory,
        limits: Limits,
        price_table: PriceTable,
        *,
        shared: SharedPurses | None = None,
        wall: Callable[[], float],
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.errors: dict[str, str] = {}
        self.engine = database.connect(settings.database.url)
        self.gap_nanousd: int | None = None
        self._journal = journal
        self._carrier = Carrier(self.engine, journal)
        self._retention = Retention()
        self._proven: set[str] = set()  # kept segments that need not be read again
        self._directory = directory
        self._limits = limits
        self._shared = shared
        self._holder = secrets.token_hex(8)
        self._prices = price_table
        self._price_snapshot = Path(settings.server.state_dir) / "prices.json"
        self._standing_snapshot = Path(settings.server.state_dir) / "standings.json"
        self._wall = wall
        self._environ = environ
        self._imported: Settings | None = None
        self._write: tuple[int, int, int] | None = None  # the last one that is known in full
        self._opened = self._busy = False
        self._rests = 0  # turns that are left without a commit
        self._looked_for_orphans_s = -math.inf
        self._expiry_s = math.inf  # when something expires next
        self._expired_s = 0.0  # what expired before is taken back
        self._failed_s = 0.0  # when the database failed last
        self._loop: asyncio.AbstractEventLoop
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="books")
        self._keys_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keys")

    async def open(self) -> None:
        """Serve the known keys, then those of the database if it is there."""
        self._loop = asyncio.get_running_loop()
        self._directory.prepare = self._prepare
        self._put_in_force(prices.read_snapshot(self._price_snapshot))
        self._directory.start(keys.bootstrap(self.settings.keys, self._environ))
        self._limits.book(standings.read_snapshot(self._standing_snapshot, self._declared()), self._wall())
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError):
            await self.refresh_keys()

    def adopt(self, settings: Settings) -> None:
        """Put the prices of a new file in force at once; SQL learns them and the keys at the next refresh."""
        self.settings = settings
        self._put_in_force(self._prices.rows)

    def keys_due(self) -> bool:
        """Whether keys, prices or balances may be others than when they were read."""
        if not self._opened or self._imported is not self.settings:
            return True
        write = database.last_write(self.engine.url)
        return write is None or write != self._write

    async def refresh_keys(self) -> None:
        """Read keys, prices and balances again where they changed; opens and imports first where needed."""
        if not self._opened or self._imported is not self.settings:
            await self._run("database", self._open)
        write = database.last_write(self.engine.url)  # before it is read
        await self._run("keys", lambda: self._directory.refresh(self.engine), self._keys_thread)
        self._write = write

    async def share(self) -> None:
        """Give this process what it may use of the accounts that several share, as soon as it needs it."""
        shared = self._shared
        assert shared is not None
        await shared.due()
        now_s = self._wall()
        try:
            wishes = shared.wishes(now_s)
            found = await self._run("database", lambda: self._hold(wishes, now_s)) if self._opened else None
        except BaseException:
            shared.lost()
            raise
        if found is None:
            shared.lost()
        else:
            shared.answered(wishes, found, now_s)

    async def carry(self) -> None:
        """Carry new journal lines into SQL."""
        self._journal.pay()
        self._busy = await self._run("ledger", self._carry) > BUSY_ROWS

    def every_s(self) -> float:
        """Give how often to carry: what a busy second leaves behind must not be a quiet one's work."""
        return BUSY_EVERY_S if self._busy else EVERY_S

    async def prove(self) -> None:
        """Hold the books of the last days against each other, and put old journals away for good."""
        if self._opened:
            report = await asyncio.to_thread(self._reconcile)
            self.gap_nanousd = report.gap_nanousd
            if not report.well:
                log.error(
                    "the books do not agree: %d nano-dollars; see 'switchgear ledger reconcile'",
                    report.gap_nanousd,
                )

    def expiry_due(self) -> bool:
        """Whether a grant has expired, and what was used of it can be booked."""
        return self._opened and self._wall() - SETTLED_S >= max(self._expiry_s, self._failed_s)

    async def expire(self) -> None:
        """Take back what is left of grants that have expired.

        What was used of a grant must be booked before: what this process has settled is carried then, the
        others have some seconds for theirs, also after an outage.
        """
        if self.expiry_due():
            await self._run("database", self._expire)

    async def note_standings(self) -> None:
        """Keep what every account has spent, for a start without SQL."""
        if self._opened:
            await self._run("database", lambda: self._standings(self._wall()))

    async def retain(self) -> None:
        """Forget the content of requests that is older than the terms allow, and old minutes."""
        if self._opened:
            await asyncio.to_thread(self._retain)

    async def with_engine(self, work: Callable[[sa.Engine], T]) -> T | None:
        """Run blocking work in the books' thread; None while the database has not been opened."""
        return await self._run("database", lambda: work(self.engine)) if self._opened else None

    async def close(self) -> None:
        """Carry what is left and close; the journal stays on disk where it could not be carried."""
        settled = False
        self._journal.pay()
        with contextlib.suppress(SQLAlchemyError, database.DatabaseError, OSError):
            if self._opened:
                await self._run("database", lambda: self._standings(self._wall()))
                settled = self._carrier.caught_up()
                if self._shared is not None:
                    await self._run("database", lambda: holds.give_back(self.engine, self._holder))
        self._journal.close(settled=settled)
        self._thread.shutdown(wait=True)
        self._keys_thread.shutdown(wait=True)
        self._directory.close()
        self.engine.dispose()

    def _put_in_force(self, known: Sequence[prices.Row]) -> None:
        """Use a price book, and what the file says beyond it until that is imported."""
        found = [price_of_model(model) for model in self.settings.models]
        self._prices.replace((*known, *prices.imported(known, found, self._wall())))

    def _open(self) -> None:
        """Bring the database, and what it knows of the file, up to date; open is what has been read, too."""
        if not self._opened:
            database.migrate(self.engine)
            self._recover()
            self._carry_again()
        if self._imported is not self.settings:
            self._import(self.settings)
        self._directory.refresh(self.engine)
        self._opened = True

    def _prepare(self, connection: sa.Connection, found: list[keys.Key]) -> None:
        """Put prices and balances in force before the keys that came with them; in any thread."""
        rows = prices.load(connection)
        self._put_in_force(rows)
        now_s = self._wall()
        standing = standings.read(connection, found, now_s)
        self._expiry_s = transfers.next_expiry(connection, self._expired_s)
        self._expired_s = min(self._expiry_s, now_s - CLOCKS_S)
        self._loop.call_soon_threadsafe(self._limits.book, standing, now_s)
        with contextlib.suppress(OSError):
            prices.write_snapshot(self._price_snapshot, rows)
            standings.write_snapshot(self._standing_snapshot, standing)

    def _import(self, settings: Settings) -> None:
        now_s = self._wall()
        key_store.import_file(self.engine, keys.bootstrap(settings.keys, self._environ), now_s)
        with self.engine.begin() as connection:
            new = prices.import_file(connection, [price_of_model(model) for model in settings.models], now_s)
            for record in key_store.all_keys(connection):
                if record.prepaid_nanousd is not None:
                    new |= transfers.set_declared(connection, transfers.declared(record, now_s)) is not None
            if new:
                changes.bump(connection)
        self._imported = settings

    def _declared(self) -> dict[str, int]:
        """Give the credit that the file grants, by account."""
        found = keys.bootstrap(self.settings.keys, self._environ)
        return {accounts.key(one.id): one.prepaid_nanousd for one in found if one.prepaid_nanousd is not None}

    def _standings(self, now_s: float) -> standings.Standings:
        """Read what every account has spent; what this process has settled is carried before."""
        self._carrier.step()
        with self.engine.connect() as connection:
            found = standings.read(connection, self._directory.keys(), now_s)
        with contextlib.suppress(OSError):
            standings.write_snapshot(self._standing_snapshot, found)
        return found

    def _hold(self, wishes: Sequence[Wish], now_s: float) -> Round:
        """Ask SQL for holds; what was spent of them until now is carried before."""
        if wishes:
            self._carrier.step()
        return holds.hold(self.engine, self._holder, wishes, now_s)

    def _carry(self) -> int:
        if not self._opened or self._rests:
            self._rests = max(0, self._rests - 1)
            self._journal.sync()
            return 0
        carried = self._carrier.step()
        if 0 < carried <= BUSY_ROWS and self.engine.dialect.name == "sqlite":
            self._rests = RESTS
        if not 0 <= self._wall() - self._looked_for_orphans_s < ORPHANS_EVERY_S:
            self._recover()
        return carried

    def _recover(self) -> None:
        own = {segment.path for segment in self._journal.segments()}
        recovered = recover(self.engine, self._journal.directory, own, self._journal.kept)
        if recovered:
            log.warning("settled %d requests that another process left behind", recovered)
        self._looked_for_orphans_s = self._wall()

    def _carry_again(self) -> None:
        journal = self._journal
        if journal.kept and (found := carry_again(self.engine, journal.directory, journal.kept)):
            log.warning("the database comes from a backup: %d requests after it are carried again", found)

    def _expire(self) -> None:
        now_s = self._wall()  # whatever was settled by now is carried; what comes meanwhile came too late
        self._carrier.step()
        with self.engine.begin() as connection:
            found = transfers.expire(connection, now_s, grace_s=SETTLED_S, since_s=self._expired_s)
            if found:
                changes.bump(connection)  # so that everybody learns what expires next
        if found:
            self._directory.refresh(self.engine)

    def _retain(self) -> None:
        with self.engine.connect() as connection:
            registry = load(connection)
        if emptied := self._retention.step(self.engine, registry, self._wall()):
            log.info("forgot the content of %d requests", emptied)
        minutes.forget(self.engine, self._wall())

    def _reconcile(self) -> Report:
        kept = self._journal.kept
        assert kept is not None
        billing, now_s = self.settings.billing, self._wall()
        prune(
            kept,
            older_than_s=now_s - billing.keep_journal_days * ledger.DAY_S,
            over_bytes=billing.keep_journal_bytes,
        )
        since_s = now_s - PROOF_DAYS * ledger.DAY_S
        return reconcile(self.engine, self._journal.directory, kept, since_s, self._proven)

    async def _run(self, part: str, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        """Run blocking work in a thread; keep track of whether the part works.

        What can be read may not be writable: each has its own name, so that one does not hide the other.
        """
        try:
            result = await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)
        except (SQLAlchemyError, database.DatabaseError) as error:
            self.errors[part] = database.reason(error)
            self._failed_s = self._wall()
            raise
        self.errors.pop(part, None)
        return result
