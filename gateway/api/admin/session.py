"""``/admin/v1/session``: signing in and out, for the console.

The session is a cookie that scripts cannot read; a change needs the CSRF token beside it, which only a page
of this origin can have read.
"""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import COOKIE, AdminRequest
from gateway.errors import InvalidRequest, NotPermitted, RateLimited, SignInFailed
from gateway.process import Process
from gateway.tenancy import people
from gateway.tenancy.access import ROLES, Action, Caller, Reach
from gateway.tenancy.people import Home, LockedOut, Password, PersonWish, Refused

COOKIE_PATH = "/admin/v1"
Given = Annotated[str, Meta(max_length=200)]


class SignIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who signs in; ``org`` is the organisation's name, or ``*`` for an account of the installation."""

    email: Given
    password: Given
    org: Home = "*"


class NewPassword(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The present password and the one to come."""

    password: Given
    new_password: Password


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks and what it may do; ``csrf_token`` goes into ``x-csrf-token`` of every change of a session."""

    actor: str
    role: str
    org: str
    rights: list[Action]
    csrf_token: str | None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["session"], "sync_to_thread": True}

    @post("/session", summary="Sign in", responses=frame.SIGNS_IN, security=[{}], opt={"open": True}, **docs)
    def sign_in(request: AdminRequest, data: JSONBody[SignIn]) -> Response[Session]:
        """Sign in; after five failures within a quarter of an hour the account is locked until its end."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise InvalidRequest("Send the body as application/json.", param="content-type")
        with _refusals():
            person, token = people.sign_in(
                control.opened(), data.org, data.email, data.password, control.wall()
            )
        caller = Caller(actor=f"person:{person.id}", role=person.role, org=person.org)
        response = Response(_session(caller, people.csrf_token(token)), status_code=201)
        _set_cookie(request, response, token, int(people.SESSION_S))
        return response

    @get("/session", summary="Who am I", responses=frame.LISTS, **docs)
    def read_session(request: AdminRequest) -> Session:
        """Who asks and what it may do, by whatever it showed for it."""
        token = request.cookies.get(COOKIE)
        by_cookie = token is not None and "authorization" not in request.headers
        return _session(request.state.caller, people.csrf_token(token) if token and by_cookie else None)

    @delete("/session", summary="Sign out", responses=frame.LISTS, **docs)
    def sign_out(request: AdminRequest) -> Response[None]:
        """End the session."""
        token = request.cookies.get(COOKIE)
        if token is not None:
            people.sign_out(control.opened(), token)
        response: Response[None] = Response(None, status_code=204)
        _set_cookie(request, response, "", 0)
        return response

    @post(
        "/session/password", summary="Change my password", responses=frame.SIGNS_ON, status_code=204, **docs
    )
    def change_password(request: AdminRequest, data: JSONBody[NewPassword]) -> None:
        """Change the password of who is signed in; this ends all sessions of the account."""
        kind, _, person_id = request.state.caller.actor.partition(":")
        if kind != "person":
            raise NotPermitted("Only somebody who is signed in has a password to change.")
        with frame.reading(control) as connection:
            me = people.person(connection, Reach(), person_id)
        with _refusals():
            people.check_password(control.opened(), me, data.password, control.wall())
        kept = people.hashed(data.new_password)
        with frame.writing(control, request) as change:
            now = people.person(change.connection, Reach(), person_id)
            people.revise(change, now, PersonWish(version=now.version), kept)

    return [sign_in, read_session, sign_out, change_password]


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except LockedOut as error:
        raise RateLimited(
            "Too many failed attempts; the account is locked for a while.", retry_after_s=error.retry_after_s
        ) from None
    except Refused:
        raise SignInFailed("Account and password do not belong together.") from None


def _session(caller: Caller, csrf_token: str | None) -> Session:
    return Session(
        actor=caller.actor,
        role=caller.role,
        org=caller.org,
        rights=sorted(action for action in ROLES[caller.role] if caller.reach(action) is not None),
        csrf_token=csrf_token,
    )


def _set_cookie(request: AdminRequest, response: Response[Any], token: str, max_age_s: int) -> None:
    forwarded = request.headers.get("x-forwarded-proto", "")
    response.set_cookie(
        key=COOKIE,
        value=token,
        max_age=max_age_s,
        path=COOKIE_PATH,
        secure="https" in (request.url.scheme, forwarded),
        httponly=True,
        samesite="strict",
    )
    response.headers["cache-control"] = "no-store"
