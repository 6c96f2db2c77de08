"""Where an organisation wants to be told what happens, and how it knows that we said it.

A message is signed as the Standard Webhooks convention says (standardwebhooks.com): HMAC-SHA256 over id,
time and body, in the header ``webhook-signature``. The secret of an endpoint is not kept: it is derived,
by HMAC-SHA256, from the endpoint's id and a master secret that the environment of the gateway processes
holds (``SWITCHGEAR_WEBHOOK_SECRET``). So a copy of the database signs nothing, the secret is shown when the
endpoint is made and never again, and another master secret changes all of them.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.outbound.addresses import PRIVATE, private_literal
from gateway.tables import webhook_deliveries, webhook_endpoints
from gateway.tenancy import organisations
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.changes import Change
from gateway.tenancy.organisations import NotThere, Taken
from gateway.tenancy.paging import Window, page

MASTER_ENV = "SWITCHGEAR_WEBHOOK_SECRET"
MASTER_MIN_CHARACTERS = 32
MAX_PER_ORGANISATION = 16


class UrlError(ValueError):
    """An address that cannot be called; the text says why."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An address that is told what happens in an organisation."""

    id: str
    org: str
    url: str
    created_s: float


def master_secret(environ: Mapping[str, str]) -> bytes | None:
    """Give what the endpoints' secrets are derived from; None where the environment has nothing."""
    text = environ.get(MASTER_ENV)
    return text.encode() if text else None


def secret(master: bytes, endpoint_id: str) -> str:
    """Give the secret of an endpoint, in the convention's form."""
    derived = hmac.digest(master, f"webhook endpoint {endpoint_id}".encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(derived).decode()


def signed(secret_text: str, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Give the headers of a message: who may check it, by what."""
    key = base64.b64decode(secret_text.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{message_id}.{at_s}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


def check_url(url: str, *, allow_private: bool) -> None:
    """Raise UrlError for what can never be called; names are looked up at each call."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlError("it is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UrlError("it must be https://HOST/PATH (or http)")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UrlError("write it with ASCII letters, without spaces")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise UrlError("leave out user, password and fragment; the signature says who calls")
    if not allow_private and private_literal(url):
        raise UrlError(f"{PRIVATE}; the setting webhooks.allow_private permits it")


def list_endpoints(
    connection: sa.Connection, reach: Reach, window: Window, org: str | None
) -> tuple[list[Endpoint], str | None]:
    """Give a page, oldest first."""
    statement = _reached(reach)
    if org is not None:
        statement = statement.where(webhook_endpoints.c.org == org)
    order = (webhook_endpoints.c.created_s, webhook_endpoints.c.id)
    rows, behind = page(connection, statement, order, window)
    return [as_struct(row, Endpoint) for row in rows], behind


def endpoint(connection: sa.Connection, reach: Reach, endpoint_id: str) -> Endpoint:
    """Give one by id. Raises NotThere."""
    row = connection.execute(_reached(reach).where(webhook_endpoints.c.id == endpoint_id)).mappings().first()
    if row is None:
        raise NotThere(f"there is no webhook {endpoint_id!r}")
    return as_struct(row, Endpoint)


def create(change: Change, reach: Reach, org: str, url: str) -> Endpoint:
    """Make one of an organisation, by name. Raises NotThere or Taken."""
    if not organisations.list_organisations(change.connection, reach, Window(1), org)[0]:
        raise NotThere(f"there is no organisation {org!r}", "org")
    same = sa.select(webhook_endpoints.c.url).where(webhook_endpoints.c.org == org)
    known = list(change.connection.execute(same).scalars())
    if url in known:
        raise Taken(f"{org!r} has a webhook to this address already", "url")
    if len(known) >= MAX_PER_ORGANISATION:
        raise Taken(f"{org!r} has {MAX_PER_ORGANISATION} webhooks, which is the most; delete one")
    made = Endpoint(id="wh_" + secrets.token_hex(10), org=org, url=url, created_s=change.now_s)
    columns = msgspec.to_builtins(made)
    change.connection.execute(sa.insert(webhook_endpoints).values(**columns))
    change.record("webhook.create", (org, made.id), None, columns)
    return made


def delete(change: Change, one: Endpoint) -> None:
    """Delete one with its deliveries; what is under way comes to its end."""
    of_it = webhook_deliveries.c.endpoint_id == one.id
    change.connection.execute(sa.delete(webhook_deliveries).where(of_it))
    change.connection.execute(sa.delete(webhook_endpoints).where(webhook_endpoints.c.id == one.id))
    change.record("webhook.delete", (one.org, one.id), msgspec.to_builtins(one), None)


def _reached(reach: Reach) -> sa.Select[Any]:
    statement = sa.select(webhook_endpoints)
    return statement if reach.org == EVERYTHING else statement.where(webhook_endpoints.c.org == reach.org)
