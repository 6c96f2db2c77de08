"""``/admin/v1/projects``: parts of an organisation."""

from typing import Any

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, IfMatch, Limit, Page
from gateway.api.admin.organisations import LevelPatch, Title
from gateway.process import Process
from gateway.settings import TenantName
from gateway.tenancy import organisations
from gateway.tenancy.organisations import Draft, Project
from gateway.tenancy.terms import NOTHING, Terms


class NewProject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A project to be made; its name within the organisation is its identity and never changes."""

    org: TenantName
    name: TenantName
    title: Title = ""
    terms: Terms = NOTHING


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["projects"], "sync_to_thread": True}

    @get("/projects", summary="List projects", responses=frame.LISTS, **docs)
    def list_projects(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        name: Filter = None,
    ) -> Page[Project]:
        """Projects, oldest first."""
        reach = frame.permitted(request, "tenants.read")
        window = frame.window(limit, cursor)
        with frame.reading(control) as connection:
            found = organisations.list_projects(connection, reach, window, org=org, name=name)
        return Page(*found)

    @post("/projects", summary="Make a project", responses=frame.MAKES, **docs)
    def create_project(request: AdminRequest, data: JSONBody[NewProject]) -> Response[Project]:
        """Make a project of an organisation."""
        reach = frame.permitted(request, "tenants.write")
        draft = Draft(name=data.name, title=data.title, terms=data.terms)
        with frame.writing(control, request) as change:
            made = organisations.create_project(change, reach, data.org, draft)
        return frame.versioned(made, made.version, 201)

    @get("/projects/{project_id:str}", summary="Read a project", responses=frame.READS, **docs)
    def read_project(request: AdminRequest, project_id: frame.Id) -> Response[Project]:
        """One project; its ETag is what a change must name."""
        reach = frame.permitted(request, "tenants.read")
        with frame.reading(control) as connection:
            found = organisations.project(connection, reach, project_id)
        return frame.versioned(found, found.version)

    @patch("/projects/{project_id:str}", summary="Change a project", responses=frame.CHANGES, **docs)
    def change_project(
        request: AdminRequest, project_id: frame.Id, data: JSONBody[LevelPatch], if_match: IfMatch = None
    ) -> Response[Project]:
        """Change title and terms; they bind its keys at the next request."""
        reach = frame.permitted(request, "tenants.write")
        wish = data.over(frame.version(if_match))
        with frame.writing(control, request) as change:
            before = organisations.project(change.connection, reach, project_id)
            after = organisations.change_project(change, reach, before, wish)
        return frame.versioned(after, after.version)

    return [list_projects, create_project, read_project, change_project]
