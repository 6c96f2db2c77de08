"""``/admin/v1/models``, ``routes`` and ``replicas``: what is served, and by what.

The file owns models and routes; here they are read. Everything comes from memory.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler

from backends.replica import Replica
from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Limit, Page
from gateway.errors import NotFound
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

    def act(verb: str, summary: str, step: Callable[[str], None]) -> HTTPRouteHandler:
        @post(
            f"/replicas/{{replica_id:str}}/{verb}",
            name=f"{verb} replica",
            operation_id=f"{verb}Replica",
            summary=summary,
            responses=frame.ACTS,
            status_code=200,
            **docs,
        )
        def change_replica(request: AdminRequest, replica_id: frame.ReplicaId) -> ShownReplica:
            """Running requests finish in either case."""
            frame.permitted(request, "fleet.write")
            if replica_id not in process.supervisor.replicas:
                raise NotFound(f"There is no replica {replica_id!r}.")
            step(replica_id)
            return _shown(process, process.supervisor.replicas[replica_id])

        return change_replica

    return [
        list_models,
        list_routes,
        list_replicas,
        act("drain", "Take a replica out of routing", process.supervisor.drain),
        act("resume", "Let a drained replica serve again", process.supervisor.resume),
    ]


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
    )
