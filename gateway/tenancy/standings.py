"""What SQL knows of the accounts that have a budget or credit, for the limits to count on."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from gateway.state.limits import Bound, Standing
from gateway.state.periods import spans
from gateway.tenancy import accounts, ledger
from gateway.tenancy.keys import Key

Standings = dict[str, Standing]


def read(connection: sa.Connection, keys: Iterable[Key], now_s: float) -> Standings:
    """Give the standing of every account whose money is limited. Raises SQLAlchemyError."""
    found = list(keys)
    wanted = _accounts(found)
    users = {bound.account for key in found for bound in key.end_users if _has_money(bound)}
    if not wanted and not users:
        return {}
    balances = ledger.all_balances(connection)
    spent = {
        period: ledger.spent(connection, "" if period == "total" else ledger.day_of(span.start_s))
        for period, span in spans(now_s).items()
    }
    if users:
        spent = {period: _with_users(amounts) for period, amounts in spent.items()}
        wanted |= {account for account in spent["total"] if _users_of(account) in users}
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


def _with_users(spent: Mapping[str, int]) -> dict[str, int]:
    """Give amounts with those of end users at every level; the books have them at the lowest only."""
    found = {account: amount for account, amount in spent.items() if not account.startswith("user:")}
    for account in spent.keys() - found.keys():
        for level in accounts.of_users_above(account):
            found[level] = found.get(level, 0) + spent[account]
    return found


def _users_of(account: str) -> str:
    """Give what the accounts of a level's end users begin with, of the account of one of them."""
    return account[: account.rfind("/") + 1]


def _has_money(bound: Bound) -> bool:
    return bound.credit or bound.budget_nanousd is not None
