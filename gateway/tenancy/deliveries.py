"""The messages to webhooks, kept in SQL until they are delivered or given up.

A message is put in by the transaction of what it tells, so that neither is without the other. A process that
wants to send it takes a lease first; where it dies meanwhile, the lease runs out and another sends again. So
a message arrives at least once, and its id (the header ``webhook-id``) is the same each time. Failures are
tried again after 2, 4, 8... seconds up to an hour, for a day; then it is given up, which its row says.
"""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import webhook_deliveries, webhook_endpoints
from gateway.tenancy.paging import Window, page

FIRST_DELAY_S = 2.0
LONGEST_DELAY_S = 3600.0
GIVE_UP_S = 86400.0
LEASE_S = 60.0  # longer than a call may take
AT_ONCE = 32
PER_ENDPOINT = 4  # a receiver that hangs holds up its own messages, not those of others
KEEP_S = 30 * 86400.0

State = Literal["pending", "delivered", "given_up"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one endpoint; ``last_error`` says what went wrong at the last attempt, if it did."""

    id: str
    endpoint_id: str
    event: str
    state: State
    created_s: float
    attempts: int
    next_s: float
    last_status: int | None
    last_error: str
    done_s: float | None


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A message that this process may send, ``attempts`` being the number of this attempt."""

    id: str
    endpoint_id: str
    url: str
    body: str
    created_s: float
    attempts: int


def message(event: str, now_s: float, data: Any) -> bytes:
    """Write the body of a message: what happened, when, and the facts."""
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"type": event, "timestamp": at, "data": data})


def put(connection: sa.Connection, endpoint_id: str, event: str, body: bytes, now_s: float) -> Delivery:
    """Put a message in, to be sent at once."""
    made = Delivery(
        id="msg_" + secrets.token_hex(12),
        endpoint_id=endpoint_id,
        event=event,
        state="pending",
        created_s=now_s,
        attempts=0,
        next_s=now_s,
        last_status=None,
        last_error="",
        done_s=None,
    )
    columns = {**msgspec.to_builtins(made), "body": body.decode(), "leased_until_s": 0.0}
    connection.execute(sa.insert(webhook_deliveries).values(**columns))
    return made


def claim(engine: sa.Engine, now_s: float) -> list[Parcel]:
    """Take leases on messages that are due, few of each endpoint. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        due = [as_struct(row, Parcel) for row in connection.execute(_due(now_s)).mappings()]
    if not due:
        return []
    taken = []
    with engine.begin() as connection:
        for parcel in due:
            free = webhook_deliveries.c.leased_until_s <= now_s
            mine = sa.update(webhook_deliveries).where(*_still(parcel.id, parcel.attempts), free)
            leased = {"attempts": parcel.attempts + 1, "leased_until_s": now_s + LEASE_S}
            if connection.execute(mine.values(**leased)).rowcount:
                taken.append(msgspec.structs.replace(parcel, attempts=parcel.attempts + 1))
    return taken


def settle(connection: sa.Connection, parcel: Parcel, status: int | None, error: str, now_s: float) -> State:
    """Note what came of an attempt: the answer's status, or why there was none. Gives the state after.

    Changes nothing where the lease ran out and another process tries already.
    """
    state, next_s = outcome(parcel, status, now_s)
    values = {
        "state": state,
        "next_s": next_s,
        "leased_until_s": 0.0,
        "last_status": status,
        "last_error": error,
        "done_s": None if state == "pending" else now_s,
    }
    mine = sa.update(webhook_deliveries).where(*_still(parcel.id, parcel.attempts))
    connection.execute(mine.values(**values))
    return state


def outcome(parcel: Parcel, status: int | None, now_s: float) -> tuple[State, float]:
    """Say what an attempt makes of a message, and when it is next sent. Pure."""
    if status is not None and 200 <= status < 300:
        return "delivered", now_s
    next_s = now_s + min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(parcel.attempts - 1, 20))
    return ("given_up", now_s) if next_s > parcel.created_s + GIVE_UP_S else ("pending", next_s)


def waiting(connection: sa.Connection, endpoint_id: str, event: str) -> bool:
    """Tell whether a message about an event is not done yet."""
    columns = webhook_deliveries.c
    statement = sa.select(columns.id).where(columns.endpoint_id == endpoint_id, columns.event == event)
    return connection.execute(statement.where(columns.state == "pending")).first() is not None


def list_deliveries(
    connection: sa.Connection, endpoint_id: str, window: Window, state: str | None
) -> tuple[list[Delivery], str | None]:
    """Give a page of an endpoint's messages, newest first."""
    columns = webhook_deliveries.c
    statement = sa.select(webhook_deliveries).where(columns.endpoint_id == endpoint_id)
    if state is not None:
        statement = statement.where(columns.state == state)
    rows, behind = page(connection, statement, (columns.created_s, columns.id), window, newest_first=True)
    return [as_struct(row, Delivery) for row in rows], behind


def forget(connection: sa.Connection, now_s: float) -> None:
    """Delete messages that were done long ago."""
    columns = webhook_deliveries.c
    old = (columns.state != "pending", columns.done_s < now_s - KEEP_S)
    connection.execute(sa.delete(webhook_deliveries).where(*old))


def _due(now_s: float) -> sa.Select[Any]:
    columns = webhook_deliveries.c
    place = sa.func.row_number().over(partition_by=columns.endpoint_id, order_by=(columns.next_s, columns.id))
    free = (columns.state == "pending", columns.next_s <= now_s, columns.leased_until_s <= now_s)
    due = sa.select(webhook_deliveries, place.label("place")).where(*free).subquery()
    wanted = [due.c[name] for name in Parcel.__struct_fields__ if name != "url"]
    statement = sa.select(*wanted, webhook_endpoints.c.url)
    statement = statement.join(webhook_endpoints, webhook_endpoints.c.id == due.c.endpoint_id)
    return statement.where(due.c.place <= PER_ENDPOINT).order_by(due.c.next_s, due.c.id).limit(AT_ONCE)


def _still(delivery_id: str, attempts: int) -> Sequence[sa.ColumnElement[bool]]:
    columns = webhook_deliveries.c
    return (columns.id == delivery_id, columns.state == "pending", columns.attempts == attempts)
