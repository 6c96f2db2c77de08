"""``/admin/v1/requests/{id}``: how one request was decided and booked; ``latest``: those of a kind."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Filter, Limit, Page
from gateway.errors import NotFound
from gateway.process import Process
from gateway.request_log import RequestLine
from gateway.tenancy import usage
from gateway.tenancy.usage import RequestRow
from routing.explaining import Explanation

Seen = Annotated[
    Literal["waited", "audited", "served"],
    QueryParameter(
        description="Waited in a queue; hit the cache and were asked again to see whether it was right; "
        "or were sent to a replica."
    ),
]
WAITED_MS = 1.0
NOTED: dict[str, Callable[[RequestLine], bool]] = {
    "waited": lambda line: line.queue_ms >= WAITED_MS,
    "audited": lambda line: line.verdict == "audited",
    "served": lambda line: bool(line.replicas),
}
DOCS: dict[str, Any] = {"tags": ["records"], "sync_to_thread": True}


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """``decision`` is null where the request is long ago, or another process answered it.

    ``explanation`` says which features mattered for a score, and which known examples are nearest.
    """

    decision: RequestLine | None
    explanation: Explanation | None
    booked: RequestRow | None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    @get("/requests/latest", summary="List the latest requests of a kind", responses=frame.LISTS, **DOCS)
    def list_latest(
        request: AdminRequest, seen: Seen, model: Filter = None, replica: Filter = None, limit: Limit = 50
    ) -> Page[RequestLine]:
        """Requests that the process that answers remembers, the newest first."""
        reach = frame.permitted(request, "usage.read")

        def wanted(line: RequestLine) -> bool:
            return (
                NOTED[seen](line)
                and model in (None, line.model)
                and (replica is None or replica in line.replicas)
                and reach.covers(line.org)
                and reach.key_id in (None, line.key_id)
            )

        return Page(process.log.latest(wanted, limit), None)

    @get("/requests/{request_id:str}", summary="Show a request", responses=frame.READS, **DOCS)
    def show_request(request: AdminRequest, request_id: str) -> Decided:
        """Model, score, reason, cache, attempts, times and bill of one request."""
        reach = frame.permitted(request, "usage.read")
        with frame.reading(process.control) as connection:
            window = frame.window(1, None)
            rows, _ = usage.requests(connection, reach, window, {"request_id": request_id}, (None, None))
        decision = process.log.find(request_id)
        if decision is not None and not (
            reach.covers(decision.org) and reach.key_id in (None, decision.key_id)
        ):
            decision = None
        if decision is None and not rows:
            raise NotFound(f"There is no request {request_id!r}, or it is not settled yet.")
        reading = process.log.reading(request_id) if decision is not None else None
        grading = process.grading
        explained = grading.explain(reading) if grading is not None and reading is not None else None
        return Decided(decision=decision, explanation=explained, booked=rows[0] if rows else None)

    return [list_latest, show_request]
