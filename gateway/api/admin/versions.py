"""``/admin/v1/models/{name}/versions``: the share of a model's traffic that each has, and one step back."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from backends.replica import Phase
from gateway import rollouts
from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.errors import Conflict, NotFound
from gateway.process import Process
from gateway.settings import ModelSettings

ShareField = Annotated[float, Meta(ge=0, le=1)]


class ShownVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version; ``keys`` are the names of the API keys that always get it."""

    name: str
    share: float
    previous: float | None
    keys: tuple[str, ...]
    ready: int


class Versions(msgspec.Struct, frozen=True):
    """A model's versions; ``previous`` is what a rollback puts in force, null before the first shift."""

    model: str
    data: list[ShownVersion]


class NewShares(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Version -> share; those left out get none, and together they are 1."""

    shares: dict[str, ShareField]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    docs: dict[str, Any] = {"responses": frame.ACTS, "status_code": 200, "tags": ["fleet"]}

    def model_of(request: AdminRequest, name: str, action: Any) -> ModelSettings:
        frame.permitted(request, action)
        model = process.pipeline.catalogue.models.get(name)
        if model is None:
            raise NotFound(f"There is no model {name!r}.")
        return model.settings

    async def shift(request: AdminRequest, model: ModelSettings, after: rollouts.Shares) -> Versions:
        before = process.rollouts.of(model).shares

        def write() -> None:
            with frame.writing(process.control, request) as change:
                rollouts.shift(change, model, before, after)

        await asyncio.to_thread(write)
        await process.follow_rollouts()
        return shown(process, model)

    @get(
        "/models/{model_name:str}/versions",
        summary="List a model's versions",
        responses=frame.READS,
        tags=["fleet"],
        sync_to_thread=False,
    )
    def list_versions(request: AdminRequest, model_name: str) -> Versions:
        """With the share in force, and the one before."""
        return shown(process, model_of(request, model_name, "fleet.read"))

    @post("/models/{model_name:str}/versions", summary="Shift traffic between versions", **docs)
    async def shift_versions(request: AdminRequest, model_name: str, data: JSONBody[NewShares]) -> Versions:
        """A canary, or a promotion; running requests finish where they are."""
        model = model_of(request, model_name, "fleet.write")
        try:
            after = rollouts.checked(model, data.shares)
        except rollouts.WrongShares as error:
            raise Conflict(f"shares: {error}.") from None
        return await shift(request, model, after)

    @post("/models/{model_name:str}/rollback", summary="Take back the last shift", **docs)
    async def roll_back(request: AdminRequest, model_name: str) -> Versions:
        """The shares before the last shift; a second rollback takes the first one back."""
        model = model_of(request, model_name, "fleet.write")
        previous = process.rollouts.of(model).previous
        if previous is None:
            raise Conflict(f"Nothing was shifted between versions of {model_name!r} yet.")
        return await shift(request, model, previous)

    return [list_versions, shift_versions, roll_back]


def shown(process: Process, model: ModelSettings) -> Versions:
    """Give what is in force now."""
    rollout = process.rollouts.of(model)
    ready = [
        one.version
        for one in process.supervisor.replicas.values()
        if one.model == model.name and one.phase is Phase.READY
    ]
    return Versions(
        model.name,
        [
            ShownVersion(
                name=one.name,
                share=rollout.shares[one.name],
                previous=None if rollout.previous is None else rollout.previous.get(one.name, 0.0),
                keys=one.keys,
                ready=ready.count(one.name),
            )
            for one in model.versions
        ],
    )
