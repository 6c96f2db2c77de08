"""``/admin/v1/routing/learning``: what labels of live traffic have taught each route, and the ways back."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway import lessons
from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.errors import Conflict, NotFound
from gateway.learning import Learnt
from gateway.process import Process

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
        """Labels, regret, trials of challengers against the shipped order; the same in all processes."""
        frame.permitted(request, "fleet.read")
        return Lessons(process.learning.learnt())

    def known(route: str) -> None:
        if all(one.route != route for one in process.learning.learnt()):
            raise NotFound(f"Nothing was learnt about a route {route!r}.", param="route")

    def reset(request: AdminRequest, route: str) -> None:
        with frame.writing(process.control, request) as change:
            lessons.reset(change, route)

    def restore(request: AdminRequest, route: str) -> None:
        with frame.writing(process.control, request) as change:
            if not lessons.restore(change, route):
                raise Conflict(f"The route {route!r} was not reset, or that was taken back.", param="route")

    @post(
        "/routing/learning/reset",
        summary="Go back to what is shipped", responses=frame.ACTS, status_code=200, **DOCS,
    )  # fmt: skip
    async def reset_learning(request: AdminRequest, data: JSONBody[Reset]) -> Lessons:
        """The shipped order and quality are in force here when this is answered, elsewhere within seconds.

        It holds after a restart, too. The labels that there are count no more; new ones may teach again.
        """
        frame.permitted(request, "fleet.write")
        known(data.route)
        await asyncio.to_thread(reset, request, data.route)
        await process.learning.follow()
        return Lessons(process.learning.learnt())

    @post(
        "/routing/learning/restore",
        summary="Take the last reset back", responses=frame.ACTS, status_code=200, **DOCS,
    )  # fmt: skip
    async def restore_learning(request: AdminRequest, data: JSONBody[Reset]) -> Lessons:
        """What was in force before it is so again, and the labels that were set aside count."""
        frame.permitted(request, "fleet.write")
        known(data.route)
        await asyncio.to_thread(restore, request, data.route)
        await process.learning.follow()
        return Lessons(process.learning.learnt())

    return [show_learning, reset_learning, restore_learning]
