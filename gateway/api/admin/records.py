"""``/admin/v1/audit``, ``/requests``, ``/ledger``, ``/alerts``: what was changed, asked, booked, used up."""

from typing import Annotated, Any, Literal

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, Limit, Page
from gateway.process import Control, Process
from gateway.tenancy import accounts, changes, usage, watch
from gateway.tenancy.changes import Line
from gateway.tenancy.pricing import Source
from gateway.tenancy.usage import RequestRow
from gateway.tenancy.watch import Alert

DOCS: dict[str, Any] = {"tags": ["records"], "sync_to_thread": True}
Time = Annotated[float | None, QueryParameter(description="Seconds since 1970.")]
ONE_OF = "Only those with this value; given several times, with one of them."
Outcome = Literal["ok", "stopped", "cancelled", "refused", "error", "interrupted"]
Outcomes = Annotated[list[Outcome] | None, QueryParameter(max_items=8, description=ONE_OF)]
Sources = Annotated[list[Source] | None, QueryParameter(max_items=8, description=ONE_OF)]


class LedgerEntry(RequestRow, frozen=True, kw_only=True):
    """A settled request and the accounts that it moves money between."""

    debit: str
    credit: str


def booked(row: RequestRow) -> LedgerEntry:
    """Give a request as the ledger books it."""
    fields = {name: getattr(row, name) for name in RequestRow.__struct_fields__}
    return LedgerEntry(**fields, debit=accounts.key(row.key_id), credit=accounts.REVENUE)


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    return [*_of_changes(process.control), *_of_requests(process.control)]


def _of_changes(control: Control) -> list[HTTPRouteHandler]:
    """Make those of what was changed, and of what is used up."""

    @get("/audit", summary="List changes", responses=frame.LISTS, **DOCS)
    def list_audit(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        actor: Filter = None,
        action: Filter = None,
        subject: Filter = None,
    ) -> Page[Line]:
        """Changes with before and after, newest first."""
        reach = frame.permitted(request, "audit.read")
        filters = {"actor": actor, "action": action, "subject": subject}
        with frame.reading(control) as connection:
            found = changes.lines(connection, reach, frame.window(limit, cursor), filters)
        return Page(*found)

    @get("/alerts", summary="List alerts", responses=frame.LISTS, **DOCS)
    def list_alerts(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
        kind: Filter = None,
    ) -> Page[Alert]:
        """Budgets and credits of which half, four fifths or everything was used, newest first."""
        reach = frame.permitted(request, "money.read")
        filters = {"org": org, "project": project, "key_id": key_id, "kind": kind}
        with frame.reading(control) as connection:
            found = watch.list_alerts(connection, reach, frame.window(limit, cursor), filters)
        return Page(*found)

    return [list_audit, list_alerts]


def _of_requests(control: Control) -> list[HTTPRouteHandler]:
    """Make those of what was asked, and of how it is booked."""

    @get("/requests", summary="List requests", responses=frame.LISTS, **DOCS)
    def list_requests(  # one parameter per filter
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
        model: Filter = None,
        route: Filter = None,
        status: Outcomes = None,
        source: Sources = None,
        request_id: Filter = None,
        from_s: Time = None,
        to_s: Time = None,
    ) -> Page[RequestRow]:
        """Settled requests, newest first, of a half-open span of time."""
        reach = frame.permitted(request, "usage.read")
        filters = {
            "org": org,
            "project": project,
            "key_id": key_id,
            "model": model,
            "route": route,
            "status": status,
            "source": source,
            "request_id": request_id,
        }
        with frame.reading(control) as connection:
            window = frame.window(limit, cursor)
            found = usage.requests(connection, reach, window, filters, (from_s, to_s))
        return Page(*found)

    @get("/ledger", summary="List ledger entries", responses=frame.LISTS, **DOCS)
    def list_ledger(  # one parameter per filter
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        project: Filter = None,
        key_id: Filter = None,
        source: Filter = None,
        end_user: Filter = None,
        from_s: Time = None,
        to_s: Time = None,
    ) -> Page[LedgerEntry]:
        """Usage as it is booked, debited and credited, newest first, of a half-open span of time."""
        reach = frame.permitted(request, "usage.read")
        filters = {"org": org, "project": project, "key_id": key_id, "source": source, "end_user": end_user}
        with frame.reading(control) as connection:
            window = frame.window(limit, cursor)
            rows, behind = usage.requests(connection, reach, window, filters, (from_s, to_s))
        return Page([booked(row) for row in rows], behind)

    return [list_requests, list_ledger]
