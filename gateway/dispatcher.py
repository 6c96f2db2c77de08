"""The shell of ``routing.scheduler``: waiting tasks, slots on replicas, deadlines.

A slot is taken when ``slot(...)`` is entered and given back when it is left, whatever happened; the next
ticket in line is granted in the same moment.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from backends.replica import Phase, Replica
from gateway.errors import ModelLoading
from routing.decision import Candidate, Dispatch, Enqueue, Query, decide
from routing.policies import POLICIES
from routing.scheduler import Scheduler, WaitExpired

BANDS: Mapping[str, int] = {"interactive": 0, "standard": 1, "batch": 2}


class Line(msgspec.Struct, eq=False):
    """One model: its ready replicas, its queue and what runs."""

    model: str
    policy: str
    queue_timeout_s: float
    scheduler: Scheduler
    replicas: tuple[Replica, ...] = ()
    waiting: dict[int, tuple[Query, asyncio.Future[Replica]]] = {}
    sequence: int = 0


class Load(msgspec.Struct, eq=False):
    """What this gateway has under way on one replica."""

    running: int = 0
    tokens: int = 0


class Dispatcher:
    """Gives slots on replicas, model by model."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        draw: Callable[[], float],
        expected_ready_s: Callable[[str], float | None],
    ) -> None:
        self.now = now
        self._draw = draw
        self._expected_ready_s = expected_ready_s
        self._lines: dict[str, Line] = {}
        self._loads: dict[str, Load] = {}

    def configure(self, models: Iterable[tuple[str, str, int, float]]) -> None:
        """Set the models: name, policy, queue limit, queue time-out (s). Known ones keep their queue."""
        lines = {}
        for name, policy, limit, timeout_s in models:
            line = self._lines.get(name) or Line(name, policy, timeout_s, Scheduler(name, limit), waiting={})
            line.policy, line.queue_timeout_s, line.scheduler.limit = policy, timeout_s, limit
            lines[name] = line
        self._lines = lines

    def update(self, replicas: Mapping[str, Replica]) -> None:
        """Take a new snapshot of the fleet; tickets that fit now are granted."""
        for line in self._lines.values():
            line.replicas = tuple(
                one for one in replicas.values() if one.model == line.model and one.phase is Phase.READY
            )
            self._grant(line)

    def ready(self, model: str) -> bool:
        """Tell whether any replica of the model is ready."""
        return bool(self._lines[model].replicas)

    def depth(self) -> dict[str, int]:
        """Give the number of waiting requests per model."""
        return {name: len(line.scheduler) for name, line in self._lines.items()}

    def running(self) -> dict[str, int]:
        """Give the number of running requests per model."""
        return {
            name: sum(self._load(one.id).running for one in line.replicas)
            for name, line in self._lines.items()
        }

    def slot(self, query: Query, *, band: str, deadline_s: float) -> "Slot":
        """Give a context that holds a slot for the query, waiting in line for it if need be.

        Entering raises ModelLoading, QueueFull or WaitExpired.
        """
        return Slot(self, query, BANDS[band], deadline_s)

    async def acquire(self, query: Query, band: int, deadline_s: float) -> Replica:
        """Take a slot; see ``slot``."""
        line = self._lines.get(query.model)
        if line is None:  # a reload took it away between two attempts
            raise ModelLoading(f"The model {query.model!r} is no longer served.")
        line.sequence += 1
        query = msgspec.structs.replace(query, sequence=line.sequence, draw=self._draw())
        replica = self._choose(line, query)
        if replica is None:
            replica = await self._wait(line, query, band, deadline_s)
        return replica

    def release(self, replica: Replica, query: Query, held_s: float) -> None:
        """Give back a slot."""
        self._add(replica.id, query, -1)
        line = self._lines.get(replica.model)
        if line is not None:
            line.scheduler.observe_service(held_s)
            if len(line.scheduler):
                self._grant(line)

    def _choose(self, line: Line, query: Query) -> Replica | None:
        """Take a free slot; None where all are busy, ModelLoading where there is no replica."""
        loads = self._loads
        candidates = []
        for one in line.replicas:
            load = loads.get(one.id) or self._load(one.id)
            candidates.append(
                Candidate(
                    id=one.id,
                    running=load.running,
                    limit=one.max_concurrency,
                    running_tokens=load.tokens,
                    weight=one.weight,
                )
            )
        match decide(query, candidates, POLICIES[line.policy]):
            case Dispatch(chosen):
                replica = next(one for one in line.replicas if one.id == chosen)
                self._add(chosen, query, 1)
                return replica
            case Enqueue():
                return None
            case _:
                wait_s = self._expected_ready_s(line.model)
                when = "" if wait_s is None else f"; it is expected in about {max(1, round(wait_s))} s"
                raise ModelLoading(
                    f"No replica of model {line.model!r} is ready{when}.",
                    retry_after_s=10.0 if wait_s is None else wait_s,
                )

    async def _wait(self, line: Line, query: Query, band: int, deadline_s: float) -> Replica:
        now_s = self.now()
        until_s = min(deadline_s, now_s + line.queue_timeout_s)
        ticket = line.scheduler.enqueue(band=band, now_s=now_s, deadline_s=until_s)
        granted: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        line.waiting[ticket.number] = (query, granted)
        taken = False
        try:
            async with asyncio.timeout(until_s - now_s):
                replica = await granted
            taken = True
            return replica
        except TimeoutError:
            raise WaitExpired(line.model, until_s - now_s) from None
        finally:
            line.waiting.pop(ticket.number, None)
            if (
                not taken
                and not line.scheduler.withdraw(ticket)
                and granted.done()
                and not granted.cancelled()
            ):
                self._add(granted.result().id, query, -1)  # the grant crossed with a cancellation
                self._grant(line)

    def _grant(self, line: Line) -> None:
        """Grant tickets while there is room."""
        while len(line.scheduler) and any(
            self._load(one.id).running < one.max_concurrency for one in line.replicas
        ):
            ticket = line.scheduler.grant(self.now())
            if ticket is None:
                return
            query, granted = line.waiting.pop(ticket.number)
            # Whoever has waited takes what is free, also a replica that it was tried on.
            anywhere = msgspec.structs.replace(query, exclude=frozenset())
            replica = self._choose(line, query) or self._choose(line, anywhere)
            if replica is not None and not granted.done():
                granted.set_result(replica)
            elif replica is not None:
                self._add(replica.id, query, -1)

    def _load(self, replica: str) -> Load:
        return self._loads.setdefault(replica, Load())

    def _add(self, replica: str, query: Query, sign: int) -> None:
        load = self._loads[replica]
        load.running += sign
        load.tokens += sign * query.prompt_tokens


class Slot:
    """A slot on a replica while the context is open."""

    def __init__(self, dispatcher: Dispatcher, query: Query, band: int, deadline_s: float) -> None:
        self._dispatcher = dispatcher
        self._query = query
        self._band = band
        self._deadline_s = deadline_s
        self._since_s = 0.0
        self.replica: Replica

    async def __aenter__(self) -> Self:
        self.replica = await self._dispatcher.acquire(self._query, self._band, self._deadline_s)
        self._since_s = self._dispatcher.now()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held_s = self._dispatcher.now() - self._since_s
        self._dispatcher.release(self.replica, self._query, held_s)
