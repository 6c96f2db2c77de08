"""``/admin/v1/orgs``: who is billed. Only the installation makes organisations and sets their terms."""

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
from gateway.settings import TenantName
from gateway.tenancy import organisations
from gateway.tenancy.organisations import Draft, Organisation, Revision
from gateway.tenancy.terms import NOTHING, Terms

Title = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Shown to people.")]


class NewOrganisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organisation to be made; its name is its identity and never changes."""

    name: TenantName
    title: Title = ""
    terms: Terms = NOTHING


class LevelPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change; of the terms, null removes a field and an absent one stays."""

    title: Title | UnsetType = UNSET
    terms: TermsPatch | UnsetType = UNSET

    def over(self, version: int) -> Revision:
        """Give the change over a version."""
        return Revision(
            version=version,
            title=None if self.title is UNSET else self.title,
            terms={} if self.terms is UNSET else given(self.terms),
        )


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["organisations"], "sync_to_thread": True}

    @get("/orgs", summary="List organisations", responses=frame.LISTS, **docs)
    def list_organisations(
        request: AdminRequest, limit: Limit = 50, cursor: Cursor = None, name: Filter = None
    ) -> Page[Organisation]:
        """Organisations, oldest first."""
        reach = frame.permitted(request, "tenants.read")
        with frame.reading(control) as connection:
            found = organisations.list_organisations(connection, reach, frame.window(limit, cursor), name)
        return Page(*found)

    @post("/orgs", summary="Make an organisation", responses=frame.MAKES, **docs)
    def create_organisation(request: AdminRequest, data: JSONBody[NewOrganisation]) -> Response[Organisation]:
        """Make an organisation; keys of its projects can be made at once."""
        frame.permitted(request, "orgs.write")
        draft = Draft(name=data.name, title=data.title, terms=data.terms)
        with frame.writing(control, request) as change:
            made = organisations.create_organisation(change, draft)
        return frame.versioned(made, made.version, 201)

    @get("/orgs/{org_id:str}", summary="Read an organisation", responses=frame.READS, **docs)
    def read_organisation(request: AdminRequest, org_id: frame.Id) -> Response[Organisation]:
        """One organisation; its ETag is what a change must name."""
        reach = frame.permitted(request, "tenants.read")
        with frame.reading(control) as connection:
            found = organisations.organisation(connection, reach, org_id)
        return frame.versioned(found, found.version)

    @patch("/orgs/{org_id:str}", summary="Change an organisation", responses=frame.CHANGES, **docs)
    def change_organisation(
        request: AdminRequest, org_id: frame.Id, data: JSONBody[LevelPatch], if_match: IfMatch = None
    ) -> Response[Organisation]:
        """Change title and terms; they bind everything below at the next request."""
        reach = frame.permitted(request, "orgs.write")
        wish = data.over(frame.version(if_match))
        with frame.writing(control, request) as change:
            before = organisations.organisation(change.connection, reach, org_id)
            after = organisations.change_organisation(change, before, wish)
        return frame.versioned(after, after.version)

    return [list_organisations, create_organisation, read_organisation, change_organisation]
