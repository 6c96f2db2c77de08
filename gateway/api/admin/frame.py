"""What the resources of the admin API share: who asks, pages, versions, errors.

Rules: every route but sign-in needs a caller; a handler asks ``permitted`` how far its action reaches and
hands the reach to SQL, so that what lies outside is not there (404). Handlers are plain functions in worker
threads: SQL never runs on the loop. A change needs ``If-Match`` (428 without, 412 where outdated) and is in
force in this process when it is answered.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa
from litestar import Request, Response
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, PathParameter, QueryParameter
from msgspec import Meta
from sqlalchemy.exc import IntegrityError

from gateway.api import fallback
from gateway.database import reason
from gateway.errors import (
    Conflict,
    DatabaseUnavailable,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    NotPermitted,
    PreconditionFailed,
    PreconditionRequired,
)
from gateway.process import Control
from gateway.tenancy import paging, people
from gateway.tenancy.access import Action, Caller, Reach
from gateway.tenancy.changes import Change, changing
from gateway.tenancy.organisations import Beyond, NotThere, Outdated, Taken
from gateway.tenancy.paging import CursorError, Window

T = TypeVar("T")

COOKIE = "switchgear_session"
CSRF_HEADER = "x-csrf-token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

AdminRequest = Request[Any, Any, Any]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[
    str | None,
    QueryParameter(
        pattern=paging.CURSOR,
        max_length=230,
        description="`next` of the page before.",
    ),
]
Filter = Annotated[
    str | None,
    QueryParameter(max_length=200, pattern=r"^[^\x00]+$", description="Only those with this value."),
]
ID = r"^[A-Za-z0-9_-]+$"
Id = Annotated[str, PathParameter(max_length=40, pattern=ID)]
ReplicaId = Annotated[str, PathParameter(max_length=200, description="A replica's id.")]
VERSION = r'^"[0-9]{1,9}"$'
IdField = Annotated[str, Meta(max_length=40, pattern=ID)]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="if-match",
        max_length=20,
        pattern=VERSION,
        description="The `ETag` that reading it gave.",
    ),
]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list; ``next`` is the cursor of the following one, null at the end."""

    data: Sequence[T]
    next: str | None


class ErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong; ``param`` names the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """Every error has this shape."""

    error: ErrorDetail


def _responses(*statuses: int) -> dict[int, ResponseSpec]:
    texts = {
        400: "A field is wrong; `param` names it.",
        401: "No key or session, or one that is not valid.",
        403: "The caller may not do this.",
        404: "Nothing with this id within the caller's reach.",
        409: "What is there already forbids it.",
        412: "It was changed since it was read.",
        413: "The body is too large.",
        428: "`If-Match` is missing.",
        429: "Too many failed attempts.",
        503: "The database is away.",
    }
    return {one: ResponseSpec(ErrorBody, description=texts[one], generate_examples=False) for one in statuses}


LISTS = _responses(400, 401, 403, 503)
READS = _responses(400, 401, 403, 404, 503)
MAKES = _responses(400, 401, 403, 404, 409, 413, 503)
ACTS = _responses(400, 401, 403, 404, 409, 413, 503)
CHANGES = _responses(400, 401, 403, 404, 409, 412, 413, 428, 503)
SIGNS_ON = _responses(400, 401, 403, 413, 429, 503)
SIGNS_IN = _responses(400, 401, 413, 429, 503)


def authentication(control: Control) -> Callable[[AdminRequest], Awaitable[Response[None] | None]]:
    """Make the hook that finds out who asks, before a handler runs."""

    async def authenticate(request: AdminRequest) -> Response[None] | None:
        if request.method == "OPTIONS":  # Litestar's own answer names the methods of one handler only
            return Response(None, status_code=204, headers={"allow": ", ".join(fallback.methods(request))})
        if request.route_handler.opt.get("open"):
            await _held_to_its_type(request)
            return None
        caller = _bearer(control, request)
        if caller is None:
            caller = await asyncio.to_thread(_person, control, request)
        request.state.caller = caller
        await _held_to_its_type(request)
        return None

    return authenticate


async def _held_to_its_type(request: AdminRequest) -> None:
    """Refuse what Litestar would bend: "5" for a number, 1 for true. Raises ValidationException."""
    body = request.route_handler.parsed_fn_signature.parameters.get("data")
    if body is None:
        return
    try:
        msgspec.convert(_whole(msgspec.json.decode(await request.body())), type=body.annotation)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        found = {"message": message, "key": path.strip(".`") or "data", "source": "body"}
        raise ValidationException(message, extra=[found]) from None
    except msgspec.DecodeError:
        return  # no JSON at all: Litestar says so


