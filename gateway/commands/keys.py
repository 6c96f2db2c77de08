"""``switchgear keys``: make, list and revoke API keys in the database of a configuration."""

import argparse
import sys
import time

import msgspec
import sqlalchemy as sa

from gateway.commands.base import CommandError, add_config, opened_database
from gateway.config_file import finding, load
from gateway.settings import KeySettings
from gateway.tenancy import key_store, keys
from gateway.tenancy.access import Reach
from gateway.tenancy.changes import changing
from gateway.tenancy.key_store import KeyDraft
from gateway.tenancy.keys import KeyRecord
from gateway.tenancy.organisations import NotThere, ensured_project

TITLES = ("ID", "PREFIX", "ORGANISATION/PROJECT", "NAME", "SCOPES", "STATE")
DAY_S = 86400.0


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and show it once")
    create.add_argument("--org", default="default")
    create.add_argument("--project", default="default")
    create.add_argument("--name", required=True)
    for flag, kind, what in (
        ("--rpm", int, "requests per minute"),
        ("--tpm", int, "tokens per minute"),
        ("--rpd", int, "requests per day"),
        ("--tpd", int, "tokens per day"),
        ("--concurrency", int, "requests at once"),
        ("--budget-usd", float, "spend per calendar month (UTC)"),
        ("--prepaid-usd", float, "prepaid credit"),
        ("--floor-usd", float, "credit that must remain"),
        ("--weight", float, "share within its priority band"),
        ("--large-share", float, "share of the largest tier that routes aim at for it"),
        ("--most-large-share", float, "the most of it that a request may wish for"),
        ("--expires-days", float, "days until it expires"),
    ):
        create.add_argument(flag, type=kind, help=what)
    create.add_argument("--band", choices=("interactive", "standard", "batch"), help="priority, at most this")
    create.add_argument("--models", default="", help="models and routes it may use, by comma; default all")
    create.add_argument(
        "--resumable", action="store_true", default=None, help="all its streams can be resumed"
    )
    create.add_argument(
        "--scope", dest="scopes", action="append", choices=keys.SCOPES, help="what for; default inference"
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="list keys, without their text")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="revoke a key by id")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)
    for action in (create, listing, revoke):
        add_config(action)
        action.add_argument("--json", action="store_true", help="print JSON")


def _create(options: argparse.Namespace) -> int:
    settings = _settings(options)
    config = load(options.config)
    served = {one.name for one in config.models} | {one.name for one in config.routes}
    for name in sorted(set(settings.models) - served):
        print(f"switchgear: note: {options.config} serves no {name!r} yet", file=sys.stderr)
    with opened_database(config) as engine:
        made, text = _made(engine, settings, options)
    if options.json:
        print(msgspec.json.encode({"id": made.id, "key": text, "prefix": made.prefix}).decode())
    else:
        print(f"{text}\n(id {made.id}; this text is shown once and kept nowhere)")
    return 0


def _settings(options: argparse.Namespace) -> KeySettings:
    """Read the flags as a ``[[keys]]`` table, which they are named after. Raises CommandError."""
    fields = {
        name: getattr(options, name) for name in KeySettings.__struct_fields__ if hasattr(options, name)
    }
    fields["models"] = [name for name in options.models.split(",") if name]
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert(given, KeySettings)
    except msgspec.ValidationError as error:
        raise CommandError(finding(error)) from None


def _made(engine: sa.Engine, settings: KeySettings, options: argparse.Namespace) -> tuple[KeyRecord, str]:
    now_s = time.time()
    record = keys.from_settings(settings, "", "")
    draft = KeyDraft(
        name=settings.name,
        terms=record.terms,
        scopes=tuple(options.scopes or ("inference",)),
        expires_s=None if options.expires_days is None else now_s + options.expires_days * DAY_S,
        prepaid_nanousd=record.prepaid_nanousd,
    )
    with changing(engine, "cli", now_s) as change:
        project_id = ensured_project(change, settings.org, settings.project)
        return key_store.create(change, Reach(), project_id, draft)


def _list(options: argparse.Namespace) -> int:
    with opened_database(load(options.config)) as engine, engine.connect() as connection:
        found = key_store.all_keys(connection)
    if options.json:
        print(msgspec.json.encode([key_store.shown(record) for record in found]).decode())
        return 0
    rows = [TITLES, *(_row(record, time.time()) for record in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(record: KeyRecord, now_s: float) -> tuple[str, ...]:
    state = "valid"
    if record.revoked_s is not None:
        state = "revoked"
    elif record.expires_s is not None and record.expires_s <= now_s:
        state = "expired"
    where = f"{record.org}/{record.project}"
    return record.id, record.prefix or "(from the file)", where, record.name, ",".join(record.scopes), state


def _revoke(options: argparse.Namespace) -> int:
    with opened_database(load(options.config)) as engine:
        try:
            with changing(engine, "cli", time.time()) as change:
                key_store.revoke(change, key_store.key(change.connection, Reach(), options.id))
        except NotThere:
            raise CommandError(
                f"there is no key with the id {options.id!r}; see 'switchgear keys list'"
            ) from None
    print('{"revoked": true}' if options.json else f"{options.id} is revoked", file=sys.stdout)
    return 0
