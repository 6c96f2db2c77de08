"""API keys in SQL: made, listed, changed, rotated, revoked; and those of the file, imported.

A key's text is made here and given back once; what is kept is its hash. Keys of the file follow the file: all
that can be done to them here is to revoke them.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import api_keys, organisations, projects
from gateway.tenancy import keys, transfers
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.changes import Change, changing
from gateway.tenancy.keys import KeyRecord, Scope
from gateway.tenancy.organisations import NotThere, Outdated, Taken, ensured_project, hold_to_its_own, project
from gateway.tenancy.paging import Window, page
from gateway.tenancy.terms import NOTHING, Terms, merged

SHOWN = tuple(
    name
    for name in KeyRecord.__struct_fields__
    if name not in ("sha256", "previous_sha256", "prepaid_nanousd")
)


class KeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What a key begins with."""

    name: str
    terms: Terms = NOTHING
    scopes: tuple[Scope, ...] = ("inference",)
    expires_s: float | None = None
    prepaid_nanousd: int | None = None


class KeyWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change of a key, over which version; fields that are not given stay as they are."""

    version: int
    name: str | msgspec.UnsetType = msgspec.UNSET
    scopes: tuple[Scope, ...] | msgspec.UnsetType = msgspec.UNSET
    expires_s: float | msgspec.UnsetType | None = msgspec.UNSET
    terms: dict[str, Any] = {}


def shown(record: KeyRecord) -> dict[str, Any]:
    """Give what may be shown of a key: no hashes."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: fields[name] for name in SHOWN}


def list_keys(
    connection: sa.Connection, reach: Reach, window: Window, filters: dict[str, str | None] | None = None
) -> tuple[list[KeyRecord], str | None]:
    """Give a page, oldest first; filters are ``org``, ``project`` and ``name``, by their names."""
    columns = {"org": organisations.c.name, "project": projects.c.name, "name": api_keys.c.name}
    statement = _keys(reach)
    for field, value in (filters or {}).items():
        if value is not None:
            statement = statement.where(columns[field] == value)
    rows, behind = page(connection, statement, (api_keys.c.created_s, api_keys.c.id), window)
    return [_record(row) for row in rows], behind


def all_keys(connection: sa.Connection) -> list[KeyRecord]:
    """Give every key, revoked ones included, oldest first."""
    rows = connection.execute(_keys(Reach()).order_by(api_keys.c.created_s, api_keys.c.id))
    return [_record(row) for row in rows.mappings()]


def key(connection: sa.Connection, reach: Reach, key_id: str) -> KeyRecord:
    """Give one by id. Raises NotThere."""
    row = connection.execute(_keys(reach).where(api_keys.c.id == key_id)).mappings().first()
    if row is None:
        raise NotThere(f"there is no key {key_id!r}")
    return _record(row)


def create(change: Change, reach: Reach, project_id: str, draft: KeyDraft) -> tuple[KeyRecord, str]:
    """Make a key of a project; gives it and its text. Raises NotThere."""
    home = project(change.connection, reach, project_id)
    hold_to_its_own(change.connection, reach, home.org, NOTHING, draft.terms)
    text = keys.new_text()
    made = KeyRecord(
        id=keys.new_id(),
        org=home.org,
        project=home.name,
        name=draft.name,
        prefix=keys.shown_prefix(text),
        sha256=keys.digest(text),
        origin="cli" if change.actor == "cli" else "api",
        terms=draft.terms,
        scopes=draft.scopes,
        prepaid_nanousd=draft.prepaid_nanousd,
        created_s=change.now_s,
        expires_s=draft.expires_s,
    )
    change.connection.execute(sa.insert(api_keys).values(project_id=home.id, **_columns(made)))
    if made.prepaid_nanousd is not None:
        transfers.set_declared(change.connection, transfers.declared(made, change.now_s))
    change.record("key.create", (made.org, made.id), None, shown(made))
    return made, text


