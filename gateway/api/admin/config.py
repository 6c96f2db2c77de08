"""``/admin/v1/config``: reading the file again."""

import asyncio

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import SQLAlchemyError

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.api.fallback import log
from gateway.database import DatabaseError
from gateway.errors import InvalidRequest
from gateway.process import Process
from gateway.settings import ConfigError
from gateway.tenancy.access import EVERYTHING


class Reloaded(msgspec.Struct, frozen=True):
    """The names that are in force now."""

    models: list[str]
    routes: list[str]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    def names() -> Reloaded:
        settings = process.settings
        return Reloaded([one.name for one in settings.models], [one.name for one in settings.routes])

    def note(request: AdminRequest, before: Reloaded, after: Reloaded) -> None:
        with frame.writing(process.control, request) as change:
            states = (msgspec.to_builtins(before), msgspec.to_builtins(after))
            change.record("config.reload", (EVERYTHING, "config"), *states)

    @post(
        "/config/reload",
        summary="Read the configuration again",
        responses=frame.ACTS,
        status_code=200,
        tags=["config"],
    )
    async def reload_config(request: AdminRequest) -> Reloaded:
        """Put the file in force as it is now; a bad one changes nothing and is answered with its findings."""
        frame.permitted(request, "config.write")
        before = names()
        try:
            process.reload()
        except ConfigError as error:
            raise InvalidRequest(str(error)) from None
        process.tell_siblings()
        after = names()
        try:
            await asyncio.to_thread(note, request, before, after)
        except (SQLAlchemyError, DatabaseError):  # the file is in force even where nobody can write that down
            log.warning("the reload by %s is not in the audit log: no database", request.state.caller.actor)
        return after

    return [reload_config]
