"""What a fleet and the gateways tell each other, where they are processes apart: rows of SQL, a few a second.

Whoever holds the lease runs the engines; who does not renew it is taken for dead. The fleet tells which
replicas there are, the gateways what they have to do. What is older than `FRESH_S` is not believed. Clocks
must agree within seconds. Everything here is synchronous, runs in threads, and raises SQLAlchemyError.
"""

from collections.abc import Iterable, Mapping

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from backends.replica import Phase
from backends.starts import Step
from gateway.orders import Order
from gateway.tables import fleet_demand, fleet_lease, fleet_models, fleet_orders, fleet_replicas

LEASE = "fleet"
LEASE_S = 15.0
FRESH_S = 15.0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as the fleet tells."""

    id: str
    model: str
    url: str
    phase: Phase
    spot: bool
    weight: float
    version: str
    max_concurrency: int
    ready_in_s: float | None
    """0: now; None: nobody can say."""
    reason: str = ""
    since_s: float = 0.0
    """Since when it is in its phase, by the wall clock."""
    start: tuple[Step, ...] = ()
    log: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """Of its model."""
    hand_over: bool = False
    """Its machine goes: what runs there should go on elsewhere."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order: refused with these words, or done."""

    refused: str = ""
    said: Mapping[str, str] = {}


Scalings = Mapping[str, Mapping[str, object]]
"""model -> what the admin API shows of its number of replicas"""


class ModelDemand(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway has to do for a model."""

    running: int
    waiting: int
    held_s: float | None
    ttft_s: float | None


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway has to do; ``busy`` are its requests by replica."""

    models: Mapping[str, ModelDemand] = {}
    busy: Mapping[str, int] = {}


def take_lease(engine: sa.Engine, owner: str, now_s: float, name: str = LEASE) -> bool:
    """Take or renew a lease; tells whether it is the owner's now."""
    mine = sa.or_(fleet_lease.c.owner == owner, fleet_lease.c.until_s < now_s)
    row = {"owner": owner, "until_s": now_s + LEASE_S}
    try:
        with engine.begin() as connection:
            renewed = sa.update(fleet_lease).where(fleet_lease.c.name == name, mine).values(**row)
            if connection.execute(renewed).rowcount:
                return True
            connection.execute(sa.insert(fleet_lease).values(name=name, **row))
            return True
    except IntegrityError:  # it is there, and somebody else's
        return False


def holder(engine: sa.Engine) -> str:
    """Give who has the lease; "" for nobody."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(fleet_lease.c.owner).where(fleet_lease.c.name == LEASE))
        return str(found.scalar_one_or_none() or "")


def runs(engine: sa.Engine, now_s: float) -> bool:
    """Tell whether a fleet has renewed its lease lately."""
    with engine.connect() as connection:
        query = sa.select(fleet_lease.c.owner).where(fleet_lease.c.until_s >= now_s)
        return connection.execute(query).first() is not None


def give_order(engine: sa.Engine, id_: str, order: Order, now_s: float) -> None:
    """Have the fleet do something; old orders are forgotten."""
    row = {"id": id_, "asked": msgspec.to_builtins(order), "asked_s": now_s}
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet_orders).where(fleet_orders.c.asked_s < now_s - 60 * FRESH_S))
        connection.execute(sa.insert(fleet_orders).values(**row))


def open_orders(engine: sa.Engine, now_s: float) -> dict[str, Order]:
    """Give the fresh orders that nobody has answered, the oldest first."""
    mine = (fleet_orders.c.answer.is_(None), fleet_orders.c.asked_s >= now_s - FRESH_S)
    query = sa.select(fleet_orders.c.id, fleet_orders.c.asked).where(*mine).order_by(fleet_orders.c.asked_s)
    with engine.connect() as connection:
        return {id_: msgspec.convert(asked, Order) for id_, asked in connection.execute(query)}


def answer_order(engine: sa.Engine, id_: str, answer: Answer) -> None:
    """Say what became of an order."""
    with engine.begin() as connection:
        told = sa.update(fleet_orders).where(fleet_orders.c.id == id_)
        connection.execute(told.values(answer=msgspec.to_builtins(answer)))


def answer_to(engine: sa.Engine, id_: str) -> Answer | None:
    """Give what became of an order; None while nobody has said."""
    with engine.connect() as connection:
        query = sa.select(fleet_orders.c.answer).where(fleet_orders.c.id == id_)
        found = connection.execute(query).scalar_one_or_none()
    return None if found is None else msgspec.convert(found, Answer)


def give_back(engine: sa.Engine, owner: str) -> None:
    """End the lease, and what was told under it."""
    with engine.begin() as connection:
        ours = sa.delete(fleet_lease).where(fleet_lease.c.name == LEASE, fleet_lease.c.owner == owner)
        if connection.execute(ours).rowcount:
            connection.execute(sa.delete(fleet_replicas))
            connection.execute(sa.delete(fleet_models))


def tell_replicas(engine: sa.Engine, replicas: Iterable[Told], scalings: Scalings, now_s: float) -> None:
    """Replace what is told of the replicas, and of how many there should be."""
    rows = [
        {"id": one.id, "model": one.model, "state": msgspec.to_builtins(one), "told_s": now_s}
        for one in replicas
    ]
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet_replicas))
        connection.execute(sa.delete(fleet_models))
        if rows:
            connection.execute(sa.insert(fleet_replicas), rows)
        for name, scaling in scalings.items():
            connection.execute(sa.insert(fleet_models).values(name=name, scaling=scaling, told_s=now_s))


def told_scalings(engine: sa.Engine, now_s: float) -> Scalings:
    """Give how many replicas a living fleet wants of each model."""
    fresh = fleet_models.c.told_s >= now_s - FRESH_S
    with engine.connect() as connection:
        rows = connection.execute(sa.select(fleet_models.c.name, fleet_models.c.scaling).where(fresh))
        return {str(name): scaling for name, scaling in rows}


def told_replicas(engine: sa.Engine, now_s: float) -> list[Told]:
    """Give the replicas that a living fleet told of."""
    fresh = fleet_replicas.c.told_s >= now_s - FRESH_S
    with engine.connect() as connection:
        rows = connection.execute(sa.select(fleet_replicas.c.state).where(fresh)).scalars()
        return [msgspec.convert(row, Told) for row in rows]


def tell_demand(engine: sa.Engine, gateway: str, demand: Demand, now_s: float) -> None:
    """Replace what one gateway has to do; those that are long gone are forgotten."""
    gone = sa.or_(fleet_demand.c.gateway == gateway, fleet_demand.c.told_s < now_s - 60 * FRESH_S)
    row = {"gateway": gateway, "demand": msgspec.to_builtins(demand), "told_s": now_s}
    with engine.begin() as connection:
        connection.execute(sa.delete(fleet_demand).where(gone))
        connection.execute(sa.insert(fleet_demand).values(**row))


def told_demands(engine: sa.Engine, now_s: float) -> list[Demand]:
    """Give what the living gateways have to do."""
    fresh = fleet_demand.c.told_s >= now_s - FRESH_S
    with engine.connect() as connection:
        rows = connection.execute(sa.select(fleet_demand.c.demand).where(fresh)).scalars()
        return [msgspec.convert(row, Demand) for row in rows]
