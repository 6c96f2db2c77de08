"""Questions about usage: single requests by page, sums by day, and what a period comes to."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from gateway.database import as_struct, ledger
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.paging import Window, page


class RequestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One settled request; ``metadata`` is JSON text, ``end_user`` a hash, both empty where there is none."""

    request_id: str
    ts: float
    org: str
    project: str
    key_id: str
    model: str
    route: str
    status: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount_nanousd: int
    price_version: str
    source: str
    attempts: int
    replicas: str
    estimated: bool
    reasoning_tokens: int
    baseline_nanousd: int
    service: str
    operation: str
    end_user: str
    metadata: str


Span = tuple[float | None, float | None]


def requests(
    connection: sa.Connection, reach: Reach, window: Window, filters: Mapping[str, str | None], span: Span
) -> tuple[list[RequestRow], str | None]:
    """Give a page of requests, newest first, of a half-open span of time; filters are columns and values."""
    statement = sa.select(*(ledger.c[name] for name in RequestRow.__struct_fields__))
    own = {"org": None if reach.org == EVERYTHING else reach.org, "key_id": reach.key_id}
    for column, value in (*filters.items(), *own.items()):
        if value is not None:
            statement = statement.where(ledger.c[column] == value)
    if span[0] is not None:
        statement = statement.where(ledger.c.ts >= span[0])
    if span[1] is not None:
        statement = statement.where(ledger.c.ts < span[1])
    rows, behind = page(connection, statement, (ledger.c.ts, ledger.c.request_id), window, newest_first=True)
    return [as_struct(row, RequestRow) for row in rows], behind
