"""``/admin/v1``: one file per resource, each a line in RESOURCES; ``frame`` is what they share."""

from litestar import Router
from sqlalchemy.exc import SQLAlchemyError

from gateway.api.admin import (
    cache,
    config,
    decisions,
    fleet,
    frame,
    keys,
    learning,
    live,
    movements,
    organisations,
    people,
    plans,
    prices,
    projects,
    proofs,
    records,
    session,
    usage,
    versions,
    webhooks,
    whatif,
)
from gateway.database import DatabaseError
from gateway.process import Process

RESOURCES = (
    organisations.handlers,
    projects.handlers,
    keys.handlers,
    people.handlers,
    session.handlers,
    records.handlers,
    decisions.handlers,
    proofs.handlers,
    prices.handlers,
    movements.handlers,
    usage.handlers,
    live.handlers,
    webhooks.handlers,
    fleet.handlers,
    versions.handlers,
    plans.handlers,
    whatif.handlers,
    learning.handlers,
    config.handlers,
    cache.handlers,
)


def handlers(process: Process) -> list[Router]:
    """Make the one router of the admin API."""
    return [
        Router(
            "/admin/v1",
            route_handlers=[handler for make in RESOURCES for handler in make(process)],
            before_request=frame.authentication(process.control),
            exception_handlers={SQLAlchemyError: frame.database_away, DatabaseError: frame.database_away},
            security=[{"admin key": []}, {"session": []}],
        )
    ]
