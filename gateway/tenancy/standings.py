"""What SQL knows of the accounts that have a budget or credit, for the limits to count on."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.state.limits import Bound, Standing
from gateway.state.periods import spans
from gateway.tenancy import ledger
from gateway.tenancy.keys import Key

Standings = dict[str, Standing]


def read(connection: sa.Connection, keys: Iterable[Key], now_s: float) -> Standings:
    """Give the standing of every account whose money is limited. Raises SQLAlchemyError."""
    found = list(keys)
    wanted = _accounts(found)
    users = any(key.end_user is not None and key.end_user.budget_nanousd is not None for key in found)
    if not wanted and not users:
        return {}
    balances = ledger.all_balances(connection)
    spent = {
        period: ledger.spent(connection, "" if period == "total" else ledger.day_of(span.start_s))
        for period, span in spans(now_s).items()
    }
    if users:
        wanted |= {account for account in spent["total"] if account.startswith("user:")}
    return {
        account: Standing(
            balance_nanousd=balances.get(account, 0),
            spent={period: amounts.get(account, 0) for period, amounts in spent.items()},
        )
        for account in wanted
    }


def write_snapshot(path: Path, found: Standings) -> None:
    """Keep standings on disk, atomically, for a start without the database. Raises OSError."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(found))
    partial.replace(path)


def read_snapshot(path: Path, granted: Mapping[str, int]) -> Standings:
    """Give what was known last; of accounts that are new since, the credit that the file grants."""
    known = {account: Standing(balance_nanousd=amount, spent={}) for account, amount in granted.items()}
    try:
        return known | msgspec.json.decode(path.read_bytes(), type=Standings)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return known


def _accounts(keys: list[Key]) -> set[str]:
    return {bound.account for key in keys for bound in key.bounds if _has_money(bound)}


def _has_money(bound: Bound) -> bool:
    return bound.credit or bound.budget_nanousd is not None
