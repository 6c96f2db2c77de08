"""Money that moves otherwise than by a request: grants, top-ups, refunds, expiries, corrections, write-offs.

Every movement debits one account and credits another, once: a second one with the same idempotency key
changes nothing. Corrections are new movements, rows never change. A grant may expire: what was not used of it
by then is taken back, and of several grants the one that expires first is used first.
"""

import hashlib
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import balances, transfers
from gateway.tenancy import accounts
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.keys import KeyRecord
from gateway.tenancy.paging import Window, page

Kind = Literal["grant", "top_up", "refund", "expiry", "correction", "write_off"]
MAX_NANOUSD = 2**60  # a thousand million USD
MAX_HELD_NANOUSD = 2**62  # by one account in all: twice that would not fit SQL's 64 bits

# The other side of a movement. The customer's account is credited, but for an expiry.
OTHER_SIDE: dict[str, str] = {
    "grant": accounts.PROMOTIONS,
    "top_up": accounts.CASH,
    "refund": accounts.REVENUE,
    "expiry": accounts.PROMOTIONS,
    "correction": accounts.CORRECTIONS,
    "write_off": accounts.LOSSES,
}


class TransferError(ValueError):
    """A movement that cannot be booked; the text names the field and the remedy."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One movement; a correction may be negative, an expiry is what is taken, everything else is given."""

    kind: Kind
    account: str
    org: str
    amount_nanousd: int
    ts: float
    actor: str
    note: str = ""
    request_id: str | None = None
    expires_s: float | None = None
    idempotency_key: str = ""


def transfer(connection: sa.Connection, given: Transfer) -> str:
    """Book a movement and change both balances; gives its id, the first one's where it was booked before.

    Raises TransferError where its idempotency key was used for another movement, or its fields do not fit.
    """
    _check(given)
    id_ = f"tr_{secrets.token_hex(12)}"
    other = OTHER_SIDE[given.kind]
    takes = given.kind == "expiry" or given.amount_nanousd < 0
    debit, credit = (given.account, other) if takes else (other, given.account)
    row: dict[str, Any] = {
        "id": id_,
        "ts": given.ts,
        "kind": given.kind,
        "debit": debit,
        "credit": credit,
        "amount_nanousd": abs(given.amount_nanousd),
        "org": given.org,
        "used_nanousd": _used(connection, given.account),
        "request_id": given.request_id,
        "expires_s": given.expires_s,
        "actor": given.actor,
        "note": given.note,
        "idempotency_key": given.idempotency_key or id_,
    }
    names = ", ".join(row)
    statement = sa.text(
        f"INSERT INTO transfers ({names}) VALUES ({', '.join(f':{name}' for name in row)}) "  # noqa: S608
        "ON CONFLICT (idempotency_key) DO NOTHING"
    )
    if not connection.execute(statement, row).rowcount:
        return _booked(connection, row)
    for account, amount in sorted(((debit, -row["amount_nanousd"]), (credit, row["amount_nanousd"]))):
        _move(connection, account, amount)
    _check_held(connection, debit, credit)
    if given.expires_s is not None and given.expires_s <= given.ts:  # but a repetition may come late
        raise TransferError("expires_s: it is in the past; give a moment to come")
    return id_


def declared(record: KeyRecord, now_s: float) -> Transfer:
    """Give the credit that a key was made with, as the movement that grants it."""
    return Transfer(
        kind="grant",
        account=accounts.key(record.id),
        org=record.org,
        amount_nanousd=record.prepaid_nanousd or 0,
        ts=now_s,
        actor="prepaid",
        note="the credit that the key was made with",
    )


