"""Holds in SQL: what each process may use of an account, given out so that no limit is ever passed.

``room`` of an account is its limit less what is booked less what others hold. Who asks gets what it needs of
that, and half of the rest where it wants more. Accounts are locked for the time of a round. Holders whose
lease is over hold nothing; what is missing then is in their journals.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from gateway.state.holds import LEASE_S, Grant, Round, Wish
from gateway.state.limits import Bound, Standing
from gateway.state.periods import Period, spans
from gateway.tables import api_keys, balances, holders, holds, organisations, projects, spend_daily
from gateway.tenancy import accounts, ledger

CHUNK = 500
FORGET_S = 3600.0

LOCK = sa.text(
    "SELECT pg_advisory_xact_lock(lock) FROM (SELECT DISTINCT hashtextextended(account, 7731003) AS lock"
    " FROM unnest(CAST(:accounts AS text[])) AS account ORDER BY 1) AS locks"
)


class Row(msgspec.Struct, frozen=True):
    """What others hold of an account, and how much of it they did not need when they said so."""

    held: int = 0
    spare: int = 0


def hold(engine: sa.Engine, holder: str, wishes: Sequence[Wish], now_s: float) -> Round:
    """Keep the lease, answer wishes, and tell which accounts others want more of. Raises SQLAlchemyError.

    What the process has settled must be carried before. A lease that was over has lost all holds.
    """
    with engine.begin() as connection:
        lapsed = _renew(connection, holder, now_s)
        grants = _answer(connection, holder, wishes, now_s) if wishes else []
    # By itself: here accounts are not locked, and two processes that ask each other must not wait for each
    # other's rows.
    with engine.begin() as connection:
        if lapsed:
            _forget(connection, now_s)
        mine = sa.and_(holds.c.holder == holder, holds.c.asked)
        asked = list(connection.execute(sa.select(holds.c.account).where(mine)).scalars())
        if asked:
            connection.execute(holds.update().where(mine).values(asked=False))
    return Round(grants=grants, asked=asked, lapsed=lapsed)


def give_back(engine: sa.Engine, holder: str) -> None:
    """Give up all holds; what was spent must be carried before. Raises SQLAlchemyError."""
    with engine.begin() as connection:
        connection.execute(holds.delete().where(holds.c.holder == holder))
        connection.execute(holders.delete().where(holders.c.holder == holder))


def granted(wish: Wish, room: int, *, kept: bool) -> int:
    """Give what a process holds after its wish: no less than it has, no more than there is room for.

    ``kept`` says that it holds what it has told; if not, it needs what is reserved all the same. A part of
    what it needs is of use only where the smallest request fits into it.
    """
    has = wish.held if kept else wish.reserved
    if room >= wish.need:
        wanted = wish.need + ((room - wish.need) // 2 if wish.spare else 0)
    else:
        wanted = room if room - wish.reserved >= wish.least else wish.reserved
    return max(has, min(wanted, room))


def spare(wish: Wish, held: int) -> int:
    """Give what of a hold nothing is reserved for, and no request waits for that it covers."""
    return max(0, held - (wish.need if held >= wish.need else wish.reserved))


def _answer(connection: sa.Connection, holder: str, wishes: Sequence[Wish], now_s: float) -> list[Grant]:
    names = [wish.bound.account for wish in wishes]
    if connection.dialect.name == "postgresql":  # SQLite has one writer, and that is us by now
        connection.execute(LOCK, {"accounts": names})
    standings = _standings(connection, [wish.bound for wish in wishes], now_s)
    kept, others = _held(connection, holder, names, now_s)
    grants, wanting = [], []
    for wish in wishes:
        account = wish.bound.account
        other, standing = others.get(account, Row()), standings[account]
        held = granted(wish, left_of(wish.bound, standing) - other.held, kept=account in kept)
        grants.append(Grant(account=account, held=held, others_spare=other.spare, standing=standing))
        if held < wish.need and other.spare > 0:
            wanting.append(account)
    _write(connection, holder, wishes, grants)
    for chunk in _chunks(wanting):
        theirs = sa.and_(holds.c.account.in_(chunk), holds.c.holder != holder)
        connection.execute(holds.update().where(theirs).values(asked=True))
    return grants


def _renew(connection: sa.Connection, holder: str, now_s: float) -> bool:
    """Keep the lease; tells whether it was over, or never there: then nothing is held any more."""
    mine, lease = holders.c.holder == holder, {"until_s": now_s + LEASE_S}
    running = sa.and_(mine, holders.c.until_s >= now_s)
    if connection.execute(holders.update().where(running).values(lease)).rowcount:
        return False
    connection.execute(holds.delete().where(holds.c.holder == holder))
    connection.execute(holders.delete().where(mine))
    connection.execute(holders.insert().values(holder=holder, **lease))
    return True


def _forget(connection: sa.Connection, now_s: float) -> None:
    """Remove holders that have been gone for long, and what they held."""
    gone = sa.select(holders.c.holder).where(holders.c.until_s < now_s - FORGET_S)
    connection.execute(holds.delete().where(holds.c.holder.in_(gone)))
    connection.execute(holders.delete().where(holders.c.until_s < now_s - FORGET_S))


def left_of(bound: Bound, standing: Standing) -> int:
    """Give what is left of an account by what is booked."""
    left = []
    if bound.credit:
        left.append(standing.balance_nanousd - bound.floor_nanousd)
    if bound.budget_nanousd is not None:
        left.append(bound.budget_nanousd - standing.spent[bound.budget_period])
    return min(left, default=0)


def _held(
    connection: sa.Connection, holder: str, names: Sequence[str], now_s: float
) -> tuple[set[str], dict[str, Row]]:
    """Give the accounts of which this process holds something, and what others hold, whose lease runs."""
    kept: set[str] = set()
    others: dict[str, Row] = {}
    for chunk in _chunks(names):
        statement = (
            sa.select(holds.c.account, holds.c.holder, holds.c.amount_nanousd, holds.c.spare_nanousd)
            .join(holders, holders.c.holder == holds.c.holder)
            .where(holds.c.account.in_(chunk), holders.c.until_s >= now_s)
        )
        for account, whose, amount, spare in connection.execute(statement):
            if whose == holder:
                kept.add(account)
                continue
            before = others.get(account, Row())
            others[account] = Row(before.held + amount, before.spare + spare)
    return kept, others


def _write(connection: sa.Connection, holder: str, wishes: Iterable[Wish], grants: Sequence[Grant]) -> None:
    names = [grant.account for grant in grants]
    for chunk in _chunks(names):
        mine = sa.and_(holds.c.holder == holder, holds.c.account.in_(chunk))
        connection.execute(holds.delete().where(mine))
    rows = [
        {
            "account": grant.account,
            "holder": holder,
            "amount_nanousd": grant.held,
            "spare_nanousd": spare(wish, grant.held),
            "asked": False,
        }
        for wish, grant in zip(wishes, grants, strict=True)
        if grant.held > 0
    ]
    if rows:
        connection.execute(holds.insert(), rows)


def _standings(connection: sa.Connection, bounds: Sequence[Bound], now_s: float) -> dict[str, Standing]:
    """Give what SQL knows of accounts now."""
    parts = {bound.account: _parts(connection, bound.account) for bound in bounds}
    names = sorted({name for several in parts.values() for name in several})
    held: dict[str, int] = {}
    spent: dict[str, dict[Period, int]] = {name: {} for name in names}
    for chunk in _chunks(names):
        balance = sa.select(balances.c.account, balances.c.transferred_nanousd - balances.c.used_nanousd)
        for account, amount in connection.execute(balance.where(balances.c.account.in_(chunk))):
            held[account] = int(amount)
        spent.update(_spent(connection, chunk, now_s))
    return {
        account: Standing(balance_nanousd=held.get(account, 0), spent=_added(spent[name] for name in several))
        for account, several in parts.items()
    }


def _spent(connection: sa.Connection, names: Sequence[str], now_s: float) -> dict[str, dict[Period, int]]:
    amount, day = spend_daily.c.amount_nanousd, spend_daily.c.day
    periods = spans(now_s)
    sums = [
        sa.func.sum(sa.case((day >= ledger.day_of(span.start_s), amount), else_=0))
        for span in periods.values()
    ]
    statement = sa.select(spend_daily.c.account, *sums).where(spend_daily.c.account.in_(names))
    rows = connection.execute(statement.group_by(spend_daily.c.account))
    return {row[0]: dict(zip(periods, map(int, row[1:]), strict=True)) for row in rows}


def _parts(connection: sa.Connection, account: str) -> list[str]:
    """Give the accounts that have what was spent: an end user's are those at each key of the level."""
    if not account.startswith("user:"):
        return [account]
    *levels, end_user = account.removeprefix("user:").split("/")
    if len(levels) == 3:
        return [account]
    statement = (
        sa.select(projects.c.name, api_keys.c.id)
        .select_from(api_keys.join(projects).join(organisations))
        .where(organisations.c.name == levels[0])
    )
    if len(levels) == 2:
        statement = statement.where(projects.c.name == levels[1])
    found = connection.execute(statement)
    return [accounts.users(levels[0], project, key_id) + end_user for project, key_id in found]


def _added(parts: Iterable[Mapping[Period, int]]) -> dict[Period, int]:
    total: dict[Period, int] = {"day": 0, "week": 0, "month": 0, "total": 0}
    for part in parts:
        for period, amount in part.items():
            total[period] += amount
    return total


def _chunks(names: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
