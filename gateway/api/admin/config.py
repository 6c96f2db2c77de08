"""``/admin/v1/config``: the configuration file: reading it again, trying another text, putting it in force.

A change is written to the file and in force in this process when it is answered; the gateway's other
processes follow at once. Keys that only a start puts in force are named. The audit log gets the digests and
the names of the keys that changed, never the text.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta
from sqlalchemy.exc import SQLAlchemyError

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.api.fallback import log
from gateway.database import DatabaseError
from gateway.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed
from gateway.process import Process
from gateway.settings import ConfigError
from gateway.staging import ConfigFile, KeptFile, NotOurs, Overtaken, Trial, digest, with_objectives
from gateway.tenancy.access import EVERYTHING

FileText = Annotated[str, Meta(max_length=1_000_000, description="The whole file, TOML.")]
Digest = Annotated[str, Meta(max_length=40, description="`digest` of the file that it replaces.")]
Aim = dict[str, Annotated[float, Meta(ge=0, le=1e9)]]
DOCS: dict[str, Any] = {"responses": frame.ACTS, "status_code": 200, "tags": ["config"]}


class Reloaded(msgspec.Struct, frozen=True):
    """The names that are in force now, and the changed keys that only a restart puts in force."""

    models: list[str]
    routes: list[str]
    waiting: list[str]


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The file as it is.

    ``read_only`` says why it cannot be changed from here; ``waiting`` names the keys that the file has and
    the process gets at its next start; ``finding`` is what is wrong with a file that somebody else changed.
    """

    path: str
    text: str
    digest: str
    read_only: str | None
    waiting: list[str]
    finding: str | None
    earlier: list[KeptFile]


class Staged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text (null: the file's) with other objectives of routes: route -> the one aim it gets."""

    text: FileText | None = None
    objectives: dict[str, Aim] = {}


class Applied(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text in place of the file's."""

    text: FileText
    over: Digest


class TakenBack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which earlier text in place of the file's."""

    id: Annotated[str, Meta(max_length=40)]
    over: Digest


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    return [*_reading(process), *_changing(process)]


def _reading(process: Process) -> list[HTTPRouteHandler]:
    @post("/config/reload", summary="Read the configuration again", **DOCS)
    async def reload_config(request: AdminRequest) -> Reloaded:
        """Put the file in force as it is now; a bad one changes nothing and is answered with its findings."""
        frame.permitted(request, "config.write")
        before = await asyncio.to_thread(_in_force, process)
        _refused_as_invalid(process.reload)
        process.tell_siblings()
        after = await asyncio.to_thread(_in_force, process)
        states = (msgspec.to_builtins(before), msgspec.to_builtins(after))
        await _noted(process, request, "config.reload", states)
        return after

    @get("/config", summary="Read the configuration file", responses=frame.READS, tags=["config"])
    async def read_config(request: AdminRequest) -> Configuration:
        """Text, digest, what waits for a restart, and the texts before it."""
        frame.permitted(request, "config.write")
        return await asyncio.to_thread(_shown, process)

    @post("/config/trial", summary="Try a configuration", **DOCS)
    async def try_config(request: AdminRequest, data: JSONBody[Staged]) -> Trial:
        """What a text would change; nothing is written."""
        frame.permitted(request, "config.write")
        file = _file(process)

        def trial() -> Trial:
            text = file.read() if data.text is None else data.text
            return file.tried(with_objectives(text, data.objectives) if data.objectives else text)

        return await asyncio.to_thread(_refused_as_invalid, trial)

    @get(
        "/config/earlier/{file_id:str}",
        summary="Read an earlier file",
        responses=frame.READS,
        tags=["config"],
    )
    async def read_earlier(request: AdminRequest, file_id: frame.Id) -> Trial:
        """Its text, and what it would change."""
        frame.permitted(request, "config.write")
        file = _file(process)
        text = await asyncio.to_thread(file.kept, file_id)
        if text is None:
            raise NotFound(f"There is no earlier configuration {file_id!r}.")
        return await asyncio.to_thread(_refused_as_invalid, lambda: file.tried(text))

    return [reload_config, read_config, try_config, read_earlier]


def _changing(process: Process) -> list[HTTPRouteHandler]:
    @put("/config", summary="Replace the configuration file", **DOCS | {"responses": frame.CHANGES})
    async def apply_config(request: AdminRequest, data: JSONBody[Applied]) -> Configuration:
        """Written to the file and in force when this is answered; a wrong one changes nothing."""
        frame.permitted(request, "config.write")
        return await replaced(request, "config.apply", data.text, data.over)

    @post("/config/rollback", summary="Take a change back", **DOCS | {"responses": frame.CHANGES})
    async def take_back(request: AdminRequest, data: JSONBody[TakenBack]) -> Configuration:
        """An earlier text in place of the file's, which is kept in its turn."""
        frame.permitted(request, "config.write")
        text = await asyncio.to_thread(_file(process).kept, data.id)
        if text is None:
            raise NotFound(f"There is no earlier configuration {data.id!r}.", param="id")
        return await replaced(request, "config.rollback", text, data.over)

    async def replaced(request: AdminRequest, action: str, text: str, over: str) -> Configuration:
        file = _file(process)
        if (reason := file.read_only(process.settings)) is not None:
            raise Conflict(reason)
        try:
            changed = _refused_as_invalid(lambda: file.tried(text)).changed
            _refused_as_invalid(lambda: file.replace(text, over, process.control.wall(), process.reload))
        except Overtaken:
            raise PreconditionFailed("The file is another one since it was read: read it again.") from None
        except NotOurs as error:
            raise Conflict(str(error)) from None
        process.tell_siblings()
        states = ({"digest": over}, {"digest": digest(text), "changed": changed})
        await _noted(process, request, action, states)
        return await asyncio.to_thread(_shown, process)

    return [apply_config, take_back]


def _in_force(process: Process) -> Reloaded:
    settings = process.settings
    waiting: list[str] = []
    if process.file is not None:
        with contextlib.suppress(ConfigError):  # a file that is wrong has not been read
            waiting = process.file.waiting()
    return Reloaded([one.name for one in settings.models], [one.name for one in settings.routes], waiting)


def _file(process: Process) -> ConfigFile:
    if process.file is None:
        raise NotFound("This gateway was not started from a file.")
    return process.file


def _shown(process: Process) -> Configuration:
    file = _file(process)
    text = _refused_as_invalid(file.read)
    waiting, finding = [], None
    try:
        waiting = file.waiting()
    except ConfigError as error:
        finding = str(error)
    return Configuration(
        path=str(file.path),
        text=text,
        digest=digest(text),
        read_only=file.read_only(process.settings),
        waiting=waiting,
        finding=finding,
        earlier=file.earlier(),
    )


T = TypeVar("T")


def _refused_as_invalid(step: Callable[[], T]) -> T:
    try:
        return step()
    except ConfigError as error:
        raise InvalidRequest(str(error), param="text") from None


async def _noted(process: Process, request: AdminRequest, action: str, states: tuple[Any, Any]) -> None:
    def write() -> None:
        with frame.writing(process.control, request) as change:
            change.record(action, (EVERYTHING, "config"), *states)

    try:
        await asyncio.to_thread(write)
    except (SQLAlchemyError, DatabaseError):  # the file is in force even where nobody can write that down
        log.warning("%s by %s is not in the audit log: no database", action, request.state.caller.actor)
