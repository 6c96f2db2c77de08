"""The fleet as a process of its own: it launches, watches and scales engines for gateways apart.

It serves nothing. It acts only while it holds the lease; a second one waits, and takes over when the first is
gone. Its end takes its engines along: they leave the gateways' routing first and finish what they have.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from backends.background import Background
from backends.clients import Clients
from backends.clients.probe import ClientProbe
from backends.launchers import launchers
from backends.replica import Phase
from backends.supervisor import Supervisor
from gateway import declared, fleet_rows, rollouts
from gateway.fleet_rows import Answer, Demand, Told
from gateway.loops import Loop
from gateway.orders import Order, Refused, carry_out
from gateway.scaling import Fleet, Scaler
from gateway.settings import Settings

log = logging.getLogger("switchgear.fleet")

LOG_LINES = 5
HEARD_S = 4.0
"""Until every gateway has heard that a replica leaves, and has told what it still has there."""


class LeaseLost(Exception):
    """Another fleet has taken over: this one must end."""


class Demands:
    """The gateways' demand, added up: what a scaler reads (``scaling.Work``)."""

    def __init__(self, leaving_since_s: Callable[[str], float | None]) -> None:
        self.all: list[Demand] = []
        self._leaving_since_s = leaving_since_s

    def running(self) -> dict[str, int]:
        """Give the requests under way per model."""
        return self._sums("running")

    def depth(self) -> dict[str, int]:
        """Give the requests that wait per model."""
        return self._sums("waiting")

    def busy(self, replica_id: str) -> int:
        """Give the requests on a replica; one more while gateways may not have heard that it leaves."""
        since_s = self._leaving_since_s(replica_id)
        unheard = since_s is not None and since_s < HEARD_S
        return sum(one.busy.get(replica_id, 0) for one in self.all) + unheard

    def held_s(self, model: str) -> float | None:
        """Give the longest that any gateway tells."""
        return self._longest("held_s", model)

    def ttft_s(self, model: str) -> float | None:
        """Give the longest that any gateway tells."""
        return self._longest("ttft_s", model)

    def _sums(self, field: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.all:
            for model, demand in one.models.items():
                found[model] = found.get(model, 0) + getattr(demand, field)
        return found

    def _longest(self, field: str, model: str) -> float | None:
        told = [getattr(one.models[model], field) for one in self.all if model in one.models]
        return max((one for one in told if one is not None), default=None)


class FleetHouse:
    """The parts of a fleet apart."""

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        environ: Mapping[str, str],
        engine_python: str,
        gpus: tuple[int, ...],
    ) -> None:
        self.settings, self.engine, self.wall = settings, engine, wall
        self._environ, self._python, self._now = environ, engine_python, now
        self.owner = f"{socket.gethostname()}-{os.getpid()}"
        self.clients = Clients()
        state_dir = Path(settings.server.state_dir) / "fleet"
        self.demands = Demands(self._leaving_since_s)
        self._handed_over: set[str] = set()  # urls of replicas whose machines go
        self._orders = Background()
        self._heard: set[str] = set()  # orders under way or done
        self.supervisor = Supervisor(
            (),
            launchers=launchers(state_dir, settings.fleet.orphan_s + fleet_rows.LEASE_S),
            probe=ClientProbe(self.clients),
            now=now,
            state_dir=state_dir,
            busy=self.demands.busy,
            gpus=gpus,
        )
        watched = self.supervisor
        seen = Fleet(lambda: watched.replicas, lambda: watched.loads, watched.load_time_s)
        self.scaler = Scaler(seen, self.demands, now, wall)
        self.scaler.declare, self.scaler.rouse = self._declare, watched.rouse
        self.scaler.rest = watched.rest
        self.supervisor.withdraw = self._handed_over.add
        self._rollouts = rollouts.Rollouts()
        self.scaler.shares = self._rollouts.in_use

    def loops(self) -> tuple[Loop, ...]:
        """Give what repeats while the lease is held."""
        return (
            Loop("reconcile", 0.5, self.supervisor.reconcile_once),
            Loop("probe", 1.0, self.supervisor.probe_once),
            Loop("scrape", 2.0, self.supervisor.scrape_once),
            Loop("scaling", 1.0, self._look),
            Loop("tell", 0.5, self._tell),
            Loop("orders", 0.25, self._obey),
        )

    async def take_lease(self) -> bool:
        """Take or renew the lease. Raises SQLAlchemyError."""
        return await asyncio.to_thread(fleet_rows.take_lease, self.engine, self.owner, self.wall())

    async def begin(self) -> None:
        """Declare what is wanted, take over what an earlier fleet left here, end the rest."""
        self.scaler.configure(self.settings.models)
        self.scaler.found(self.supervisor.left())
        await self.supervisor.sweep()

    async def end(self) -> None:
        """Take all replicas out of the gateways' routing, let them finish, end them, give the lease back."""
        for id_ in list(self.supervisor.replicas):
            self.supervisor.drain(id_)
        await self._tell()
        until_s = self._now() + self.settings.server.drain_s
        while self._now() < until_s and any(map(self.demands.busy, self.supervisor.replicas)):
            await asyncio.sleep(0.2)
            await self._hear()
        await self._orders.stop()
        await self.supervisor.stop()
        await self.clients.close()
        await asyncio.to_thread(fleet_rows.give_back, self.engine, self.owner)

    def _declare(self) -> None:
        specs = declared.specs(self.settings, self._environ, self._python, self.scaler)
        self.supervisor.declare([one for one in specs if one.launch is not None])

    async def _look(self) -> None:
        await self._hear()
        await self.scaler.look()

    async def _hear(self) -> None:
        """Read what the gateways have to do, and how the versions' traffic is shared."""

        def read() -> tuple[list[Demand], dict[str, rollouts.Rollout]]:
            return fleet_rows.told_demands(self.engine, self.wall()), rollouts.read(self.engine)

        self.demands.all, shifted = await asyncio.to_thread(read)
        if self._rollouts.adopt(shifted):
            self.scaler.configure(self.settings.models)
            self._declare()

    async def _tell(self) -> None:
        told = [
            Told(
                id=one.id,
                model=one.model,
                url=one.url,
                phase=one.phase,
                spot=one.spot,
                weight=one.weight,
                version=one.version,
                max_concurrency=one.max_concurrency,
                ready_in_s=self.supervisor.ready_in_s(one.id),
                reason=one.reason,
                since_s=self.wall() - (self._now() - one.since_s),
                start=self.supervisor.steps(one.id),
                log=self.supervisor.log_tail(one.id, LOG_LINES),
                adapters=tuple(self.supervisor.adapters(one.model)),
                hand_over=one.url in self._handed_over,
            )
            for one in self.supervisor.replicas.values()
        ]
        models = (one.name for one in self.settings.models)
        scalings = {name: shown for name in models if (shown := self.scaler.shown(name)) is not None}
        tell = partial(fleet_rows.tell_replicas, self.engine, told, scalings, self.wall())
        await asyncio.to_thread(tell)

    async def _obey(self) -> None:
        """Begin what operators have ordered; a slow order holds up no other."""
        found = await asyncio.to_thread(fleet_rows.open_orders, self.engine, self.wall())
        for id_, order in found.items():
            if id_ not in self._heard:
                self._orders.start(f"order {id_}", self._carry_out(id_, order))
        self._heard = set(found)

    async def _carry_out(self, id_: str, order: Order) -> None:
        """Do it, tell of the replicas as they are then, and answer."""
        try:
            answer = Answer(said=await carry_out(order, self.supervisor, self.scaler))
        except Refused as error:
            answer = Answer(refused=str(error))
        await self._tell()
        await asyncio.to_thread(fleet_rows.answer_order, self.engine, id_, answer)

    def _leaving_since_s(self, replica_id: str) -> float | None:
        seen = self.supervisor.replicas.get(replica_id)
        return self._now() - seen.since_s if seen is not None and seen.phase is Phase.DRAINING else None
