"""API keys: 256 random bits, shown once, kept as a hash; and the table that requests are checked against.

The table lives in memory and is replaced as a whole, from SQL, every second, so that a revocation holds
within two seconds in every gateway process. A snapshot on disk (hashes only) lets a gateway start while the
database is away.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.database import api_keys, organisations, projects
from gateway.settings import KeySettings
from gateway.state.limits import Bound
from gateway.tenancy.pricing import usd_to_nanousd

KEY_PREFIX = "sk-sg-"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key and what it may do; money in nano-dollars, None where nothing is configured."""

    id: str
    org: str
    project: str
    name: str
    prefix: str
    sha256: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget_nanousd: int | None = None
    prepaid_nanousd: int | None = None
    floor_nanousd: int = 0
    band: str = "standard"
    models: tuple[str, ...] = ()
    revoked_s: float | None = None
    bounds: tuple[Bound, ...] = ()


COLUMNS = tuple(name for name in Key.__struct_fields__ if name != "bounds")


def bounded(key: Key) -> Key:
    """Give the key with the bounds that its limits make: none where it has none."""
    bound = Bound(
        account=f"key:{key.id}",
        rpm=key.rpm,
        tpm=key.tpm,
        concurrency=key.concurrency,
        budget_nanousd=key.budget_nanousd,
        credit=key.prepaid_nanousd is not None,
        floor_nanousd=key.floor_nanousd,
    )
    free = bound == Bound(account=bound.account, floor_nanousd=key.floor_nanousd)
    return msgspec.structs.replace(key, bounds=() if free else (bound,))


class KeyTable:
    """The keys that count, by the digest of their text."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_digest: Mapping[bytes, Key] = {}
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """Put a new set of keys in force."""
        self._by_digest = {bytes.fromhex(key.sha256): key for key in keys if key.revoked_s is None}

    def find(self, text: bytes) -> Key | None:
        """Give the key with this text; the look-up is by hash, so that its time tells nothing."""
        return self._by_digest.get(hashlib.sha256(text).digest())

    def __len__(self) -> int:
        return len(self._by_digest)


def new_text() -> str:
    """Make the text of a new key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """Give the hash by which a key is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def shown_prefix(text: str) -> str:
    """Give the part of a key that may be shown again; none of one that we did not make."""
    return text[: len(KEY_PREFIX) + 4] if text.startswith(KEY_PREFIX) else ""


def from_settings(settings: KeySettings, sha256: str, prefix: str) -> Key:
    """Build the record of a bootstrap key; its id follows from its hash."""
    made = Key(
        id=f"key_{sha256[:20].lower()}",
        org=settings.org,
        project=settings.project,
        name=settings.name,
        prefix=prefix,
        sha256=sha256.lower(),
        rpm=settings.rpm,
        tpm=settings.tpm,
        concurrency=settings.concurrency,
        budget_nanousd=None if settings.budget_usd is None else usd_to_nanousd(settings.budget_usd),
        prepaid_nanousd=None if settings.prepaid_usd is None else usd_to_nanousd(settings.prepaid_usd),
        floor_nanousd=usd_to_nanousd(settings.floor_usd or 0.0),
        band=settings.band,
        models=settings.models,
    )
    return bounded(made)


def bootstrap(entries: Iterable[KeySettings], environ: Mapping[str, str]) -> list[Key]:
    """Give the keys of a config file; raises KeyError with the variable's name where it is unset."""
    found = []
    for entry in entries:
        if entry.sha256 is not None:
            found.append(from_settings(entry, entry.sha256, ""))
        elif entry.key_env is not None:
            text = environ[entry.key_env]
            found.append(from_settings(entry, digest(text), shown_prefix(text)))
    return found


def save(engine: sa.Engine, key: Key, origin: str, now_s: float) -> None:
    """Insert a key, or give an existing one with the same hash these limits; makes org and project."""
    with engine.begin() as connection:
        org_id = _ensure(connection, organisations, now_s, name=key.org)
        project_id = _ensure(connection, projects, now_s, organisation_id=org_id, name=key.project)
        limits = {
            "project_id": project_id,
            "name": key.name,
            "rpm": key.rpm,
            "tpm": key.tpm,
            "concurrency": key.concurrency,
            "budget_nanousd": key.budget_nanousd,
            "prepaid_nanousd": key.prepaid_nanousd,
            "floor_nanousd": key.floor_nanousd,
            "band": key.band,
            "models": list(key.models),
        }
        changed = connection.execute(
            sa.update(api_keys).where(api_keys.c.sha256 == key.sha256).values(**limits)
        ).rowcount
        if not changed:
            fixed = {"id": key.id, "prefix": key.prefix, "sha256": key.sha256, "origin": origin}
            connection.execute(sa.insert(api_keys).values(created_s=now_s, **fixed, **limits))


def load(engine: sa.Engine) -> list[Key]:
    """Read every key, revoked ones included, oldest first."""
    statement = (
        sa.select(api_keys, projects.c.name.label("project"), organisations.c.name.label("org"))
        .join(projects, projects.c.id == api_keys.c.project_id)
        .join(organisations, organisations.c.id == projects.c.organisation_id)
        .order_by(api_keys.c.created_s, api_keys.c.id)
    )
    with engine.connect() as connection:
        return [
            bounded(msgspec.convert({name: row[name] for name in COLUMNS}, Key))
            for row in connection.execute(statement).mappings()
        ]


def revoke(engine: sa.Engine, key_id: str, now_s: float) -> bool:
    """Revoke a key by id; False where there is none."""
    statement = sa.update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_s.is_(None))
    with engine.begin() as connection:
        if connection.execute(statement.values(revoked_s=now_s)).rowcount:
            return True
        return connection.execute(sa.select(api_keys.c.id).where(api_keys.c.id == key_id)).first() is not None


def write_snapshot(path: Path, keys: Iterable[Key]) -> None:
    """Keep the known keys on disk, atomically."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(list(keys)))
    partial.replace(path)


def read_snapshot(path: Path) -> list[Key]:
    """Read the keys kept on disk; none where there is no usable file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Key])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return []


def _ensure(connection: sa.Connection, table: sa.Table, now_s: float, **named: str) -> str:
    """Give the id of the row with these columns; makes it where it is missing."""
    match = [table.c[column] == value for column, value in named.items()]
    found = connection.execute(sa.select(table.c.id).where(*match)).scalar()
    if found is not None:
        return str(found)
    made = f"{table.name[:4]}_{secrets.token_hex(10)}"
    connection.execute(sa.insert(table).values(id=made, created_s=now_s, **named))
    return made
