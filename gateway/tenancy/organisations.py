"""Organisations and projects in SQL. A name is an identity and never changes; a title may stand beside it.

Readers work on a connection, writers on a change, which is its caller's transaction. What lies outside a
caller's reach is not there: a look-up raises NotThere as if it did not exist.
"""

import secrets
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import organisations, projects
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.changes import Change
from gateway.tenancy.paging import Window, page
from gateway.tenancy.terms import BANDS, DEFAULT_BAND, NOTHING, Terms, merged


class TenantError(Exception):
    """A change that cannot be made; ``field`` names what is in the way."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotThere(TenantError):
    """Nothing with this id within the caller's reach."""


class Taken(TenantError):
    """The name is given already, or something else forbids the change."""


class Outdated(TenantError):
    """It was changed since the caller read it."""


class Beyond(TenantError):
    """Only the installation may give so much."""


class Organisation(msgspec.Struct, frozen=True, kw_only=True):
    """A customer: who is billed; ``version`` is its ETag."""

    id: str
    name: str
    title: str
    terms: Terms
    version: int
    created_s: float


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an organisation, by whose name it goes; ``version`` is its ETag."""

    id: str
    org: str
    name: str
    title: str
    terms: Terms
    version: int
    created_s: float


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation or a project begins with."""

    name: str
    title: str = ""
    terms: Terms = NOTHING


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change, over which version; None and absent fields stay as they are."""

    version: int
    title: str | None = None
    terms: dict[str, Any] = {}


Level = TypeVar("Level", Organisation, Project)


def list_organisations(
    connection: sa.Connection, reach: Reach, window: Window, name: str | None = None
) -> tuple[list[Organisation], str | None]:
    """Give a page, oldest first."""
    statement = sa.select(organisations)
    if reach.org != EVERYTHING:
        statement = statement.where(organisations.c.name == reach.org)
    if name is not None:
        statement = statement.where(organisations.c.name == name)
    rows, behind = page(connection, statement, (organisations.c.created_s, organisations.c.id), window)
    return [as_struct(row, Organisation) for row in rows], behind


def organisation(connection: sa.Connection, reach: Reach, org_id: str) -> Organisation:
    """Give one by id. Raises NotThere."""
    row = connection.execute(sa.select(organisations).where(organisations.c.id == org_id)).mappings().first()
    if row is None or not reach.covers(row["name"]):
        raise NotThere(f"there is no organisation {org_id!r}")
    return as_struct(row, Organisation)


def create_organisation(change: Change, draft: Draft) -> Organisation:
    """Make one. Raises Taken."""
    if change.connection.execute(
        sa.select(organisations.c.id).where(organisations.c.name == draft.name)
    ).first():
        raise Taken(f"an organisation is named {draft.name!r} already", "name")
    made = Organisation(
        id="org_" + secrets.token_hex(10),
        name=draft.name,
        title=draft.title,
        terms=draft.terms,
        version=1,
        created_s=change.now_s,
    )
    change.connection.execute(sa.insert(organisations).values(**_columns(made)))
    change.record("org.create", (made.name, made.id), None, _columns(made))
    return made


def change_organisation(change: Change, before: Organisation, wish: Revision) -> Organisation:
    """Change title and terms. Raises Outdated, or msgspec.ValidationError for terms that cannot be."""
    after = _changed(before, wish)
    _update(change.connection, organisations, before, after)
    change.record("org.change", (before.name, before.id), _columns(before), _columns(after))
    return after


def list_projects(
    connection: sa.Connection,
    reach: Reach,
    window: Window,
    *,
    org: str | None = None,
    name: str | None = None,
) -> tuple[list[Project], str | None]:
    """Give a page, oldest first."""
    statement = _projects(reach)
    if org is not None:
        statement = statement.where(organisations.c.name == org)
    if name is not None:
        statement = statement.where(projects.c.name == name)
    rows, behind = page(connection, statement, (projects.c.created_s, projects.c.id), window)
    return [as_struct(row, Project) for row in rows], behind


def project(connection: sa.Connection, reach: Reach, project_id: str) -> Project:
    """Give one by id. Raises NotThere."""
    row = connection.execute(_projects(reach).where(projects.c.id == project_id)).mappings().first()
    if row is None:
        raise NotThere(f"there is no project {project_id!r}")
    return as_struct(row, Project)


def create_project(change: Change, reach: Reach, org: str, draft: Draft) -> Project:
    """Make one within an organisation, named by ``org``. Raises NotThere or Taken."""
    statement = sa.select(organisations.c.id).where(organisations.c.name == org)
    org_id = change.connection.execute(statement).scalar() if reach.covers(org) else None
    if org_id is None:
        raise NotThere(f"there is no organisation {org!r}", "org")
    same = (projects.c.organisation_id == org_id, projects.c.name == draft.name)
    if change.connection.execute(sa.select(projects.c.id).where(*same)).first():
        raise Taken(f"a project of {org!r} is named {draft.name!r} already", "name")
    hold_to_its_own(change.connection, reach, org, NOTHING, draft.terms)
    made = Project(
        id="prj_" + secrets.token_hex(10),
        org=org,
        name=draft.name,
        title=draft.title,
        terms=draft.terms,
        version=1,
        created_s=change.now_s,
    )
    columns = _columns(made)
    change.connection.execute(sa.insert(projects).values(organisation_id=org_id, **_without(columns, "org")))
    change.record("project.create", (org, made.id), None, columns)
    return made


def change_project(change: Change, reach: Reach, before: Project, wish: Revision) -> Project:
    """Change title and terms. Raises Outdated, Beyond, or msgspec.ValidationError."""
    after = _changed(before, wish)
    hold_to_its_own(change.connection, reach, before.org, before.terms, after.terms)
    _update(change.connection, projects, before, after)
    change.record("project.change", (before.org, before.id), _columns(before), _columns(after))
    return after


def require(connection: sa.Connection, reach: Reach, org: str, project_name: str | None = None) -> None:
    """Raise NotThere where there is no organisation, or no project of it, with this name within reach."""
    found = sa.select(organisations.c.id).where(organisations.c.name == org)
    if not reach.covers(org) or connection.execute(found).first() is None:
        raise NotThere(f"there is no organisation {org!r}", "org")
    if project_name is None:
        return
    named = _projects(reach).where(organisations.c.name == org, projects.c.name == project_name)
    if connection.execute(named).first() is None:
        raise NotThere(f"there is no project {project_name!r} in {org!r}", "project")


def hold_to_its_own(connection: sa.Connection, reach: Reach, org: str, before: Terms, after: Terms) -> None:
    """Raise Beyond where an organisation puts its own requests before those of others.

    Within it may give any band up to its own: what its terms say, else what everybody has. A weight is a
    share of its own share, whatever it is.
    """
    if reach.org == EVERYTHING:
        return
    found = connection.execute(sa.select(organisations.c.terms).where(organisations.c.name == org)).scalar()
    own = msgspec.convert(found or {}, Terms)
    band = own.band or DEFAULT_BAND
    if after.band and after.band != before.band and BANDS.index(after.band) > BANDS.index(band):
        raise Beyond(f"the highest band of {org!r} is {band!r}", "terms.band")


def ensured_project(change: Change, org: str, name: str) -> str:
    """Give the id of a project; makes it and its organisation where they are missing."""
    everyone, connection = Reach(), change.connection
    if not connection.execute(sa.select(organisations.c.id).where(organisations.c.name == org)).first():
        create_organisation(change, Draft(name=org))
    found = connection.execute(
        _projects(everyone).where(organisations.c.name == org, projects.c.name == name)
    ).scalar()
    if found is not None:
        return str(found)
    return create_project(change, everyone, org, Draft(name=name)).id


def _projects(reach: Reach) -> sa.Select[Any]:
    columns = [column for column in projects.c if column.name != "organisation_id"]
    statement = sa.select(*columns, organisations.c.name.label("org")).join(organisations)
    return statement if reach.org == EVERYTHING else statement.where(organisations.c.name == reach.org)


def _changed(before: Level, wish: Revision) -> Level:
    if wish.version != before.version:
        raise Outdated(f"it is at version {before.version} now; read it again")
    return msgspec.structs.replace(
        before,
        title=before.title if wish.title is None else wish.title,
        terms=merged(before.terms, wish.terms),
        version=before.version + 1,
    )


def _update(connection: sa.Connection, table: sa.Table, before: Level, after: Level) -> None:
    values = {"title": after.title, "terms": msgspec.to_builtins(after.terms), "version": after.version}
    connection.execute(sa.update(table).where(table.c.id == before.id).values(**values))


def _columns(level: Organisation | Project) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(level)
    return found


def _without(columns: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in columns.items() if key != name}
