"""``switchgear keys``: make, list and revoke API keys in the database of a configuration."""

import argparse
import sys
import time

import msgspec

from gateway.commands.base import CommandError, add_config, opened_database
from gateway.settings import KeySettings, load
from gateway.tenancy import keys


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
        ("--concurrency", int, "requests at once"),
        ("--budget-usd", float, "spend per calendar month (UTC)"),
        ("--prepaid-usd", float, "prepaid credit"),
        ("--floor-usd", float, "credit that must remain"),
    ):
        create.add_argument(flag, type=kind, help=what)
    create.add_argument("--band", choices=("interactive", "standard", "batch"), default="standard")
    create.add_argument("--models", default="", help="models and routes it may use, by comma; default all")
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
    text = keys.new_text()
    fields = {
        name: getattr(options, name) for name in KeySettings.__struct_fields__ if hasattr(options, name)
    }
    fields["models"] = [name for name in options.models.split(",") if name]
    fields["sha256"] = keys.digest(text)
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        settings = msgspec.convert(given, KeySettings)
    except msgspec.ValidationError as error:
        raise CommandError(str(error).replace(" - at `$.", ": ").rstrip("`")) from None
    key = keys.from_settings(settings, keys.digest(text), keys.shown_prefix(text))
    config = load(options.config)
    served = {one.name for one in config.models} | {one.name for one in config.routes}
    for name in sorted(set(key.models) - served):
        print(f"switchgear: note: {options.config} serves no {name!r} yet", file=sys.stderr)
    with opened_database(config) as engine:
        keys.save(engine, key, "cli", time.time())
    if options.json:
        print(msgspec.json.encode({"id": key.id, "key": text, "prefix": key.prefix}).decode())
    else:
        print(f"{text}\n(id {key.id}; this text is shown once and kept nowhere)")
    return 0


def _list(options: argparse.Namespace) -> int:
    with opened_database(load(options.config)) as engine:
        found = keys.load(engine)
    if options.json:
        rows = [{**msgspec.to_builtins(key), "sha256": None} for key in found]
        print(msgspec.json.encode([{k: v for k, v in row.items() if k != "sha256"} for row in rows]).decode())
        return 0
    for key in found:
        state = "revoked" if key.revoked_s else key.band
        print(f"{key.id}  {key.prefix or '(from the file)'}  {key.org}/{key.project}  {key.name}  {state}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    with opened_database(load(options.config)) as engine:
        known = keys.revoke(engine, options.id, time.time())
    if not known:
        raise CommandError(f"there is no key with the id {options.id!r}; see 'switchgear keys list'")
    print('{"revoked": true}' if options.json else f"{options.id} is revoked", file=sys.stdout)
    return 0
