"""People and how they sign in: argon2 hashes, sessions kept as hashes, lock-out after failures.

A person belongs to one organisation (or, as ``*``, to the installation) and is known there by an e-mail
address, so that no organisation can find out who belongs to another. Whether an account exists cannot be
told from an answer or its time: an unknown one is checked against a hash nobody has the password of, and is
locked out like a known one.
"""

import functools
import hashlib
import secrets
import threading
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from msgspec import Meta

from gateway.database import as_struct
from gateway.tables import organisations, people, sessions, sign_in_failures
from gateway.tenancy.access import EVERYTHING, Reach, Role
from gateway.tenancy.changes import Change
from gateway.tenancy.organisations import NotThere, Outdated, Taken
from gateway.tenancy.paging import Window, page

SESSION_S = 12 * 3600.0
MAX_FAILURES = 5
LOCKED_S = 15 * 60.0

# An organisation's name, or "*": the whole installation.
Home = Annotated[str, Meta(pattern=r"^(\*|[^/*\x00-\x1f\x7f]{1,200})$")]
Password = Annotated[str, Meta(min_length=12, max_length=200)]

_COUNT = sa.text(
    "INSERT INTO sign_in_failures (account_sha256, failures, first_s) VALUES (:account, 1, :now_s)"
    " ON CONFLICT (account_sha256) DO UPDATE SET failures = sign_in_failures.failures + 1"
    " RETURNING failures, first_s"
)

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)  # as OWASP advises
_hashing = threading.BoundedSemaphore(2)  # so that a flood of sign-ins takes neither memory nor all cores


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may sign in; ``version`` is the ETag."""

    id: str
    org: str
    email: str
    name: str
    role: Role
    version: int
    created_s: float
    disabled_s: float | None


class PersonDraft(msgspec.Struct, frozen=True, kw_only=True):
    """What a person begins with."""

    org: str
    email: str
    name: str
    role: Role


class PersonWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change of a person, over which version; fields that are not given stay as they are."""

    version: int
    name: str | msgspec.UnsetType = msgspec.UNSET
    role: Role | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class LockedOut(Exception):
    """Too many failures; ``retry_after_s`` says how long it lasts."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("too many failed attempts")
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """No such account, or another password."""


def list_people(
    connection: sa.Connection, reach: Reach, window: Window, org: str | None = None
) -> tuple[list[Person], str | None]:
    """Give a page, oldest first."""
    statement = _people(reach)
    if org is not None:
        statement = statement.where(people.c.org == org)
    rows, behind = page(connection, statement, (people.c.created_s, people.c.id), window)
    return [as_struct(row, Person) for row in rows], behind


def person(connection: sa.Connection, reach: Reach, person_id: str) -> Person:
    """Give one by id. Raises NotThere."""
    row = connection.execute(_people(reach).where(people.c.id == person_id)).mappings().first()
    if row is None:
        raise NotThere(f"there is no person {person_id!r}")
    return as_struct(row, Person)


def create(change: Change, reach: Reach, draft: PersonDraft, password_hash: str) -> Person:
    """Make an account. Raises NotThere or Taken."""
    known = sa.select(organisations.c.id).where(organisations.c.name == draft.org)
    there = draft.org == EVERYTHING or change.connection.execute(known).first() is not None
    if not there or not reach.covers(draft.org):
        raise NotThere(f"there is no organisation {draft.org!r}", "org")
    email = draft.email.lower()
    same = (people.c.org == draft.org, people.c.email == email)
    if change.connection.execute(sa.select(people.c.id).where(*same)).first():
        raise Taken(f"{draft.org!r} has an account for {email!r} already", "email")
    made = Person(
        id="per_" + secrets.token_hex(10),
        org=draft.org,
        email=email,
        name=draft.name,
        role=draft.role,
        version=1,
        created_s=change.now_s,
        disabled_s=None,
    )
    columns: dict[str, Any] = msgspec.to_builtins(made)
    change.connection.execute(sa.insert(people).values(**columns, password_hash=password_hash))
    change.record("person.create", (made.org, made.id), None, columns)
    return made


def revise(change: Change, before: Person, wish: PersonWish, password_hash: str | None) -> Person:
    """Change an account; a new password, a new role and disabling end its sessions. Raises Outdated."""
    if wish.version != before.version:
        raise Outdated(f"it is at version {before.version} now; read it again")
    disabled_s = before.disabled_s
    if wish.disabled is not msgspec.UNSET:
        disabled_s = (disabled_s or change.now_s) if wish.disabled else None
    after = msgspec.structs.replace(
        before,
        name=before.name if wish.name is msgspec.UNSET else wish.name,
        role=before.role if wish.role is msgspec.UNSET else wish.role,
        version=before.version + 1,
        disabled_s=disabled_s,
    )
    columns: dict[str, Any] = msgspec.to_builtins(after)
    secret = {} if password_hash is None else {"password_hash": password_hash}
    change.connection.execute(sa.update(people).where(people.c.id == before.id).values(**columns, **secret))
    if password_hash is not None or after.role != before.role or after.disabled_s is not None:
        change.connection.execute(sa.delete(sessions).where(sessions.c.person_id == before.id))
    shown = {**columns, **({} if password_hash is None else {"password": "changed"})}
    change.record("person.change", (after.org, after.id), msgspec.to_builtins(before), shown)
    return after


def hashed(password: str) -> str:
    """Give the argon2 hash of a password; tens of milliseconds of work."""
    with _hashing:
        return _hasher.hash(password)


def check_password(engine: sa.Engine, one: Person, password: str, now_s: float) -> None:
    """Check the password of an account, counting failures as a sign-in does. Raises LockedOut or Refused."""
    _checked(engine, one.org, one.email, password, now_s)


def sign_in(engine: sa.Engine, org: str, email: str, password: str, now_s: float) -> tuple[Person, str]:
    """Check a password and begin a session; gives the person and the token. Raises LockedOut or Refused."""
    one = _checked(engine, org, email, password, now_s)
    token = secrets.token_urlsafe(32)
    with engine.begin() as connection:
        connection.execute(sa.delete(sessions).where(sessions.c.expires_s <= now_s))
        connection.execute(
            sa.insert(sessions).values(
                sha256=_digest(token), person_id=one.id, created_s=now_s, expires_s=now_s + SESSION_S
            )
        )
    return one, token


def _checked(engine: sa.Engine, org: str, email: str, password: str, now_s: float) -> Person:
    account = hashlib.sha256(f"{org}\n{email.lower()}".encode()).hexdigest()
    _count_attempt(engine, account, now_s)
    with engine.connect() as connection:
        match = (people.c.org == org, people.c.email == email.lower(), people.c.disabled_s.is_(None))
        row = connection.execute(sa.select(people).where(*match)).mappings().first()
    good = _verified(_hash_of_nobody() if row is None else row["password_hash"], password)
    if row is None or not good:
        raise Refused
    with engine.begin() as connection:
        connection.execute(sa.delete(sign_in_failures).where(sign_in_failures.c.account_sha256 == account))
    return as_struct(row, Person)


def sign_out(engine: sa.Engine, token: str) -> None:
    """End a session."""
    with engine.begin() as connection:
        connection.execute(sa.delete(sessions).where(sessions.c.sha256 == _digest(token)))


def of_session(connection: sa.Connection, token: str, now_s: float) -> Person | None:
    """Give who signed in with this token; None where it has ended."""
    statement = _people(Reach()).join(sessions, sessions.c.person_id == people.c.id)
    match = (sessions.c.sha256 == _digest(token), sessions.c.expires_s > now_s, people.c.disabled_s.is_(None))
    row = connection.execute(statement.where(*match)).mappings().first()
    return None if row is None else as_struct(row, Person)


def csrf_token(token: str) -> str:
    """Give what a page must send along with a change; it follows from the session's token."""
    return hashlib.sha256(f"csrf:{token}".encode()).hexdigest()


def _count_attempt(engine: sa.Engine, account: str, now_s: float) -> None:
    """Count an attempt before it is checked, so that many at once count too. Raises LockedOut."""
    table = sign_in_failures
    with engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.first_s <= now_s - LOCKED_S))
        row = connection.execute(_COUNT, {"account": account, "now_s": now_s}).one()
    if row.failures > MAX_FAILURES:
        raise LockedOut(row.first_s + LOCKED_S - now_s)


def _verified(kept: str, password: str) -> bool:
    try:
        with _hashing:
            return _hasher.verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _hash_of_nobody() -> str:
    return _hasher.hash(secrets.token_urlsafe(32))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _people(reach: Reach) -> sa.Select[Any]:
    statement = sa.select(*(people.c[name] for name in Person.__struct_fields__))
    return statement if reach.org == EVERYTHING else statement.where(people.c.org == reach.org)
