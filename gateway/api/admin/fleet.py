"""``/admin/v1/models``, ``routes`` and ``replicas``: what is served, and by what.

The file owns models and routes; here they are read. Everything comes from memory.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from backends.clients.kubernetes import KubeError
from backends.replica import Replica
from backends.starts import Step
from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Limit, Page
from gateway.errors import Conflict, NotFound
from gateway.fleet_rows import Told
from gateway.orders import Order, Refused, Verb, carry_out
from gateway.process import Process

NO_FLEET = {
    "desired": 0,
    "standby": 0,
    "min": 0,
    "max": 0,
    "pinned": None,
    "reason": "no fleet runs",
}


LOG_LINES = 20


class ShownModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model that is configured; ``replicas`` counts them by phase."""

    name: str
    kind: str
    engine: str
    upstream_model: str
    context_tokens: int | None
    price_version: str
    replicas: dict[str, int]
    scaling: dict[str, Any] | None
    """None for a model that runs elsewhere."""


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many replicas; null gives the number back to the autoscaler."""

    replicas: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None


class Notice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a reclaimed machine stays."""

    notice_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0


Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Adapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter that is loaded."""

    name: Text


class NewAdapter(Adapter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter and its directory on the replicas' machine."""

    path: Text


class ShownRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual model; the objective is the one of its fields that is set."""

    name: str
    tiers: tuple[str, ...]
    fallback: tuple[str, ...]
    objective: dict[str, float]


class ShownReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One serving process; ``since_s`` is how long it has been in its phase."""

    id: str
    model: str
    url: str
    phase: str
    reason: str
    in_phase_s: float
    spot: bool
    version: str
    running: int
    """Requests of this gateway."""
    start: tuple[Step, ...] = ()
    """The steps of its last start, in seconds; the last one of a start under way is not over."""
    log: tuple[str, ...] = ()
    """The last lines of its engine."""


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    docs: dict[str, Any] = {"tags": ["fleet"], "sync_to_thread": False}

    @get("/models", summary="List models", responses=frame.LISTS, **docs)
    def list_models(request: AdminRequest, limit: Limit = 50, cursor: Cursor = None) -> Page[ShownModel]:
        """Configured models by name."""
        frame.permitted(request, "fleet.read")
        return frame.listed(_models(process), lambda one: one.name, frame.window(limit, cursor))

    @get("/routes", summary="List routes", responses=frame.LISTS, **docs)
    def list_routes(request: AdminRequest, limit: Limit = 50, cursor: Cursor = None) -> Page[ShownRoute]:
        """Configured routes by name."""
        frame.permitted(request, "fleet.read")
        return frame.listed(_routes(process), lambda one: one.name, frame.window(limit, cursor))

    @get("/replicas", summary="List replicas", responses=frame.LISTS, **docs)
    def list_replicas(request: AdminRequest, limit: Limit = 50, cursor: Cursor = None) -> Page[ShownReplica]:
        """Replicas by id, with their phases."""
        frame.permitted(request, "fleet.read")
        return frame.listed(_replicas(process), lambda one: one.id, frame.window(limit, cursor))

    return [list_models, list_routes, list_replicas, *_replica_actions(process), *_model_actions(process)]


def _replica_actions(process: Process) -> list[HTTPRouteHandler]:
    def act(verb: Verb, summary: str) -> HTTPRouteHandler:
        @post(
            f"/replicas/{{replica_id:str}}/{verb}",
            name=f"{verb} replica",
            operation_id=f"{verb}Replica",
            summary=summary,
            responses=frame.ACTS,
            status_code=200,
            tags=["fleet"],
        )
        async def change_replica(request: AdminRequest, replica_id: frame.ReplicaId) -> ShownReplica:
            """Running requests finish in any case."""
            _known_replica(process, request, replica_id)
            await _obeyed(process, Order(verb=verb, target=replica_id))
            return _shown_by_id(process, replica_id)

        return change_replica

    @post(
        "/replicas/{replica_id:str}/reclaim",
        name="reclaim replica",
        operation_id="reclaimReplica",
        summary="Say that a replica's machine is taken away",
        responses=frame.ACTS,
        status_code=200,
        tags=["fleet"],
    )
    async def reclaim_replica(
        request: AdminRequest, replica_id: frame.ReplicaId, data: JSONBody[Notice]
    ) -> ShownReplica:
        """No new requests at once; running ones have the notice's time; a substitute is launched."""
        _known_replica(process, request, replica_id)
        await _obeyed(process, Order(verb="reclaim", target=replica_id, notice_s=data.notice_s))
        return _shown_by_id(process, replica_id)

    return [
        act("drain", "Take a replica out of routing"),
        act("resume", "Let a drained replica serve again"),
        act("sleep", "Have a replica give back its memory"),
        act("wake", "Have a sleeping replica serve again"),
        reclaim_replica,
    ]


async def _obeyed(process: Process, order: Order) -> Mapping[str, str]:
    """Have it done by whoever runs the engines. Raises Conflict with the reason where that cannot be."""
    apart = process.apart
    try:
        if order.target in apart.told or order.target in apart.models:
            return await apart.order(order)
        return await carry_out(order, process.supervisor, process.scaler)
    except Refused as error:
        raise Conflict(str(error)) from None


