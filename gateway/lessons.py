"""What routing has learnt, in SQL: labels, and what of their teaching is in force, for all on the database.

A lesson is what labels taught about a route: its curve of quality, or for a tenant a challenger of the
shipped order. Whatever is put in force or withdrawn has a line in the audit log. A reset withdraws all of a
route's lessons and sets its labels aside, for good; it can be taken back, and until then the withdrawn
lessons stay beside those that new labels teach. A reset where nothing is in force adds to the one before.
Lessons of other weights than the process has do not count. Everything here is synchronous, runs in threads,
and raises SQLAlchemyError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct
from gateway.tables import routing_labels, routing_lessons, routing_resets
from gateway.tenancy.access import EVERYTHING
from gateway.tenancy.changes import Change
from routing.labels import Label

MOST_LABELS = 5_000  # of a route
AT_ONCE = 20_000
IN_ORDER = sa.text("SELECT pg_advisory_xact_lock(7731004)")
"""Who writes labels waits for who does: ids show as they rise, and readers go on from the newest one."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Label).decode


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """What labels taught a route, or a tenant on it; ``weights`` name those that it is about."""

    route: str
    tenant: str = ""
    in_force: bool
    weights: str
    body: bytes = b""
    trial: dict[str, Any] | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What the audit log says of it."""
        return {"tenant": self.tenant, "in_force": self.in_force, "trial": self.trial}


class Lessons(msgspec.Struct, frozen=True):
    """All of them, by route and tenant, and from which label on a route's labels count."""

    by_name: Mapping[tuple[str, str], Lesson] = {}
    resets: Mapping[str, int] = {}


def add(engine: sa.Engine, labels: Sequence[Label]) -> None:
    """Keep labels."""
    rows = [{"route": one.route, "body": _encode(one)} for one in labels]
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
            connection.execute(IN_ORDER)
        connection.execute(sa.insert(routing_labels), rows)


def labels_since(engine: sa.Engine, newest: int) -> dict[int, Label | None]:
    """Give the labels behind ``newest``, by id; None for a broken one."""
    statement = sa.select(routing_labels.c.id, routing_labels.c.body)
    statement = statement.where(routing_labels.c.id > newest).order_by(routing_labels.c.id)
    found: dict[int, Label | None] = {}
    with engine.connect() as connection:
        for id_, body in connection.execute(statement.limit(AT_ONCE)):
            try:
                found[id_] = _decode(body)
            except msgspec.DecodeError:
                found[id_] = None  # of another version
    return found


def tidy(engine: sa.Engine, route: str) -> None:
    """Forget the oldest labels of a route where they are more than MOST_LABELS."""
    newest = sa.select(routing_labels.c.id).where(routing_labels.c.route == route)
    edge = newest.order_by(routing_labels.c.id.desc()).offset(MOST_LABELS).limit(1)
    with engine.begin() as connection:
        at = connection.execute(edge).scalar()
        if at is not None:
            old = routing_labels.c.route == route, routing_labels.c.id <= at
            connection.execute(sa.delete(routing_labels).where(*old))


def read(engine: sa.Engine) -> Lessons:
    """Give what stands there."""
    with engine.connect() as connection:
        standing_last = sa.select(routing_lessons).order_by(routing_lessons.c.was_in_force.desc())
        lessons = [as_struct(row, Lesson) for row in connection.execute(standing_last).mappings()]
        resets = connection.execute(sa.select(routing_resets.c.route, routing_resets.c.from_id))
        return Lessons({(one.route, one.tenant): one for one in lessons}, {r: int(at) for r, at in resets})


