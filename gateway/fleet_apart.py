"""A gateway whose engines another process runs (`[fleet] apart = true`): replicas heard of, demand told.

While the fleet, or the database, is silent the replicas that were last heard of stay in routing as long as
they answer: a fleet that died takes its engines along, and their probes say so.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping

import sqlalchemy as sa

from backends.load_times import UNKNOWN_S
from backends.replica import Phase
from backends.wanted import ReplicaSpec
from gateway import fleet_rows
from gateway.dispatcher import Dispatcher
from gateway.fleet_rows import Demand, ModelDemand, Told
from gateway.orders import Order, Refused
from gateway.settings import ModelSettings

ANSWER_S = 150.0
"""So long an operator waits; to put a replica to sleep takes until its requests are done."""
POLL_S = 0.2


class FleetApart:
    """What is known of a fleet that runs elsewhere."""

    def __init__(
        self, dispatcher: Dispatcher, opened: Callable[[], sa.Engine], wall: Callable[[], float], name: str
    ) -> None:
        self._dispatcher, self._opened, self._wall, self._name = dispatcher, opened, wall, name
        self._told: dict[str, Told] = {}
        self.models: dict[str, ModelSettings] = {}
        """Those that the fleet launches."""
        self.declare: Callable[[], None] = lambda: None
        self.withdraw: Callable[[str], None] = lambda url: None
        """Called with the url of a replica whose machine goes."""
        self.scalings: fleet_rows.Scalings = {}
        """How many replicas the fleet wants of each model."""

    @property
    def told(self) -> Mapping[str, Told]:
        """The replicas as the fleet told last, by id."""
        return self._told

    async def order(self, order: Order) -> Mapping[str, str]:
        """Have the fleet do something, and wait until it is done.

        Raises Refused, SQLAlchemyError or DatabaseError.
        """
        engine, id_ = self._opened(), uuid.uuid4().hex
        if not await asyncio.to_thread(fleet_rows.runs, engine, self._wall()):
            raise Refused("No fleet runs: start 'switchgear fleet run'.")
        await asyncio.to_thread(fleet_rows.give_order, engine, id_, order, self._wall())
        for _ in range(round(ANSWER_S / POLL_S)):
            await asyncio.sleep(POLL_S)
            answer = await asyncio.to_thread(fleet_rows.answer_to, engine, id_)
            if answer is not None:
                await self.step()
                if answer.refused:
                    raise Refused(answer.refused)
                return answer.said
        raise Refused(f"The fleet has not done it within {ANSWER_S:.0f} s.")

    async def step(self) -> None:
        """Hear and tell. Raises SQLAlchemyError or DatabaseError."""
        engine, now_s, demand = self._opened(), self._wall(), self._demand()

        def exchange() -> tuple[list[Told], fleet_rows.Scalings]:
            fleet_rows.tell_demand(engine, self._name, demand, now_s)
            return fleet_rows.told_replicas(engine, now_s), fleet_rows.told_scalings(engine, now_s)

        told, self.scalings = await asyncio.to_thread(exchange)
        heard: dict[str, Told] = {one.id: one for one in told}
        silent = bool(self._told) and not heard
        if silent and (await asyncio.to_thread(fleet_rows.holder, engine)) != "":
            return  # a fleet that has just begun, or is silent: the old ones answer, or fail their probes
        before, self._told = self._told, heard
        if [self._spec(one) for one in before.values()] != [self._spec(one) for one in heard.values()]:
            self.declare()
        for one in heard.values():
            if one.hand_over:
                self.withdraw(one.url)

    def specs(self) -> Iterable[ReplicaSpec]:
        """Say which replicas serve, for the gateway's own supervisor to watch."""
        found = (self._spec(one) for one in self._told.values())
        return [one for one in found if one is not None]

    def adapters(self, model: str) -> set[str]:
        """Give the adapters that the model's replicas have."""
        return {name for one in self._told.values() if one.model == model for name in one.adapters}

    def holds(self, model: str) -> bool:
        """Tell whether a request of a model without replicas waits for the fleet to start one."""
        launch = self.models[model].launch if model in self.models else None
        return launch is not None and launch.when_asleep == "hold" and not launch.min_replicas

    def expected_ready_s(self, model: str) -> float | None:
        """Give the seconds until the model serves, as the fleet tells; None for one that is not its own."""
        if model not in self.models:
            return None
        waits = [one.ready_in_s for one in self._told.values() if one.model == model]
        return min((wait for wait in waits if wait is not None), default=UNKNOWN_S)

    def _spec(self, one: Told) -> ReplicaSpec | None:
        settings = self.models.get(one.model)
        if settings is None or one.phase is not Phase.READY:
            return None
        return ReplicaSpec(
            id=one.id,
            model=one.model,
            engine=settings.engine,
            url=one.url,
            upstream_model=settings.upstream_name,
            kind=settings.kind,
            context_tokens=settings.context_tokens,
            spot=one.spot,
            weight=one.weight,
            version=one.version,
            max_concurrency=one.max_concurrency,
        )

    def _demand(self) -> Demand:
        dispatcher = self._dispatcher
        running, waiting = dispatcher.running(), dispatcher.depth()
        return Demand(
            models={
                name: ModelDemand(
                    running=running.get(name, 0),
                    waiting=waiting.get(name, 0),
                    held_s=dispatcher.held_s(name),
                    ttft_s=dispatcher.ttft_s(name),
                )
                for name in self.models
            },
            busy={one: count for one in self._told if (count := dispatcher.busy(one))},
        )