def _model_actions(process: Process) -> list[HTTPRouteHandler]:
    @post(
        "/models/{model_name:str}/scale",
        name="scale model",
        operation_id="scaleModel",
        summary="Set how many replicas a launched model has",
        responses=frame.ACTS,
        status_code=200,
        tags=["fleet"],
    )
    async def scale_model(request: AdminRequest, model_name: str, data: JSONBody[Scale]) -> ShownModel:
        """Holds until it is given back with null, or until the gateway ends; running requests finish."""
        _launched(process, request, model_name)
        cluster = process.cluster
        if cluster is None or model_name not in cluster:
            await _obeyed(process, Order(verb="scale", target=model_name, replicas=data.replicas))
        else:
            try:
                await cluster.pin(model_name, data.replicas)
            except KubeError as error:
                raise Conflict(f"The cluster did not take it: {error}.") from None
        return next(one for one in _models(process) if one.name == model_name)

    docs: dict[str, Any] = {"responses": frame.ACTS, "status_code": 200, "tags": ["fleet"]}

    @post("/models/{model_name:str}/adapters/load", summary="Load a LoRA adapter everywhere", **docs)
    async def load_adapter(
        request: AdminRequest, model_name: str, data: JSONBody[NewAdapter]
    ) -> dict[str, str]:
        """Replica id -> "ok", or what its engine said."""
        _known_model(process, request, model_name)
        order = Order(verb="load", target=model_name, adapter=data.name, path=data.path)
        return dict(await _obeyed(process, order))

    @post("/models/{model_name:str}/adapters/unload", summary="Unload a LoRA adapter everywhere", **docs)
    async def unload_adapter(
        request: AdminRequest, model_name: str, data: JSONBody[Adapter]
    ) -> dict[str, str]:
        """Replica id -> "ok", or what its engine said."""
        _known_model(process, request, model_name)
        return dict(await _obeyed(process, Order(verb="unload", target=model_name, adapter=data.name)))

    return [scale_model, load_adapter, unload_adapter]


def _known_replica(process: Process, request: AdminRequest, replica_id: str) -> None:
    frame.permitted(request, "fleet.write")
    if replica_id not in process.supervisor.replicas and replica_id not in process.apart.told:
        raise NotFound(f"There is no replica {replica_id!r}.")


def _known_model(process: Process, request: AdminRequest, name: str) -> None:
    frame.permitted(request, "fleet.write")
    if name not in process.pipeline.catalogue.models:
        raise NotFound(f"There is no model {name!r}.")


def _launched(process: Process, request: AdminRequest, name: str) -> None:
    _known_model(process, request, name)
    if _scaling(process, name) is None:
        raise Conflict(
            f"Model {name!r} is not launched here; its replicas are declared in the configuration."
        )


def _scaling(process: Process, model: str) -> dict[str, object] | None:
    """Give how many replicas a model should have; None for one that is neither launched nor pods."""
    if model in process.apart.models:
        return dict(process.apart.scalings.get(model, NO_FLEET))
    found = process.cluster.shown(model) if process.cluster is not None else None
    return found or process.scaler.shown(model)


def _shown_by_id(process: Process, replica_id: str) -> ShownReplica:
    return next(one for one in _replicas(process) if one.id == replica_id)


def _replicas(process: Process) -> Iterable[ShownReplica]:
    """Those watched here, and those of a fleet apart as it tells."""
    told = process.apart.told
    for replica in process.supervisor.replicas.values():
        if replica.id not in told:
            yield _shown(process, replica)
    for one in told.values():
        yield _heard(process, one)


def _models(process: Process) -> Iterable[ShownModel]:
    for model in process.pipeline.catalogue.models.values():
        phases: dict[str, int] = {}
        for replica in _replicas(process):
            if replica.model == model.name:
                phases[replica.phase] = phases.get(replica.phase, 0) + 1
        yield ShownModel(
            name=model.name,
            kind=model.settings.kind,
            engine=model.settings.engine,
            upstream_model=model.settings.upstream_name,
            context_tokens=model.settings.context_tokens,
            price_version=process.control.prices.find(model.name, "", process.control.wall()).version,
            replicas=phases,
            scaling=_scaling(process, model.name),
        )


def _routes(process: Process) -> Iterable[ShownRoute]:
    for route in process.settings.routes:
        aims = msgspec.to_builtins(route.objective)
        yield ShownRoute(
            name=route.name,
            tiers=route.tiers,
            fallback=route.fallback,
            objective={name: value for name, value in aims.items() if value is not None},
        )


def _heard(process: Process, one: Told) -> ShownReplica:
    return ShownReplica(
        id=one.id,
        model=one.model,
        url=one.url,
        phase=str(one.phase),
        reason=one.reason,
        in_phase_s=max(0.0, process.control.wall() - one.since_s),
        spot=one.spot,
        version=one.version,
        running=process.scaler.busy(one.id),
        start=one.start,
        log=one.log,
    )


def _shown(process: Process, replica: Replica) -> ShownReplica:
    return ShownReplica(
        id=replica.id,
        model=replica.model,
        url=replica.url,
        phase=str(replica.phase),
        reason=replica.reason,
        in_phase_s=max(0.0, process.now() - replica.since_s),
        spot=replica.spot,
        version=replica.version,
        running=process.scaler.busy(replica.id),
        start=process.supervisor.steps(replica.id),
        log=process.supervisor.log_tail(replica.id, LOG_LINES),
    )
