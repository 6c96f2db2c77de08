"""``/admin/v1/usage``: sums by day and dimension, by metadata, per month; and the rows as a file."""

import itertools
from typing import Annotated, Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.response import Stream

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Filter, Page
from gateway.errors import InvalidRequest
from gateway.process import Control, Process
from gateway.tenancy import organisations, usage
from gateway.tenancy.export import Format, written
from gateway.tenancy.usage import Dimension, Invoice, Share, Sum

Day = Annotated[
    str | None, QueryParameter(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]$", description="A day, UTC.")
]
Month = Annotated[str, QueryParameter(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", description="A month, UTC.")]
Moment = Annotated[float, QueryParameter(ge=0, le=1e11, description="Seconds since 1970.")]
Dimensions = Annotated[
    list[Dimension] | None, QueryParameter(description="What to group by; default the day.")
]
Label = Annotated[str, QueryParameter(pattern=r"^[A-Za-z0-9_.:-]{1,64}$", description="A metadata key.")]
Organisation = Annotated[str, QueryParameter(max_length=200, pattern=r"^[^/\x00-\x1f\x7f]+$")]
DAY: tuple[Dimension, ...] = ("day",)
DOCS: dict[str, Any] = {"tags": ["usage"], "sync_to_thread": True}
SPAN_S = 31 * 86400.0


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control

    @get("/usage", summary="Add usage up", responses=frame.LISTS, **DOCS)
    def read_usage(  # one parameter per filter
        request: AdminRequest,
        by: Dimensions = None,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
        model: Filter = None,
        from_day: Day = None,
        to_day: Day = None,
    ) -> Page[Sum]:
        """Requests, tokens and cost by day or other dimensions, of a half-open span of days."""
        reach = frame.permitted(request, "usage.read")
        filters = {"org": org, "project": project, "key_id": key_id, "model": model}
        with frame.reading(control) as connection:
            wanted = tuple(dict.fromkeys(by or ())) or DAY
            found = usage.daily(connection, reach, filters, (from_day, to_day), wanted)
        return Page(found, None)

    @get("/usage/metadata", summary="Add usage up by metadata", responses=frame.LISTS, **DOCS)
    def read_metadata(
        request: AdminRequest,
        key: Label,
        from_s: Moment,
        to_s: Moment,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
    ) -> Page[Share]:
        """Cost by the value of one key of the requests' metadata, of at most 31 days."""
        reach = frame.permitted(request, "usage.read")
        if to_s - from_s > SPAN_S:
            raise InvalidRequest("Ask for 31 days at most.", param="to_s")
        filters = {"org": org, "project": project, "key_id": key_id}
        with frame.reading(control) as connection:
            found = usage.by_metadata(connection, reach, filters, (from_s, to_s), key)
        return Page(found, None)

    @get("/usage/invoice", summary="Read a month's invoice data", responses=frame.READS, **DOCS)
    def read_invoice(request: AdminRequest, org: Organisation, month: Month) -> Invoice:
        """What an organisation used in a month, by project, key and model, and how its accounts moved."""
        reach = frame.permitted(request, "money.read")
        with frame.reading(control) as connection:
            organisations.require(connection, reach, org)
            return usage.invoice(connection, org, month)

    exports = [
        _export(control, "/usage/export", "jsonl", "application/x-ndjson"),
        _export(control, "/usage/export.csv", "csv", "text/csv"),
    ]
    return [read_usage, read_metadata, read_invoice, *exports]


def _export(control: Control, path: str, form: Format, media: str) -> HTTPRouteHandler:
    """Make the handler that gives the rows in one form."""

    @get(path, summary=f"Export ledger rows as {form}", media_type=media, responses=frame.LISTS, **DOCS)
    def export_usage(  # one parameter per filter
        request: AdminRequest,
        from_s: Moment = 0.0,
        to_s: Moment = 1e11,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
        model: Filter = None,
    ) -> Stream:
        """The rows of a half-open span of time, oldest first; they come as they are read."""
        reach = frame.permitted(request, "usage.read")
        filters = {"org": org, "project": project, "key_id": key_id, "model": model}
        pieces = written(usage.rows(control.opened(), reach, filters, (from_s, to_s)), form)
        first = next(pieces)  # a database that is away is told by the status
        return Stream(itertools.chain((first,), pieces), media_type=media)

    return export_usage
