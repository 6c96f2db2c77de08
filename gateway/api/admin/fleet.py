"""``/admin/v1/models``, ``routes`` and ``replicas``: what is served, and by what.

The file owns models and routes; here they are read. Everything comes from memory.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from backends.clients.kubernetes import KubeError
from backends.replica import Phase, Replica
from backends.starts import Step
from backends.supervisor import CannotSleep
from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Limit, Page
from gateway.errors import Conflict, NotFound
from gateway.process import Process


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
    """The last lines of an engine that is not ready."""


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
        found = [_shown(process, one) for one in process.supervisor.replicas.values()]
        return frame.listed(found, lambda one: one.id, frame.window(limit, cursor))

    return [list_models, list_routes, list_replicas, *_replica_actions(process), *_model_actions(process)]


def _replica_actions(process: Process) -> list[HTTPRouteHandler]:
    def act(verb: str, summary: str, step: Callable[[str], Awaitable[None]]) -> HTTPRouteHandler:
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
            try:
                await step(replica_id)
            except CannotSleep as error:
                raise Conflict(str(error)) from None
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
        sync_to_thread=False,
    )
    def reclaim_replica(
        request: AdminRequest, replica_id: frame.ReplicaId, data: JSONBody[Notice]
    ) -> ShownReplica:
        """No new requests at once; running ones have the notice's time; a substitute is launched."""
        _known_replica(process, request, replica_id)
        process.supervisor.reclaim(replica_id, data.notice_s)
        process.scaler.reclaimed(process.supervisor.replicas[replica_id].model, replica_id)
        return _shown_by_id(process, replica_id)

    async def drain(replica_id: str) -> None:
        process.supervisor.drain(replica_id)

    async def resume(replica_id: str) -> None:
        process.supervisor.resume(replica_id)

    return [
        act("drain", "Take a replica out of routing", drain),
        act("resume", "Let a drained replica serve again", resume),
        act("sleep", "Have a replica give back its memory", process.supervisor.sleep),
        act("wake", "Have a sleeping replica serve again", process.supervisor.wake),
        reclaim_replica,
    ]


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
            process.scaler.pin(model_name, data.replicas)
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
        return await _adapted(process, model_name, "load", data.name, data.path)

    @post("/models/{model_name:str}/adapters/unload", summary="Unload a LoRA adapter everywhere", **docs)
    async def unload_adapter(
        request: AdminRequest, model_name: str, data: JSONBody[Adapter]
    ) -> dict[str, str]:
        """Replica id -> "ok", or what its engine said."""
        _known_model(process, request, model_name)
        return await _adapted(process, model_name, "unload", data.name)

    return [scale_model, load_adapter, unload_adapter]


async def _adapted(
    process: Process, model: str, verb: Literal["load", "unload"], name: str, path: str = ""
) -> dict[str, str]:
    """Have every ready replica of a model load or unload an adapter. Raises Conflict unless all did."""
    supervisor = process.supervisor
    ready = [
        one.id for one in supervisor.replicas.values() if one.model == model and one.phase is Phase.READY
    ]
    said = {one: await supervisor.adapter(one, verb, name, path) for one in ready}
    if not ready or any(said.values()):
        why = "; ".join(f"{one}: {text or 'ok'}" for one, text in said.items()) or "no replica is ready"
        raise Conflict(f"The adapter {name!r} is not {verb}ed everywhere: {why}.")
    return dict.fromkeys(said, "ok")


def _known_replica(process: Process, request: AdminRequest, replica_id: str) -> None:
    frame.permitted(request, "fleet.write")
    if replica_id not in process.supervisor.replicas:
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
    """Give how many replicas a model should have; None for one that is neither launched here nor pods."""
    found = process.cluster.shown(model) if process.cluster is not None else None
    return found or process.scaler.shown(model)


def _shown_by_id(process: Process, replica_id: str) -> ShownReplica:
    return _shown(process, process.supervisor.replicas[replica_id])


def _models(process: Process) -> Iterable[ShownModel]:
    for model in process.pipeline.catalogue.models.values():
        phases: dict[str, int] = {}
        for replica in process.supervisor.replicas.values():
            if replica.model == model.name:
                phases[str(replica.phase)] = phases.get(str(replica.phase), 0) + 1
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
        log=() if replica.phase is Phase.READY else process.supervisor.log_tail(replica.id, 5),
    )