def _whole(value: Any) -> Any:
    """Give decoded JSON with integers for whole numbers: JSON has one kind, and 5.0 is as whole as 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value


def permitted(request: AdminRequest, action: Action) -> Reach:
    """Give how far an action reaches for who asks. Raises NotPermitted."""
    caller: Caller = request.state.caller
    reach = caller.reach(action)
    if reach is None:
        raise NotPermitted(f"This needs the right {action!r}, which this caller does not have.")
    return reach


@contextlib.contextmanager
def reading(control: Control) -> Iterator[sa.Connection]:
    """Open a connection to read by; turns the tenants' errors into the client's."""
    with _translated(), control.opened().connect() as connection:
        yield connection


@contextlib.contextmanager
def writing(control: Control, request: AdminRequest) -> Iterator[Change]:
    """Open a change in the name of who asks; behind it, it is in force in this process."""
    caller: Caller = request.state.caller
    with _translated():
        engine = control.opened()
        # Changes come one after another anyway: who waits does so here, without a connection of the pool, and
        # without SQLite's patience running out.
        with control.one_writer, changing(engine, caller.actor, control.wall()) as change:
            yield change
        control.directory.refresh(engine)


def version(if_match: str | None) -> int:
    """Read the version out of ``If-Match``. Raises PreconditionRequired."""
    if if_match is None:
        raise PreconditionRequired(
            "A change needs the header If-Match with the ETag that reading it gave.", param="if-match"
        )
    return int(if_match.strip('"'))


def versioned(body: T, at: int, status: int = 200) -> Response[T]:
    """Answer with the ETag of a version."""
    return Response(body, status_code=status, headers={"etag": f'"{at}"'})


def database_away(request: AdminRequest, error: Exception) -> Response[bytes]:
    """Answer for a database that failed; what was found out while two wrote at once is a conflict."""
    if isinstance(error, IntegrityError):
        return fallback.render(request, Conflict("Something with this name was made at the same time."))
    fallback.log.warning("the admin API has no database: %s", reason(error))
    return fallback.render(
        request, DatabaseUnavailable("The database is away; inference goes on.", retry_after_s=2.0)
    )


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except NotThere as error:
        raise NotFound(_sentence(error), param=error.field) from None
    except Taken as error:
        raise Conflict(_sentence(error), param=error.field) from None
    except Beyond as error:
        raise NotPermitted(_sentence(error), param=error.field) from None
    except Outdated as error:
        raise PreconditionFailed(_sentence(error), param="if-match") from None
    except CursorError as error:
        raise InvalidRequest(_sentence(error), param="cursor") from None
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise InvalidRequest(f"{message}.", param=".".join(("terms", path.rstrip("`"))).rstrip(".")) from None


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def _bearer(control: Control, request: AdminRequest) -> Caller | None:
    """Give the caller of an Authorization header; None where there is none. Raises InvalidApiKey."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, text = header.partition(" ")
    sent = text.strip().encode("latin-1", "replace")
    if scheme.lower() == "bearer" and sent:
        digest = hashlib.sha256(sent).digest()
        if control.admin_digest is not None and hmac.compare_digest(digest, control.admin_digest):
            return Caller(actor="admin-key", role="owner")
        key = control.keys.find(sent, control.wall())
        if key is not None and "admin" in key.scopes:
            return Caller(actor=f"key:{key.id}", role="admin", org=key.org)
        if key is not None and "usage" in key.scopes:
            return Caller(actor=f"key:{key.id}", role="own-usage", org=key.org, key_id=key.id)
    raise InvalidApiKey("This needs the admin key: send 'Authorization: Bearer KEY'.")


def _person(control: Control, request: AdminRequest) -> Caller:
    """Give the caller of a session cookie. Raises InvalidApiKey, or NotPermitted without the CSRF token."""
    token = request.cookies.get(COOKIE)
    if token is None:
        raise InvalidApiKey("This needs the admin key or a session; send 'Authorization: Bearer KEY'.")
    with control.opened().connect() as connection:
        person = people.of_session(connection, token, control.wall())
    if person is None:
        raise InvalidApiKey("The session has ended; sign in again.")
    if request.method not in SAFE_METHODS:
        sent = request.headers.get(CSRF_HEADER, "")
        if not hmac.compare_digest(sent.encode("latin-1", "replace"), people.csrf_token(token).encode()):
            raise NotPermitted(f"A change from a browser needs the header {CSRF_HEADER} of its session.")
    return Caller(actor=f"person:{person.id}", role=person.role, org=person.org)


def listed(found: Iterable[T], name: Callable[[T], str], wanted: Window) -> Page[T]:
    """Give a page of what is in memory, by name. Raises InvalidRequest for a cursor of another list."""
    try:
        behind = "" if wanted.cursor is None else paging.place(wanted.cursor)[1]
    except paging.CursorError as error:
        raise InvalidRequest(_sentence(error), param="cursor") from None
    rest = sorted((one for one in found if name(one) > behind), key=name)
    more = len(rest) > wanted.limit
    return Page(rest[: wanted.limit], paging.cursor(0.0, name(rest[wanted.limit - 1])) if more else None)


def window(limit: int, cursor: str | None) -> Window:
    """Give the page that is wanted."""
    return Window(limit, cursor)