def put(change: Change, lesson: Lesson) -> None:
    """Put a lesson in the place of the one before; where it comes in force or leaves it, with a line."""
    mine = (
        routing_lessons.c.route == lesson.route,
        routing_lessons.c.tenant == lesson.tenant,
        ~routing_lessons.c.was_in_force,
    )
    row = change.connection.execute(sa.select(routing_lessons).where(*mine)).mappings().first()
    before = as_struct(row, Lesson) if row is not None else None
    change.connection.execute(sa.delete(routing_lessons).where(*mine))
    values = msgspec.structs.asdict(lesson) | {"was_in_force": False, "changed_s": change.now_s}
    change.connection.execute(sa.insert(routing_lessons).values(**values))
    was = before is not None and before.in_force
    if was == lesson.in_force:
        return
    action = "routing.promote" if lesson.in_force else "routing.demote"
    change.record(
        action,
        (_org_of(lesson.tenant), lesson.route),
        before.told if before is not None else None,
        lesson.told,
    )


def reset(change: Change, route: str) -> None:
    """Withdraw the lessons of a route, and set aside the labels that there are."""
    connection, before = change.connection, _in_force(change, route)
    newest = connection.execute(
        sa.select(sa.func.max(routing_labels.c.id)).where(routing_labels.c.route == route)
    ).scalar()
    mine = routing_resets.c.route == route
    last = connection.execute(sa.select(routing_resets).where(mine)).mappings().first()
    before_id = at = last["from_id"] if last is not None else 0
    if last is not None and not before["in_force"]:
        before_id = last["before_id"]
    else:
        _withdraw(change, route)
    connection.execute(sa.delete(routing_resets).where(mine))
    row = {"route": route, "from_id": max(newest or 0, at), "before_id": before_id}
    connection.execute(sa.insert(routing_resets).values(**row))
    change.record("routing.reset", (EVERYTHING, route), before, {"in_force": []})


def _withdraw(change: Change, route: str) -> None:
    mine, in_force = routing_lessons.c.route == route, routing_lessons.c.in_force
    change.connection.execute(sa.delete(routing_lessons).where(mine, routing_lessons.c.was_in_force))
    withdrawn = {"in_force": False, "was_in_force": True, "changed_s": change.now_s}
    change.connection.execute(sa.update(routing_lessons).where(mine, in_force).values(**withdrawn))


def restore(change: Change, route: str) -> bool:
    """Take the last reset of a route back; tells whether there was one.

    What it withdrew goes before what the same tenants' labels taught since.
    """
    connection, before = change.connection, _in_force(change, route)
    mine = routing_resets.c.route == route
    found = connection.execute(sa.select(routing_resets.c.before_id).where(mine)).scalar()
    if found is None:
        return False
    connection.execute(sa.delete(routing_resets).where(mine))
    if found:
        connection.execute(sa.insert(routing_resets).values(route=route, from_id=found, before_id=0))
    withdrawn = routing_lessons.c.route == route, routing_lessons.c.was_in_force
    theirs = routing_lessons.c.tenant.in_(sa.select(routing_lessons.c.tenant).where(*withdrawn))
    since = routing_lessons.c.route == route, ~routing_lessons.c.was_in_force, theirs
    connection.execute(sa.delete(routing_lessons).where(*since))
    back = {"in_force": True, "was_in_force": False, "changed_s": change.now_s}
    connection.execute(sa.update(routing_lessons).where(*withdrawn).values(**back))
    change.record("routing.restore", (EVERYTHING, route), before, _in_force(change, route))
    return True


def counts_from(change: Change, route: str) -> int:
    """Give the label behind which a route's labels count."""
    statement = sa.select(routing_resets.c.from_id).where(routing_resets.c.route == route)
    return int(change.connection.execute(statement).scalar() or 0)


def _org_of(tenant: str) -> str:
    """Give the organisation whose audit log is told; a tenant is named like its account."""
    kind, _, name = tenant.partition(":")
    return name.partition("/")[0] if kind in ("org", "project") else EVERYTHING


def _in_force(change: Change, route: str) -> dict[str, Any]:
    statement = sa.select(routing_lessons.c.tenant).where(
        routing_lessons.c.route == route, routing_lessons.c.in_force
    )
    return {"in_force": sorted(change.connection.execute(statement).scalars())}
