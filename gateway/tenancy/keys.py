"""API keys: 256 random bits, shown once, kept as a hash; and the table that requests are checked against.

A ``KeyRecord`` is what is kept of a key; a ``Key`` is what the way of a request sees of it, with the terms of
its organisation and project worked in. The table lives in memory and is replaced as a whole.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from gateway.settings import Band, KeySettings
from gateway.state.limits import Bound
from gateway.tenancy import accounts, terms
from gateway.tenancy.pricing import usd_to_nanousd
from gateway.tenancy.terms import NOTHING, Terms

KEY_PREFIX = "sk-sg-"

Scope = Literal["inference", "usage", "admin"]
SCOPES: tuple[Scope, ...] = ("inference", "usage", "admin")
INFERENCE: frozenset[Scope] = frozenset({"inference"})


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One API key as it is kept; times in seconds since the epoch.

    After a rotation the previous text counts until ``previous_until_s``. ``origin`` is ``file``, ``cli`` or
    ``api``.
    """

    id: str
    org: str
    project: str
    name: str
    prefix: str
    sha256: str
    origin: str = "cli"
    terms: Terms = NOTHING
    scopes: tuple[Scope, ...] = ("inference",)
    prepaid_nanousd: int | None = None
    previous_sha256: str | None = None
    previous_until_s: float | None = None
    created_s: float = 0.0
    expires_s: float | None = None
    revoked_s: float | None = None
    version: int = 1


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what: terms by organisation, by organisation and project, and the keys."""

    organisations: dict[str, Terms]
    projects: dict[str, dict[str, Terms]]
    keys: list[KeyRecord]


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key as a request sees it; ``models`` is None where all are allowed.

    ``bounds`` are the levels that limit anything; ``end_users`` those that limit each end user, with what the
    accounts of these begin with; ``tenant`` says whose cached answers it shares. ``weight`` is its share of
    a busy model in its project, ``within`` the project's in the organisation and the organisation's. Answers
    are kept for ``retention_s`` at the most: 0 is not at all.
    """

    id: str
    org: str
    project: str
    name: str
    prefix: str
    sha256: str
    bounds: tuple[Bound, ...] = ()
    end_users: tuple[Bound, ...] = ()
    models: frozenset[str] | None = None
    band: Band = terms.DEFAULT_BAND
    weight: float = 1.0
    within: tuple[tuple[str, float], ...] = ()
    retention_s: float = math.inf
    scopes: frozenset[Scope] = INFERENCE
    expires_s: float | None = None
    tenant: str = ""
    resumable: bool = False
    large_share: float | None = None
    most_large_share: float = 1.0


class KeyTable:
    """The keys that count, by the digest of their text."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_digest: Mapping[bytes, Key] = {}
        self.any_resumable = False
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """Put a new set of keys in force; any thread may do so."""
        self._by_digest = {bytes.fromhex(key.sha256): key for key in keys}
        self.any_resumable = any(key.resumable for key in self._by_digest.values())

    def find(self, text: bytes, now_s: float) -> Key | None:
        """Give the key with this text; the look-up is by hash, so that its time tells nothing."""
        key = self._by_digest.get(hashlib.sha256(text).digest())
        if key is not None and key.expires_s is not None and key.expires_s <= now_s:
            return None
        return key

    def keys(self) -> Iterable[Key]:
        """Give all of them."""
        return self._by_digest.values()

    def __len__(self) -> int:
        return len(self._by_digest)


def new_text() -> str:
    """Make the text of a new key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def new_id() -> str:
    """Make the id of a new key."""
    return "key_" + secrets.token_hex(10)


def digest(text: str) -> str:
    """Give the hash by which a key is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def shown_prefix(text: str) -> str:
    """Give the part of a key that may be shown again; none of one that we did not make."""
    return text[: len(KEY_PREFIX) + 4] if text.startswith(KEY_PREFIX) else ""


def terms_of(settings: KeySettings) -> Terms:
    """Give the terms that the file's words (and the flags of ``keys create``) say, USD made nano-dollars."""
    return Terms(
        rpm=settings.rpm,
        tpm=settings.tpm,
        rpd=settings.rpd,
        tpd=settings.tpd,
        concurrency=settings.concurrency,
        budget_nanousd=None if settings.budget_usd is None else usd_to_nanousd(settings.budget_usd),
        credit=None if settings.prepaid_usd is None else "prepaid",
        floor_nanousd=None if settings.floor_usd is None else usd_to_nanousd(settings.floor_usd),
        band=settings.band,
        weight=settings.weight,
        models=settings.models or None,
        resumable=settings.resumable,
        large_share=settings.large_share,
        most_large_share=settings.most_large_share,
    )


def from_settings(settings: KeySettings, sha256: str, prefix: str) -> KeyRecord:
    """Build the record of a bootstrap key; its id follows from its hash."""
    return KeyRecord(
        id=f"key_{sha256[:20].lower()}",
        org=settings.org,
        project=settings.project,
        name=settings.name,
        prefix=prefix,
        sha256=sha256.lower(),
        origin="file",
        terms=terms_of(settings),
        prepaid_nanousd=None if settings.prepaid_usd is None else usd_to_nanousd(settings.prepaid_usd),
    )


def bootstrap(entries: Iterable[KeySettings], environ: Mapping[str, str]) -> list[KeyRecord]:
    """Give the keys of a config file; raises KeyError with the variable's name where it is unset."""
    found = []
    for entry in entries:
        if entry.sha256 is not None:
            found.append(from_settings(entry, entry.sha256, ""))
        elif entry.key_env is not None:
            text = environ[entry.key_env]
            found.append(from_settings(entry, digest(text), shown_prefix(text)))
    return found


def resolve(registry: Registry) -> list[Key]:
    """Give the keys that count, a rotated one once for each text that does; revoked ones are left out."""
    found = []
    for record in registry.keys:
        if record.revoked_s is not None:
            continue
        key = _resolved(record, registry)
        found.append(key)
        if record.previous_sha256 is not None and record.previous_until_s is not None:
            until_s = min(record.previous_until_s, record.expires_s or record.previous_until_s)
            found.append(msgspec.structs.replace(key, sha256=record.previous_sha256, expires_s=until_s))
    return found


def _resolved(record: KeyRecord, registry: Registry) -> Key:
    org, project = record.org, record.project
    own = record.terms
    levels = (
        registry.organisations.get(org, NOTHING),
        registry.projects.get(org, {}).get(project, NOTHING),
        own,
    )
    names = (accounts.organisation(org), accounts.project(org, project), accounts.key(record.id))
    users = (accounts.users(org), accounts.users(org, project), accounts.users(org, project, record.id))
    bounds = map(terms.bound, names, levels)
    user_bounds = map(terms.end_user_bound, users, levels)
    scope = terms.SCOPES.index(terms.narrowest_scope(levels))
    return Key(
        id=record.id,
        org=org,
        project=project,
        name=record.name,
        prefix=record.prefix,
        sha256=record.sha256,
        bounds=tuple(one for one in bounds if one is not None),
        end_users=tuple(one for one in user_bounds if one is not None),
        models=terms.allowed_models(levels),
        band=terms.lowest_band(levels),
        weight=own.weight or 1.0,
        within=tuple((name, level.weight or 1.0) for name, level in zip(names[:2], levels[:2], strict=True)),
        retention_s=terms.retention_s(levels),
        scopes=frozenset(record.scopes),
        expires_s=record.expires_s,
        tenant=names[::-1][scope],
        resumable=terms.resumable(levels),
        large_share=terms.large_share(levels),
        most_large_share=terms.most_large_share(levels),
    )
