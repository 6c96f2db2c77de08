"""The shell of ``routing.line``: waiting tasks, their timers, slots on replicas.

Whoever is given a slot gives it back with ``release``; the next ticket in line is granted in the same moment.
Whoever waits has a timer of its own.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import msgspec

from backends.load import ReplicaLoad
from backends.replica import Phase, Replica
from gateway.bands import BANDS
from gateway.errors import ModelLoading
from gateway.settings import ModelSettings
from routing.decision import Query
from routing.line import Grant, Line, Server, began
from routing.policies import POLICIES
from routing.scheduler import Ticket, WaitExpired

POLL_S = 0.05


class Patience(msgspec.Struct, frozen=True):
    """How long requests of one band wait: until they expire, and how long a wait is accepted at all."""

    queue_s: float
    accepted_s: float


class Desk(msgspec.Struct, eq=False):
    """One model: its line, its ready replicas by id, and who waits.

    ``spot`` and ``firm`` are those that may be taken away and those that stay, where there are both.
    """

    line: Line
    patience: tuple[Patience, ...] = ()
    replicas: Mapping[str, Replica] = {}
    spot: frozenset[str] = frozenset()
    firm: frozenset[str] = frozenset()
    waiting: dict[int, asyncio.Future[tuple[Grant, Replica]]] = {}


class Dispatcher:
    """Gives slots on replicas, model by model."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        draw: Callable[[], float],
        expected_ready_s: Callable[[str], float | None],
        holds: Callable[[str], bool] = lambda model: False,
        wake: Callable[[str], None] = lambda model: None,
    ) -> None:
        """A request that finds no replica calls ``wake``; where ``holds``, it waits for it."""
        self.now = now
        self.draw = self._draw = draw
        self._expected_ready_s = expected_ready_s
        self._holds, self._wake = holds, wake
        self._desks: dict[str, Desk] = {}
        self._replicas: Mapping[str, Replica] = {}

    def configure(self, models: Iterable[ModelSettings]) -> None:
        """Set the models; known ones keep their queue."""
        desks = {}
        for model in models:
            desk = self._desks.get(model.name) or Desk(Line(model.name), waiting={})
            desk.line.configure(
                POLICIES["weighted" if model.versions else model.policy], model.queue_limit, model.queue_age_s
            )
            desk.patience = tuple(_patience(model, band) for band in BANDS)
            desks[model.name] = desk
        self._desks = desks

    def update(self, replicas: Mapping[str, Replica]) -> None:
        """Take a new snapshot of the fleet; tickets that fit now are granted."""
        self._replicas = replicas
        for model, desk in self._desks.items():
            desk.replicas = {
                id_: one for id_, one in replicas.items() if one.model == model and one.phase is Phase.READY
            }
            spot = frozenset(id_ for id_, one in desk.replicas.items() if one.spot)
            mixed = 0 < len(spot) < len(desk.replicas)
            desk.spot = spot if mixed else frozenset()
            desk.firm = frozenset(desk.replicas) - spot if mixed else frozenset()
            desk.line.staff(
                Server(id=id_, limit=one.limit, weight=one.weight, version=one.version)
                for id_, one in desk.replicas.items()
            )
            self._grant(desk)

    def rest(self, model: str, replica_id: str, wait_s: float) -> None:
        """Send nothing to a replica for so long, while another of the model has room."""
        desk = self._desks.get(model)
        if desk is not None:
            desk.line.rest(replica_id, self.now() + wait_s)

    def rests_s(self, model: str) -> float:
        """Give how long all of a model's replicas still want to be left alone; 0 where one does not."""
        desk = self._desks.get(model)
        return desk.line.rests_s(self.now()) if desk is not None else 0.0

    def observe(self, loads: Mapping[str, ReplicaLoad]) -> None:
        """Take what the engines tell of themselves."""
        told = {
            id_: ((load.running or 0) + (load.waiting or 0), load.kv_usage or 0.0)
            for id_, load in loads.items()
        }
        for desk in self._desks.values():
            desk.line.observe(told)

    def ready(self, model: str) -> bool:
        """Tell whether any replica of the model is ready."""
        return bool(self._desks[model].replicas)

    def reads_prefix(self, model: str) -> bool:
        """Tell whether the marks of a prompt make a difference for the model now."""
        desk = self._desks.get(model)
        return desk is not None and desk.line.reads_prefix

    def depth(self) -> dict[str, int]:
        """Give the number of waiting requests per model."""
        return {name: len(desk.line.scheduler) for name, desk in self._desks.items()}

    def running(self) -> dict[str, int]:
        """Give the number of running requests per model."""
        return {name: desk.line.running for name, desk in self._desks.items()}

    def busy(self, replica_id: str) -> int:
        """Give the number of running requests on a replica, also on one that is out of routing."""
        return sum(desk.line.running_on(replica_id) for desk in self._desks.values())

    def held_s(self, model: str) -> float | None:
        """Give how long a request of the model holds its slot; None while unknown."""
        desk = self._desks.get(model)
        return desk.line.scheduler.held_s if desk else None

    def ttft_s(self, model: str) -> float | None:
        """Give the longest of the replicas' recent times to the first byte; None while unknown."""
        desk = self._desks.get(model)
        return desk.line.latency_s(self.now()) if desk else None

    async def slot(self, query: Query, *, band: int, deadline_s: float) -> "Slot":
        """Give a slot for the query, waiting in line for it if need be.

        Raises ModelLoading, QueueFull, WaitTooLong or WaitExpired.
        """
        return Slot(self, *await self.acquire(query, band, deadline_s))

    def slot_beside(self, query: Query) -> "Slot | None":
        """Give a slot on a replica that the query was not tried on, if one is free now."""
        desk = self._desks.get(query.model)
        grant = desk.line.place_beside(query, self._draw(), self.now()) if desk is not None else None
        return self._held(desk, grant)

    async def slot_to_go_on(self, query: Query, version: str, until_s: float) -> "Slot":
        """Give a slot for an answer that is under way, on a replica of the version; it waits in no line.

        Where none is ready, one is waited for. Raises ModelLoading where none comes in time.
        """
        while True:
            desk = self._desks.get(query.model)
            grant = (
                desk.line.take_over(query, version, self._draw(), self.now()) if desk is not None else None
            )
            slot = self._held(desk, grant)
            if slot is not None:
                return slot
            if desk is None or self.now() >= until_s:
                raise self._loading(query.model)
            await asyncio.sleep(POLL_S)

    def _held(self, desk: Desk | None, grant: Grant | None) -> "Slot | None":
        return None if desk is None or grant is None else Slot(self, grant, desk.replicas[grant.server.id])

    async def acquire(self, query: Query, band: int, deadline_s: float) -> tuple[Grant, Replica]:
        """Take a slot; see ``slot``."""
        desk = self._desks.get(query.model)
        if desk is None:  # a reload took it away between two attempts
            raise ModelLoading(f"The model {query.model!r} is no longer served.")
        if not desk.replicas:
            return await self._asleep(desk, query, band, deadline_s)
        if desk.spot:
            grant = self._place_mixed(desk, query, band)
        else:
            grant = desk.line.place(query, self._draw(), self.now())
        if grant is None:
            return await self._wait(desk, query, band, deadline_s)
        return grant, desk.replicas[grant.server.id]

    def _place_mixed(self, desk: Desk, query: Query, band: int) -> Grant | None:
        """Place the top band on replicas that stay, others on spot ones; where those are full, anywhere."""
        avoided = desk.firm if band else desk.spot
        narrowed = msgspec.structs.replace(query, exclude=query.exclude | avoided)
        now_s = self.now()
        return desk.line.place(narrowed, self._draw(), now_s) or desk.line.place(query, self._draw(), now_s)

    def release(self, grant: Grant) -> None:
        """Give back a slot."""
        desk = self._desks.get(grant.query.model)
        if desk is not None:
            desk.line.release(grant, self.now())
            if len(desk.line.scheduler):
                self._grant(desk)

    async def _asleep(self, desk: Desk, query: Query, band: int, deadline_s: float) -> tuple[Grant, Replica]:
        """Wake the model; wait for it where that is its way and in time, else raise ModelLoading."""
        self._wake(query.model)
        patience = min(deadline_s - self.now(), desk.patience[band].queue_s)
        wait_s = self._expected_ready_s(query.model)
        if not self._holds(query.model) or wait_s is None or wait_s > patience:
            raise self._loading(query.model)
        return await self._wait(desk, query, band, deadline_s)

    def _loading(self, model: str) -> ModelLoading:
        wait_s = self._expected_ready_s(model)
        when = "" if wait_s is None else f"; it is expected in about {max(1, round(wait_s))} s"
        return ModelLoading(
            f"No replica of model {model!r} is ready{when}.",
            retry_after_s=10.0 if wait_s is None else wait_s,
        )

    async def _wait(self, desk: Desk, query: Query, band: int, deadline_s: float) -> tuple[Grant, Replica]:
        line, patience, now_s = desk.line, desk.patience[band], self.now()
        until_s = min(deadline_s, now_s + patience.queue_s)
        ticket, displaced = line.scheduler.enqueue(
            query,
            band=band,
            now_s=now_s,
            deadline_s=until_s,
            patience_s=min(max(until_s - now_s, 0.0), patience.accepted_s),
            slots=line.slots,
        )
        if displaced is not None:
            self._turn_away(desk, displaced)
        granted: asyncio.Future[tuple[Grant, Replica]] = asyncio.get_running_loop().create_future()
        desk.waiting[ticket.number] = granted
        taken = False
        try:
            async with asyncio.timeout(until_s - now_s):
                slot = await granted
            taken = True
            return slot
        except TimeoutError:
            again_s = line.scheduler.expected_wait_s(band, query, line.slots)
            raise WaitExpired(line.model, until_s - now_s, again_s) from None
        finally:
            desk.waiting.pop(ticket.number, None)
            if not taken and not line.scheduler.withdraw(ticket) and _given(granted):
                line.undo(granted.result()[0])  # the grant crossed with a cancellation
                self._grant(desk)

    def _grant(self, desk: Desk) -> None:
        """Grant tickets while there is room."""
        line = desk.line
        while (step := line.next(self._draw(), self.now())) is not None:
            ticket, grant = step
            granted = desk.waiting.pop(ticket.number)
            if granted.done():
                line.undo(grant)
            else:
                granted.set_result((grant, desk.replicas[grant.server.id]))

    @staticmethod
    def _turn_away(desk: Desk, ticket: Ticket) -> None:
        granted = desk.waiting.pop(ticket.number)
        if not granted.done():
            granted.set_exception(desk.line.scheduler.full(desk.line.slots))


def _given(granted: "asyncio.Future[tuple[Grant, Replica]]") -> bool:
    return granted.done() and not granted.cancelled() and granted.exception() is None


def _patience(model: ModelSettings, band: str) -> Patience:
    """Give how long a band waits: its own settings, else the model's; batch work has no promise to miss."""
    own = next((one for one in model.bands if one.name == band), None)
    queue_s = own.queue_timeout_s if own is not None else None
    slo_ms = own.slo_ttft_ms if own is not None else None
    if slo_ms is None and band != "batch":
        slo_ms = model.slo_ttft_ms
    return Patience(
        model.queue_timeout_s if queue_s is None else queue_s,
        math.inf if slo_ms is None else slo_ms / 1000,
    )


class Slot:
    """A slot on a replica, to be released."""

    def __init__(self, dispatcher: Dispatcher, grant: Grant, replica: Replica) -> None:
        self._dispatcher = dispatcher
        self._grant = grant
        self.replica = replica

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def began(self) -> None:
        """Note that the first byte of the answer is there."""
        began(self._grant, self._dispatcher.now())

    def release(self) -> None:
        """Give it back, once."""
        self._dispatcher.release(self._grant)
