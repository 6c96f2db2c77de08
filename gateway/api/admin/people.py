"""``/admin/v1/people``: who may sign in to the console, and as what."""

from typing import Annotated, Any

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, IfMatch, Limit, Page
from gateway.process import Process
from gateway.tenancy import people
from gateway.tenancy.access import Role
from gateway.tenancy.people import Home, Password, Person, PersonDraft, PersonWish

Email = Annotated[
    str, Meta(max_length=200, pattern=r"^[!-?A-~]+@[!-?A-~]+$", description="An e-mail address.")
]
PersonName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewPerson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account to be made; ``org`` is an organisation's name, or ``*`` for the whole installation."""

    org: Home
    email: Email
    name: PersonName
    role: Role
    password: Password


class PersonPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change; an absent field stays."""

    name: PersonName | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["people"], "sync_to_thread": True}

    @get("/people", summary="List people", responses=frame.LISTS, **docs)
    def list_people(
        request: AdminRequest, limit: Limit = 50, cursor: Cursor = None, org: Filter = None
    ) -> Page[Person]:
        """People, oldest first."""
        reach = frame.permitted(request, "people.read")
        with frame.reading(control) as connection:
            found = people.list_people(connection, reach, frame.window(limit, cursor), org)
        return Page(*found)

    @post("/people", summary="Make an account", responses=frame.MAKES, **docs)
    def create_person(request: AdminRequest, data: JSONBody[NewPerson]) -> Response[Person]:
        """Make an account; its owner signs in with organisation, e-mail address and password."""
        reach = frame.permitted(request, "people.write")
        draft = PersonDraft(org=data.org, email=data.email, name=data.name, role=data.role)
        kept = people.hashed(data.password)
        with frame.writing(control, request) as change:
            made = people.create(change, reach, draft, kept)
        return frame.versioned(made, made.version, 201)

    @get("/people/{person_id:str}", summary="Read an account", responses=frame.READS, **docs)
    def read_person(request: AdminRequest, person_id: frame.Id) -> Response[Person]:
        """One account; its ETag is what a change must name."""
        reach = frame.permitted(request, "people.read")
        with frame.reading(control) as connection:
            found = people.person(connection, reach, person_id)
        return frame.versioned(found, found.version)

    @patch("/people/{person_id:str}", summary="Change an account", responses=frame.CHANGES, **docs)
    def change_person(
        request: AdminRequest, person_id: frame.Id, data: JSONBody[PersonPatch], if_match: IfMatch = None
    ) -> Response[Person]:
        """Change an account; a new password, another role and disabling end its sessions."""
        reach = frame.permitted(request, "people.write")
        wish = PersonWish(
            version=frame.version(if_match), name=data.name, role=data.role, disabled=data.disabled
        )
        kept = None if data.password is UNSET else people.hashed(data.password)
        with frame.writing(control, request) as change:
            before = people.person(change.connection, reach, person_id)
            after = people.revise(change, before, wish, kept)
        return frame.versioned(after, after.version)

    return [list_people, create_person, read_person, change_person]
