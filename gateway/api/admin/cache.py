"""``/admin/v1/cache``: what is kept for whom, one answer with its questions, and how to be rid of it."""

from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, Limit, Page
from gateway.errors import InvalidRequest, NotFound
from gateway.kept import Inspected, Selection, Shown
from gateway.process import Process

DOCS: dict[str, Any] = {"tags": ["cache"]}
Text = Annotated[str, Meta(min_length=1, max_length=200)]


class Purge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to forget: answers that fit every field that is set; ``everything`` where none is."""

    tenant: Text | None = None
    model: Text | None = None
    tag: Text | None = None
    entry: Text | None = None
    everything: bool = False


class Purged(msgspec.Struct, frozen=True):
    """How many answers went."""

    purged: int


class Word(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A person's judgement on an answer."""

    right: bool


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    kept = process.pipeline.shelf.kept

    @get("/cache/entries", summary="List kept answers", responses=frame.LISTS, **DOCS)
    async def list_entries(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        tenant: Filter = None,
        model: Filter = None,
        tag: Filter = None,
    ) -> Page[Shown]:
        """Answers of the exact cache and of the semantic one, by id."""
        frame.permitted(request, "fleet.read")
        found = await kept.listed(Selection(tenant=tenant, model=model, tag=tag))
        return frame.listed(found, lambda one: f"{one.id}-{one.tier}", frame.window(limit, cursor))

    @get("/cache/entries/{entry_id:str}", summary="Read a kept answer", responses=frame.READS, **DOCS)
    async def read_entry(request: AdminRequest, entry_id: frame.Id) -> Inspected:
        """The answer's words, and the questions that lead to it."""
        frame.permitted(request, "fleet.read")
        return await _found(process, entry_id)

    @post(
        "/cache/entries/{entry_id:str}/judge",
        summary="Judge a kept answer", responses=frame.ACTS, status_code=200, **DOCS,
    )  # fmt: skip
    async def judge_entry(request: AdminRequest, entry_id: frame.Id, data: JSONBody[Word]) -> Purged:
        """A wrong one goes at once, with all questions that lead to it."""
        frame.permitted(request, "fleet.write")
        await _found(process, entry_id)
        return Purged(0 if data.right else await kept.purge(Selection(entry=entry_id)))

    @post("/cache/purge", summary="Forget kept answers", responses=frame.ACTS, status_code=200, **DOCS)
    async def purge_entries(request: AdminRequest, data: JSONBody[Purge]) -> Purged:
        """Both tiers, in force when this is answered."""
        frame.permitted(request, "fleet.write")
        selection = Selection(tenant=data.tenant, model=data.model, tag=data.tag, entry=data.entry)
        if (selection == Selection()) is not data.everything:
            raise InvalidRequest(
                "Name a tenant, model, tag or entry, or set 'everything' to true and none of them.",
                param="everything",
            )
        return Purged(await kept.purge(selection))

    return [list_entries, read_entry, judge_entry, purge_entries]


async def _found(process: Process, entry_id: str) -> Inspected:
    found = await process.pipeline.shelf.kept.inspect(entry_id)
    if found is None:
        raise NotFound(f"There is no kept answer {entry_id!r}.")
    return found