def set_declared(connection: sa.Connection, given: Transfer) -> str | None:
    """Bring the credit that ``given.actor`` has given an account to an amount, by what is missing.

    For a file or a form that says how much there shall be in all. Gives the id of what was booked, if any.
    """
    already = 0
    for row in _of(connection, given.account):
        if row["actor"] == given.actor and row["kind"] in ("grant", "correction"):
            already += row["amount_nanousd"] if row["credit"] == given.account else -row["amount_nanousd"]
    missing = given.amount_nanousd - already
    if not missing:
        return None
    kind: Kind = "grant" if missing > 0 else "correction"
    digest = hashlib.sha256(repr((given.actor, given.account, already, missing)).encode()).hexdigest()
    key = f"declared:{digest[:32]}:{len(_of(connection, given.account))}"
    changed = msgspec.structs.replace(given, kind=kind, amount_nanousd=missing, idempotency_key=key)
    return transfer(connection, changed)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One movement as it is booked; ``debit`` gave, ``credit`` got."""

    id: str
    ts: float
    kind: str
    debit: str
    credit: str
    amount_nanousd: int
    org: str
    request_id: str | None
    expires_s: float | None
    actor: str
    note: str


def line(connection: sa.Connection, transfer_id: str) -> Line:
    """Give one movement, which must be there."""
    statement = sa.select(transfers).where(transfers.c.id == transfer_id)
    return as_struct(connection.execute(statement).mappings().one(), Line)


def lines(
    connection: sa.Connection, reach: Reach, window: Window, filters: Mapping[str, str | None]
) -> tuple[list[Line], str | None]:
    """Give a page of movements, newest first; filters are ``org``, ``kind`` and ``account``."""
    statement = sa.select(*(transfers.c[name] for name in Line.__struct_fields__))
    if reach.org != EVERYTHING:
        statement = statement.where(transfers.c.org == reach.org)
    for name, value in filters.items():
        if value is None:
            continue
        if name == "account":
            statement = statement.where(sa.or_(transfers.c.debit == value, transfers.c.credit == value))
        else:
            statement = statement.where(transfers.c[name] == value)
    rows, behind = page(connection, statement, (transfers.c.ts, transfers.c.id), window, newest_first=True)
    return [as_struct(row, Line) for row in rows], behind


_taken = transfers.alias()
_EXPIRING = (
    transfers.c.expires_s >= sa.bindparam("since_s"),
    ~sa.exists().where(_taken.c.idempotency_key == "expiry:" + transfers.c.id),
)
_NEXT_EXPIRY = sa.select(sa.func.min(transfers.c.expires_s)).where(*_EXPIRING)
_EXPIRED = (
    sa.select(transfers)
    .where(*_EXPIRING, transfers.c.expires_s <= sa.bindparam("by_s"))
    .order_by(transfers.c.expires_s, transfers.c.ts, transfers.c.id)
)


def next_expiry(connection: sa.Connection, since_s: float) -> float:
    """Give when there is next something for ``expire``, infinity where nothing expires.

    What expired before ``since_s`` is known to be taken back, and not looked at.
    """
    found = connection.execute(_NEXT_EXPIRY, {"since_s": since_s}).scalar()
    return math.inf if found is None else float(found)


def expire(
    connection: sa.Connection, now_s: float, *, grace_s: float = 0.0, since_s: float = 0.0
) -> list[str]:
    """Take back what is left of grants that expired ``grace_s`` ago; gives the accounts that changed.

    What expired before ``since_s`` is known to be taken back, and not looked at.
    """
    due = {"by_s": now_s - grace_s, "since_s": since_s}
    changed = []
    for grant in list(connection.execute(_EXPIRED, due).mappings()):
        account = grant["credit"]
        left = remaining(_of(connection, account), account, _used(connection, account))
        transfer(
            connection,
            Transfer(
                kind="expiry",
                account=account,
                org=grant["org"],
                amount_nanousd=left.get(grant["id"], 0),
                ts=now_s,
                actor="system",
                note=f"what was left of {grant['id']}",
                idempotency_key=f"expiry:{grant['id']}",
            ),
        )
        changed.append(account)
    return changed


def remaining(rows: Iterable[Any], account: str, used_nanousd: int) -> dict[str, int]:
    """Give what is left of each credit of an account, by its id; pure.

    ``rows`` are its movements in order of time, each with what the account had used by then. What is used or
    taken between two movements comes from the credit that expires first, and among those from the oldest.
    """
    left: dict[str, tuple[float, int, int]] = {}  # id: expiry, order, amount
    debt = before = 0

    def take(amount: int) -> int:
        for name, (expires_s, order, there) in sorted(left.items(), key=lambda item: item[1][:2]):
            part = min(there, amount)
            left[name] = (expires_s, order, there - part)
            amount -= part
        return amount

    for order, row in enumerate(rows):
        debt += take(max(0, row["used_nanousd"] - before))
        before = max(before, row["used_nanousd"])
        amount = row["amount_nanousd"]
        if row["kind"] == "expiry":
            grant = row["idempotency_key"].removeprefix("expiry:")
            if grant in left:
                expires_s, place, there = left[grant]
                left[grant] = (expires_s, place, max(0, there - amount))
        elif row["debit"] == account:
            debt += take(amount)
        else:
            paid = min(debt, amount)
            debt -= paid
            left[row["id"]] = (row["expires_s"] or math.inf, order, amount - paid)
    take(max(0, used_nanousd - before))
    return {name: there for name, (_, _, there) in left.items()}


def _check(given: Transfer) -> None:
    amount = given.amount_nanousd
    if abs(amount) > MAX_NANOUSD:
        raise TransferError("amount_usd: it is over a thousand million USD; split it")
    if given.kind == "correction" and not amount:
        raise TransferError("amount_usd: a correction of nothing; give a positive or a negative amount")
    if given.kind not in ("correction", "expiry") and amount <= 0:
        raise TransferError(f"amount_usd: a {given.kind} is positive; use a correction to take credit away")
    if given.account in accounts.HOUSE:
        raise TransferError("account: it belongs to the house; name an organisation, a project or a key")
    if given.expires_s is not None and given.kind not in ("grant", "top_up"):
        raise TransferError(f"expires_s: a {given.kind} cannot expire; leave it out")


def _check_held(connection: sa.Connection, *names: str) -> None:
    statement = sa.select(balances.c.account, balances.c.transferred_nanousd)
    for account, amount in connection.execute(statement.where(balances.c.account.in_(names))):
        if abs(amount) > MAX_HELD_NANOUSD:
            raise TransferError(f"amount_usd: {account} would move more than the books can hold")


def _booked(connection: sa.Connection, row: dict[str, Any]) -> str:
    """Give the id of the movement with the same idempotency key; raises TransferError if it differs."""
    statement = sa.select(transfers).where(transfers.c.idempotency_key == row["idempotency_key"])
    found = connection.execute(statement).mappings().one()
    same = ("kind", "debit", "credit", "amount_nanousd")
    if row["kind"] != "expiry" and any(found[name] != row[name] for name in same):
        raise TransferError("idempotency_key: it was used for another movement; choose a new one")
    return str(found["id"])


def _of(connection: sa.Connection, account: str) -> list[sa.RowMapping]:
    """Give the movements of an account, oldest first."""
    statement = sa.select(transfers).where(
        sa.or_(transfers.c.debit == account, transfers.c.credit == account)
    )
    return list(connection.execute(statement.order_by(transfers.c.ts, transfers.c.id)).mappings())


def _used(connection: sa.Connection, account: str) -> int:
    statement = sa.select(balances.c.used_nanousd).where(balances.c.account == account)
    return int(connection.execute(statement).scalar() or 0)


def _move(connection: sa.Connection, account: str, amount_nanousd: int) -> None:
    statement = sa.text(
        "INSERT INTO balances (account, transferred_nanousd, used_nanousd) VALUES (:account, :amount, 0) "
        "ON CONFLICT (account) DO UPDATE "
        "SET transferred_nanousd = balances.transferred_nanousd + excluded.transferred_nanousd"
    )
    connection.execute(statement, {"account": account, "amount": amount_nanousd})
