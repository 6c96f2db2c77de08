"""``/admin/v1/ledger/reconcile``: the books held against journal, roll-ups and balances, now."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.process import Process
from gateway.tenancy.ledger import DAY_S
from gateway.tenancy.reconcile import Report, reconcile

Days = Annotated[int, QueryParameter(ge=1, le=366, description="How many days back.")]


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """``well`` where everything agrees; else the report names what does not."""

    well: bool
    report: Report


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handler."""
    docs: dict[str, Any] = {"responses": frame.READS, "tags": ["records"], "sync_to_thread": True}

    @get("/ledger/reconcile", summary="Reconcile the books", **docs)
    def reconcile_books(request: AdminRequest, days: Days = 7) -> Reconciled:
        """What `switchgear ledger reconcile` says, of the last days."""
        frame.permitted(request, "money.read")
        frame.permitted(request, "fleet.read")  # of the whole installation
        state_dir = Path(process.settings.server.state_dir)
        journals = (state_dir / "journal", state_dir / "journal-kept")
        since_s = process.control.wall() - days * DAY_S
        found = reconcile(process.control.opened(), *journals, since_s)
        return Reconciled(well=found.well, report=found)

    return [reconcile_books]
