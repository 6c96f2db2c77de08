"""``credentials.json``: made by ``up`` in its home, read by ``serve`` beside its configuration.

What the environment says goes before the file.
"""

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

import msgspec

from gateway.commands.base import CommandError
from gateway.tenancy import keys
from gateway.tenancy.webhooks import MASTER_ENV

FILE = "credentials.json"
ADMIN_ENV = "SWITCHGEAR_ADMIN_KEY"


class Credentials(msgspec.Struct, frozen=True):
    """``HOME_DIR/credentials.json``."""

    api_key: str
    admin_key: str
    webhook_secret: str = ""


def read(directory: Path) -> Credentials | None:
    """Give what the file of a directory holds; None where there is none. Raises CommandError."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise CommandError(f"{path}: {error}; correct it, or delete it to get new credentials") from None


def made(home: Path) -> Credentials:
    """Give the credentials of a home, made on the first call. Raises CommandError."""
    found = read(home)
    if found is not None and found.webhook_secret:
        return found
    if found is None:
        found = Credentials(keys.new_text(), "sk-sg-admin-" + secrets.token_urlsafe(32))
    found = msgspec.structs.replace(found, webhook_secret=secrets.token_urlsafe(32))
    path = home / FILE
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    partial.replace(path)
    return found


def put_into(environ: MutableMapping[str, str], own: Credentials) -> None:
    """Let the admin key and the webhooks' secret count where the environment names no others."""
    environ.setdefault(ADMIN_ENV, own.admin_key)
    if own.webhook_secret:
        environ.setdefault(MASTER_ENV, own.webhook_secret)
