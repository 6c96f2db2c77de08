"""The names of accounts: one for each level that can have money, and those of the house.

Names of organisations and projects hold no slash, so that no two levels share an account.
"""

import hashlib

REVENUE = "revenue"
CASH = "cash"
PROMOTIONS = "promotions"
CORRECTIONS = "corrections"
LOSSES = "losses"
HOUSE = frozenset({REVENUE, CASH, PROMOTIONS, CORRECTIONS, LOSSES})


def organisation(org: str) -> str:
    """Name the account of an organisation."""
    return f"org:{org}"


def project(org: str, name: str) -> str:
    """Name the account of a project."""
    return f"project:{org}/{name}"


def key(key_id: str) -> str:
    """Name the account of a key."""
    return f"key:{key_id}"


def users(org: str, *below: str) -> str:
    """Give what the accounts of a level's end users begin with; ``below`` are its project and key.

    An end user's hash follows; see ``end_user_hash``.
    """
    return f"user:{'/'.join((org, *below))}/"


def of_users_above(account: str) -> tuple[str, ...]:
    """Give what an end user's account is a part of: the same end user's at each level, itself included."""
    *levels, end_user = account.removeprefix("user:").split("/")
    return tuple(users(*levels[: depth + 1]) + end_user for depth in range(len(levels)))


def end_user_hash(text: str) -> str:
    """Give what the books call an end user, so that they hold nobody's name or address."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
