"""Limits that several gateway processes share in Redis; see ``gateway.state.limits``.

All commands of a process go over one connection, in order and in batches: what comes while a batch is under
way goes with the next one, so that a request costs one round trip and much traffic few of them. Every gateway
gives its own time: their clocks must agree, as NTP makes them.

Redis may be away, slow or forgetful, and requests go on. A batch that is not answered within the time-out
ends the connection; from then on this process judges by its own counts (``Rates``): of each rate and of
concurrency it allows its share among the processes that were there last. It joins again as a new holder, with
what runs. What could not be delivered is not sent again, for it may have arrived.

Money is not here: no store that can forget may count it; see ``gateway.state.holds``.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from gateway.loops import ended
from gateway.state import commands
from gateway.state.commands import Command
from gateway.state.holds import SharedPurses
from gateway.state.limits import Ask, Bound, Standing, Verdict
from gateway.state.memory import Meter, Rates, refusal, tightest
from gateway.state.money import reserve

log = logging.getLogger("switchgear.limits")

LEASE_S = 10.0
JOIN_TIMEOUT_S = 2.0
BATCH = 256
BACKLOG = 100_000
FORGOTTEN = "it does not know this process any more: it was restarted, or we were away for long"

State = Literal["away", "joining", "joined"]


class RedisAway(Exception):
    """Redis does not answer, or not as it should; the text says what happened."""


class _Operation(msgspec.Struct, eq=False):
    """A command under way; where its caller has left before the answer, ``undo`` takes back what it did."""

    command: Command
    answer: "asyncio.Future[list[Any]] | None" = None
    undo: Callable[[], Command] | None = None


class _Wire:
    """One connection; a failure or a time-out closes it for good."""

    def __init__(self, url: str, password: str | None) -> None:
        pool = ConnectionPool.from_url(
            url, password=password, socket_timeout=None, socket_connect_timeout=None, protocol=2
        )
        self._connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's

    async def call(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands and give their answers, an error among them as a value. Raises RedisAway."""
        working = asyncio.ensure_future(self._call(commands))
        try:
            await asyncio.wait([working], timeout=timeout_s)
            if not working.done():  # maybe it was we who were late: let what has arrived be read
                await asyncio.wait([working], timeout=0.001)
            if not working.done():
                raise RedisAway(f"no answer within {timeout_s:g} s")
            return working.result()
        except (RedisError, OSError, AttributeError) as error:  # the last: closed under our hands
            raise RedisAway(str(error) or type(error).__name__) from None
        finally:
            working.cancel()

    async def close(self) -> None:
        """Close the connection, without good-bye."""
        await self._connection.disconnect(nowait=True)

    async def _call(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        if not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response(disconnect_on_error=True))
            except ResponseError as error:
                answers.append(error)
        return answers