def revise(change: Change, reach: Reach, before: KeyRecord, wish: KeyWish) -> KeyRecord:
    """Change a key. Raises Outdated, Taken, Beyond, or msgspec.ValidationError for terms that cannot be."""
    _refuse_if_fixed(before)
    if wish.version != before.version:
        raise Outdated(f"it is at version {before.version} now; read it again")
    after = msgspec.structs.replace(
        before,
        name=before.name if wish.name is msgspec.UNSET else wish.name,
        scopes=before.scopes if wish.scopes is msgspec.UNSET else wish.scopes,
        expires_s=before.expires_s if wish.expires_s is msgspec.UNSET else wish.expires_s,
        terms=merged(before.terms, wish.terms),
        version=before.version + 1,
    )
    hold_to_its_own(change.connection, reach, before.org, before.terms, after.terms)
    return _replace(change, "key.change", before, after)


def rotate(change: Change, before: KeyRecord, overlap_s: float) -> tuple[KeyRecord, str]:
    """Give a key a new text; the one before counts for ``overlap_s`` more seconds. Raises Taken.

    A text from a rotation before that ends at once: no more than two count at a time.
    """
    _refuse_if_fixed(before)
    text = keys.new_text()
    after = msgspec.structs.replace(
        before,
        prefix=keys.shown_prefix(text),
        sha256=keys.digest(text),
        previous_sha256=before.sha256,
        previous_until_s=change.now_s + overlap_s,
        version=before.version + 1,
    )
    return _replace(change, "key.rotate", before, after), text


def revoke(change: Change, before: KeyRecord) -> KeyRecord:
    """End a key, its text of before a rotation too; one that is revoked already stays as it is."""
    if before.revoked_s is not None:
        return before
    after = msgspec.structs.replace(before, revoked_s=change.now_s, version=before.version + 1)
    return _replace(change, "key.revoke", before, after)


def import_file(engine: sa.Engine, found: Iterable[KeyRecord], now_s: float) -> None:
    """Bring the keys of the file into SQL; a known one gets the file's terms, and stays revoked if it was."""
    with engine.connect() as connection:
        known = {record.sha256: record for record in all_keys(connection)}
    new = [one for one in found if _imported(known.get(one.sha256), one) != known.get(one.sha256)]
    if not new:
        return
    with changing(engine, "file", now_s) as change:
        for record in new:
            _import(change, record)


def _import(change: Change, record: KeyRecord) -> None:
    project_id = ensured_project(change, record.org, record.project)
    statement = _keys(Reach()).where(api_keys.c.sha256 == record.sha256)
    row = change.connection.execute(statement).mappings().first()
    if row is not None:
        before = _record(row)
        after = msgspec.structs.replace(_imported(before, record), version=before.version + 1)
        _replace(change, "key.change", before, after, project_id=project_id)
        return
    made = msgspec.structs.replace(record, created_s=change.now_s)
    change.connection.execute(sa.insert(api_keys).values(project_id=project_id, **_columns(made)))
    change.record("key.create", (made.org, made.id), None, shown(made))


def _imported(known: KeyRecord | None, own: KeyRecord) -> KeyRecord:
    """Give a known key as the file wants it."""
    if known is None:
        return own
    return msgspec.structs.replace(
        known,
        org=own.org,
        project=own.project,
        name=own.name,
        terms=own.terms,
        prepaid_nanousd=own.prepaid_nanousd,
        origin="file",
    )


def _refuse_if_fixed(record: KeyRecord) -> None:
    if record.revoked_s is not None:
        raise Taken("the key is revoked; make a new one")
    if record.origin == "file":
        raise Taken("the key comes from the configuration file; change it there")


def _replace(change: Change, action: str, before: KeyRecord, after: KeyRecord, **moved: str) -> KeyRecord:
    values = {**_columns(after), **moved}
    change.connection.execute(sa.update(api_keys).where(api_keys.c.id == before.id).values(**values))
    change.record(action, (after.org, after.id), shown(before), shown(after))
    return after


def _keys(reach: Reach) -> sa.Select[Any]:
    columns = [column for column in api_keys.c if column.name != "project_id"]
    names = (projects.c.name.label("project"), organisations.c.name.label("org"))
    statement = sa.select(*columns, *names).join(projects, projects.c.id == api_keys.c.project_id)
    statement = statement.join(organisations, organisations.c.id == projects.c.organisation_id)
    return statement if reach.org == EVERYTHING else statement.where(organisations.c.name == reach.org)


def _record(row: sa.RowMapping) -> KeyRecord:
    return as_struct(row, KeyRecord)


def _columns(record: KeyRecord) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in ("org", "project")}
