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


def user(org: str, project_name: str, end_user: str) -> str:
    """Name the account of an end user, who is known by a hash only; see ``end_user_hash``."""
    return f"user:{org}/{project_name}/{end_user}"


def end_user_hash(text: str) -> str:
    """Give what the books call an end user, so that they hold nobody's name or address."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
