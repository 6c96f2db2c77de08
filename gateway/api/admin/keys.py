"""``/admin/v1/keys``: API keys. A text is shown when it is made, and never again."""

from typing import Annotated, Any

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, IfMatch, Limit, Page
from gateway.api.admin.patches import TermsPatch, given
from gateway.process import Process
from gateway.tenancy import key_store
from gateway.tenancy.key_store import KeyDraft, KeyWish
from gateway.tenancy.keys import KeyRecord, Scope
from gateway.tenancy.terms import NOTHING, Terms

KeyName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Scopes = Annotated[
    tuple[Scope, ...],
    Meta(
        min_length=1,
        max_length=3,
        description="inference; usage: reads its own; admin: administers its organisation.",
    ),
]
Moment = Annotated[float, Meta(ge=0, le=1e11, description="Seconds since 1970.")]


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its text; ``version`` is the ETag."""

    id: str
    org: str
    project: str
    name: str
    prefix: str
    origin: str
    terms: Terms
    scopes: tuple[Scope, ...]
    previous_until_s: float | None
    created_s: float
    expires_s: float | None
    revoked_s: float | None
    version: int


class MadeKey(ShownKey, frozen=True, kw_only=True):
    """A key with its text, which is shown this once and kept nowhere."""

    key: str


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made, of a project by id."""

    project_id: frame.IdField
    name: KeyName
    terms: Terms = NOTHING
    scopes: Scopes = ("inference",)
    expires_s: Moment | None = None


class KeyPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change; of the terms, null removes a field and an absent one stays."""

    name: KeyName | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    expires_s: Moment | UnsetType | None = UNSET
    terms: TermsPatch | UnsetType = UNSET


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the text before counts on beside the new one."""

    overlap_s: Annotated[float, Meta(ge=0, le=90 * 86400)] = 86400.0


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    return [*_reading(process), *_writing(process), *_ending(process)]


def _shown(record: KeyRecord) -> ShownKey:
    return msgspec.convert(key_store.shown(record), ShownKey)


def _made(record: KeyRecord, text: str, status: int) -> Response[MadeKey]:
    body = msgspec.convert({**key_store.shown(record), "key": text}, MadeKey)
    response = frame.versioned(body, record.version, status)
    response.headers["cache-control"] = "no-store"
    return response


DOCS: dict[str, Any] = {"tags": ["keys"], "sync_to_thread": True}


def _reading(process: Process) -> list[HTTPRouteHandler]:
    control = process.control

    @get("/keys", summary="List keys", responses=frame.LISTS, **DOCS)
    def list_keys(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        project: Filter = None,
        name: Filter = None,
    ) -> Page[ShownKey]:
        """Keys, oldest first, without their texts."""
        reach = frame.permitted(request, "tenants.read")
        filters = {"org": org, "project": project, "name": name}
        with frame.reading(control) as connection:
            found, behind = key_store.list_keys(connection, reach, frame.window(limit, cursor), filters)
        return Page([_shown(record) for record in found], behind)

    @get("/keys/{key_id:str}", summary="Read a key", responses=frame.READS, **DOCS)
    def read_key(request: AdminRequest, key_id: frame.Id) -> Response[ShownKey]:
        """One key without its text; its ETag is what a change must name."""
        reach = frame.permitted(request, "tenants.read")
        with frame.reading(control) as connection:
            found = key_store.key(connection, reach, key_id)
        return frame.versioned(_shown(found), found.version)

    return [list_keys, read_key]


def _writing(process: Process) -> list[HTTPRouteHandler]:
    control = process.control

    @post("/keys", summary="Make a key", responses=frame.MAKES, **DOCS)
    def create_key(request: AdminRequest, data: JSONBody[NewKey]) -> Response[MadeKey]:
        """Make a key; the answer holds its text, this once."""
        reach = frame.permitted(request, "tenants.write")
        draft = KeyDraft(name=data.name, terms=data.terms, scopes=data.scopes, expires_s=data.expires_s)
        with frame.writing(control, request) as change:
            made, text = key_store.create(change, reach, data.project_id, draft)
        return _made(made, text, 201)

    @patch("/keys/{key_id:str}", summary="Change a key", responses=frame.CHANGES, **DOCS)
    def change_key(
        request: AdminRequest, key_id: frame.Id, data: JSONBody[KeyPatch], if_match: IfMatch = None
    ) -> Response[ShownKey]:
        """Change a key; it holds at the next request."""
        reach = frame.permitted(request, "tenants.write")
        wish = KeyWish(
            version=frame.version(if_match),
            name=data.name,
            scopes=data.scopes,
            expires_s=data.expires_s,
            terms={} if data.terms is UNSET else given(data.terms),
        )
        with frame.writing(control, request) as change:
            after = key_store.revise(change, reach, key_store.key(change.connection, reach, key_id), wish)
        return frame.versioned(_shown(after), after.version)

    return [create_key, change_key]


def _ending(process: Process) -> list[HTTPRouteHandler]:
    control = process.control

    @post("/keys/{key_id:str}/rotate", summary="Rotate a key", responses=frame.ACTS, status_code=200, **DOCS)
    def rotate_key(request: AdminRequest, key_id: frame.Id, data: JSONBody[Rotation]) -> Response[MadeKey]:
        """Give a key a new text, shown this once; the one before counts on for a while."""
        reach = frame.permitted(request, "tenants.write")
        with frame.writing(control, request) as change:
            before = key_store.key(change.connection, reach, key_id)
            after, text = key_store.rotate(change, before, data.overlap_s)
        return _made(after, text, 200)

    @post("/keys/{key_id:str}/revoke", summary="Revoke a key", responses=frame.ACTS, status_code=200, **DOCS)
    def revoke_key(request: AdminRequest, key_id: frame.Id) -> Response[ShownKey]:
        """End a key for good: here at once, in other gateway processes within two seconds."""
        reach = frame.permitted(request, "tenants.write")
        with frame.writing(control, request) as change:
            after = key_store.revoke(change, key_store.key(change.connection, reach, key_id))
        return frame.versioned(_shown(after), after.version)

    return [rotate_key, revoke_key]
