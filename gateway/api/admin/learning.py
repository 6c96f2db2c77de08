"""``/admin/v1/routing/learning``: what labels of live traffic have taught each route, and the way back."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.errors import NotFound
from gateway.learning import Learnt
from gateway.process import Process
from gateway.tenancy.access import EVERYTHING

DOCS: dict[str, Any] = {"tags": ["fleet"]}


class Lessons(msgspec.Struct, frozen=True):
    """Of each route that has labels."""

    data: list[Learnt]


class Reset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which route."""

    route: Annotated[str, Meta(min_length=1, max_length=200)]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    @get("/routing/learning", summary="Show what was learnt", responses=frame.READS, **DOCS)
    async def show_learning(request: AdminRequest) -> Lessons:
        """Labels, regret, and the trials of challengers against the shipped order, in this process."""
        frame.permitted(request, "fleet.read")
        return Lessons(process.learning.learnt())

    def audit(request: AdminRequest, before: Learnt) -> None:
        with frame.writing(process.control, request) as change:
            subject, shown = (EVERYTHING, before.route), msgspec.to_builtins(before)
            change.record("routing.reset", subject, shown, None)

    @post(
        "/routing/learning/reset",
        summary="Go back to what is shipped", responses=frame.ACTS, status_code=200, **DOCS,
    )  # fmt: skip
    async def reset_learning(request: AdminRequest, data: JSONBody[Reset]) -> Lessons:
        """The shipped order and quality are in force again when this is answered; the labels stay."""
        frame.permitted(request, "fleet.write")
        before = next((one for one in process.learning.learnt() if one.route == data.route), None)
        if before is None:
            raise NotFound(f"Nothing was learnt about a route {data.route!r}.", param="route")
        await asyncio.to_thread(audit, request, before)
        process.learning.reset(data.route)
        return Lessons(process.learning.learnt())

    return [show_learning, reset_learning]
