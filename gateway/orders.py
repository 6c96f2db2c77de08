"""What an operator has a fleet do: one list of verbs, for a gateway's own fleet and for one apart."""

from collections.abc import Mapping
from typing import Literal, cast

import msgspec

from backends.replica import Phase
from backends.supervisor import CannotSleep, Supervisor
from gateway.scaling import Scaler

Verb = Literal["drain", "resume", "sleep", "wake", "reclaim", "scale", "load", "unload"]


class Refused(Exception):
    """The fleet cannot do it; the text says why."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order; ``target`` is a replica's id, or for the last three verbs a model's name."""

    verb: Verb
    target: str
    notice_s: float = 30.0
    replicas: int | None = None
    adapter: str = ""
    path: str = ""


async def carry_out(order: Order, supervisor: Supervisor, scaler: Scaler) -> Mapping[str, str]:
    """Do it; gives what each replica said to an adapter, else nothing. Raises Refused."""
    target = order.target
    try:
        match order.verb:
            case "drain":
                supervisor.drain(target)
            case "resume":
                supervisor.resume(target)
            case "sleep":
                await supervisor.sleep(target)
            case "wake":
                await supervisor.wake(target)
            case "reclaim":
                supervisor.reclaim(target, order.notice_s)
                scaler.reclaimed(supervisor.replicas[target].model, target)
            case "scale":
                scaler.pin(target, order.replicas)
            case _:
                return await _adapted(order, supervisor)
    except KeyError:
        raise Refused(f"The fleet has no {target!r}.") from None
    except CannotSleep as error:
        raise Refused(str(error)) from None
    return {}


async def _adapted(order: Order, supervisor: Supervisor) -> Mapping[str, str]:
    """Have every ready replica of a model load or unload an adapter. Raises Refused unless all did."""
    verb = cast("Literal['load', 'unload']", order.verb)
    ready = [
        one.id
        for one in supervisor.replicas.values()
        if one.model == order.target and one.phase is Phase.READY
    ]
    said = {one: await supervisor.adapter(one, verb, order.adapter, order.path) for one in ready}
    if not ready or any(said.values()):
        why = "; ".join(f"{one}: {text or 'ok'}" for one, text in said.items()) or "no replica is ready"
        raise Refused(f"The adapter {order.adapter!r} is not {verb}ed everywhere: {why}.")
    return dict.fromkeys(said, "ok")