class RedisLimits:
    """The counts of all gateway processes; ``errors`` has an entry while Redis is away.

    ``alone`` is called for each request that is judged without Redis; ``share`` is the number of processes
    until Redis has told it.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        timeout_s: float,
        share: int = 1,
        alone: Callable[[], None],
    ) -> None:
        self.money = SharedPurses(share)
        self.errors: dict[str, str] = {"redis": "not connected yet"}
        self._url, self._password = url, password
        self._timeout_s = timeout_s
        self._alone = alone
        self._rates = Rates()
        self._share = share
        self._state: State = "away"
        self._holder = self._mark = ""
        self._wire: _Wire | None = None
        self._waiting: list[_Operation] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ the way of a request
    async def take(self, ask: Ask, now_s: float) -> Verdict:
        """Take everything or nothing, for all processes; see ``Limits.take``."""
        purses = self.money.of(ask.bounds, now_s)
        if purses and (refused := await self.money.reserve(purses, ask.cost_nanousd, now_s)) is not None:
            return refused
        verdict = None
        try:
            verdict = await self._take(_capped(ask), now_s)
        finally:
            if verdict is None or verdict.short is not None:
                reserve(purses, -ask.cost_nanousd)
        return verdict

    async def extend(self, ask: Ask, cost_nanousd: int, now_s: float) -> bool:
        """Reserve more; see ``Limits.extend``."""
        purses = self.money.of(ask.bounds, now_s)
        return await self.money.reserve(purses, cost_nanousd, now_s) is None

    def settle(self, ask: Ask, reserved_nanousd: int, tokens: int, cost_nanousd: int, now_s: float) -> None:
        """Correct the estimate, in the background; see ``Limits.settle``."""
        self.money.spend(ask.bounds, reserved_nanousd, cost_nanousd, now_s)
        if _is_rated(ask):
            ask = _capped(ask)
            self._rates.settle(ask, tokens, now_s)
            if not self._away:
                self._tell(commands.settle(self._holder, ask, tokens, now_s))

    def book(self, standings: Mapping[str, Standing], now_s: float) -> None:
        """Take over what SQL knows; see ``Limits.book``."""
        self.money.book(standings, now_s)

    async def _take(self, ask: Ask, now_s: float) -> Verdict:
        if not _is_rated(ask):
            return Verdict()
        if self._state == "joined":
            holder = self._holder
            answer = await self._ask(
                commands.take(self._holder, ask, now_s, force=False),
                lambda: commands.settle(self._holder, ask, 0, now_s),
            )
            if answer is not None:
                if holder != self._holder and answer[0] == 0 and not self._away:
                    self._tell(commands.take(self._holder, ask, now_s, force=True))  # told to who we were
                return self._verdict(ask, answer, now_s)
        self._alone()
        parts = tuple(_part(bound, self._share) for bound in ask.bounds)
        verdict = self._rates.take(msgspec.structs.replace(ask, bounds=parts), now_s)
        if verdict.short is None and not self._away:
            self._tell(commands.take(self._holder, ask, now_s, force=True))
        return verdict

    # ------------------------------------------------------------ the connection
    async def step(self, now_s: float) -> None:
        """Show that this process lives, or join again; repeat it well within LEASE_S. Raises RedisAway."""
        if self._state == "joined":
            answer = await self._ask(commands.beat(self._holder, self._mark, LEASE_S))
            if answer is not None:
                self._note_beat(answer)
                return
        await self._join(now_s)

    async def flushed(self) -> None:
        """Wait until everything that was told is delivered, or Redis is away."""
        await asyncio.sleep(0)
        while self._waiting and self._state == "joined":
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Deliver what is left, give up the place, close."""
        if self._state == "joined":
            for command in commands.part(self._holder):
                self._tell(command)
            await self.flushed()
        if self._sender is not None:
            await ended([self._sender])
        self._state = "away"
        if self._wire is not None:
            await self._wire.close()

    async def _join(self, now_s: float) -> None:
        """Take a new place, say what we hold and know, then what came in meanwhile. Raises RedisAway."""
        if self._wire is not None:
            await self._wire.close()
        before, self._holder, self._mark = self._holder, secrets.token_hex(8), ""
        wire = self._wire = _Wire(self._url, self._password)
        try:
            joining = [*commands.load(), *commands.part(before), commands.beat(self._holder, "", LEASE_S)]
            answers = await wire.call(joining, JOIN_TIMEOUT_S)
            _raise_first(answers)
            self._state = "joining"
            restoring = self._restoring()
            for begin in range(0, len(restoring), BATCH):
                _raise_first(await wire.call(restoring[begin : begin + BATCH], JOIN_TIMEOUT_S))
        except BaseException as error:
            self._leave(str(error) or type(error).__name__)
            raise
        self._state = "joined"
        self._note_beat(answers[-1])
        if self.errors.pop("redis", ""):
            log.info("limits are shared by %d processes in Redis", self._share)
        self._wake.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="limits sender")

    def _restoring(self) -> list[Command]:
        """Give the commands that tell a Redis, maybe an empty one, what runs here."""
        return [
            commands.restore(self._holder, name, account.running)
            for name, account in self._rates.accounts.items()
            if account.running
        ]

    @property
    def _away(self) -> bool:
        return self._state == "away"

    def _note_beat(self, answer: list[Any]) -> None:
        self._mark = answer[0]
        self._share = self.money.share = max(1, int(answer[1]))

    def _leave(self, reason: str) -> None:
        """Go on alone: who waits for an answer is judged by the counts of this process."""
        if self._state == "joined":
            log.warning("Redis is away, limits are kept by each process: %s", reason)
        self._state = "away"
        self.errors["redis"] = f"away, limits are kept by each process: {reason}"
        waiting, self._waiting = self._waiting, []
        for operation in waiting:
            if operation.answer is not None and not operation.answer.done():
                operation.answer.set_exception(RedisAway(reason))
        self._idle.set()

    # ------------------------------------------------------------ commands and answers
    async def _ask(self, command: Command, undo: Callable[[], Command] | None = None) -> list[Any] | None:
        """Give the answer of Redis; None, and we are alone, where there is none."""
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Operation(command, answer, undo))
        self._wake.set()
        try:
            found = await answer
        except RedisAway:
            return None
        if found[0] == -1:
            self._leave(FORGOTTEN)
            return None
        return found

    def _tell(self, command: Command) -> None:
        """Send a command, later; so many wait that memory is at stake only while Redis is away unnoticed."""
        if len(self._waiting) >= BACKLOG:
            self._leave("it is too slow for what has to be told")
            return
        self._waiting.append(_Operation(command))
        self._wake.set()

    async def _send(self) -> None:
        """Send what waits, batch by batch, for ever."""
        while True:
            self._wake.clear()
            if self._state != "joined" or not self._waiting or self._wire is None:
                self._idle.set()
                await self._wake.wait()
                continue
            batch = self._waiting[:BATCH]
            wire = self._wire
            try:
                answers = await wire.call([operation.command for operation in batch], self._timeout_s)
            except RedisAway as error:
                if wire is self._wire and self._state == "joined":
                    self._leave(str(error))
                continue
            if wire is self._wire and self._state == "joined":
                self._deliver(batch, answers)  # may leave, and with it whoever is not answered yet
                del self._waiting[: len(batch)]

    def _deliver(self, batch: list[_Operation], answers: list[Any]) -> None:
        for operation, found in zip(batch, answers, strict=True):
            if isinstance(found, ResponseError):
                self._leave(str(found))
                return
            if operation.answer is None:
                if found == [-1]:
                    self._leave(FORGOTTEN)
                    return
            elif not operation.answer.done():
                operation.answer.set_result(found)
            elif operation.answer.cancelled() and found[0] == 0 and operation.undo is not None:
                self._tell(operation.undo())

    def _verdict(self, ask: Ask, answer: list[Any], now_s: float) -> Verdict:
        """Read the answer to TAKE; our own counts follow."""
        code, at = int(answer[0]), int(answer[1])
        if code == 0:
            self._rates.hold(ask, now_s)
        accounts = [self._rates.account(bound, now_s) for bound in ask.bounds]
        found: Meter | None = None
        for number, account in enumerate(accounts):
            for meter in account.meters:
                slot = _slot(meter)
                meter.full_at_s = float(answer[2 + 4 * number + slot])
                if number == at and slot == code:
                    found = meter
        if code == 0:
            requests, tokens = tightest(accounts, now_s)
            return Verdict(requests=requests, tokens=tokens)
        return refusal(accounts, accounts[at], found, float(answer[2]), now_s)


def _capped(ask: Ask) -> Ask:
    """Keep an absurd estimate within what Redis counts exactly; it is over every limit all the same."""
    if ask.tokens <= commands.NUMBER_LIMIT:
        return ask
    return Ask(bounds=ask.bounds, tokens=commands.NUMBER_LIMIT, cost_nanousd=ask.cost_nanousd)


def _is_rated(ask: Ask) -> bool:
    """Tell whether there is something to count: money is not counted here."""
    for bound in ask.bounds:
        if bound.rpm or bound.concurrency is not None or bound.tpm or bound.rpd or bound.tpd:
            return True
    return False


def _slot(meter: Meter) -> int:
    return (1 if meter.what == "requests" else 2) + (0 if meter.window == "minute" else 2)


@lru_cache(maxsize=4096)
def _part(bound: Bound, share: int) -> Bound:
    """Give the limits that one of so many processes keeps by itself."""
    parts = {
        name: None if limit is None else -(-limit // share)
        for name in ("rpm", "tpm", "rpd", "tpd", "concurrency")
        for limit in (getattr(bound, name),)
    }
    return msgspec.structs.replace(bound, **parts)


def _raise_first(answers: list[Any]) -> None:
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise RedisAway(str(answer))
