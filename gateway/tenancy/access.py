"""Who may do what: one table of roles, and how far a caller's arm reaches. Pure.

Organisations do not raise their own limits: what concerns more than one of them, or money, or the fleet,
belongs to the installation.
"""

from typing import Literal, get_args

import msgspec

Action = Literal[
    "orgs.write",
    "tenants.read",
    "tenants.write",
    "people.read",
    "people.write",
    "audit.read",
    "usage.read",
    "money.read",
    "money.write",
    "fleet.read",
    "fleet.write",
    "config.write",
]
Role = Literal["owner", "admin", "billing", "viewer"]

EVERYTHING = "*"
ALL: frozenset[Action] = frozenset(get_args(Action))
READ: frozenset[Action] = frozenset({"tenants.read", "usage.read", "money.read", "fleet.read"})

ROLES: dict[str, frozenset[Action]] = {
    "owner": ALL,
    "admin": ALL - {"people.write"},
    "billing": READ | {"money.write"},
    "viewer": READ,
    "own-usage": frozenset({"usage.read"}),  # an API key that may see what it used itself
}

INSTALLATION_ONLY: frozenset[Action] = frozenset(
    {"orgs.write", "money.write", "fleet.read", "fleet.write", "config.write"}
)


class Reach(msgspec.Struct, frozen=True):
    """What a look-up may see: data of one organisation (by name) or of all (``*``), of one key or all."""

    org: str = EVERYTHING
    key_id: str | None = None

    def covers(self, org: str) -> bool:
        """Tell whether an organisation is within."""
        return self.org in (EVERYTHING, org)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks the admin API: the admin key, a person, or an API key with a scope for it."""

    actor: str
    role: str
    org: str = EVERYTHING
    key_id: str | None = None

    def reach(self, action: Action) -> Reach | None:
        """Give how far this action reaches; None where the caller may not do it at all."""
        if action not in ROLES[self.role]:
            return None
        if self.org != EVERYTHING and action in INSTALLATION_ONLY:
            return None
        return Reach(self.org, self.key_id)
