"""``/admin/v1/credits``: money that moves otherwise than by a request, and what is left on an account."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, IdField, Limit, Page
from gateway.errors import Conflict, InvalidRequest
from gateway.process import Process
from gateway.settings import TenantName
from gateway.tenancy import accounts, key_store, ledger, organisations, transfers
from gateway.tenancy.access import Reach
from gateway.tenancy.pricing import usd_to_nanousd
from gateway.tenancy.transfers import Line, Transfer, TransferError

Text = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00]*$")]
Account = Annotated[
    str,
    QueryParameter(
        max_length=500, pattern=r"^[^\x00]+$", description="`org:ORG`, `project:ORG/PROJECT` or `key:ID`."
    ),
]


class NewCredit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A movement on the account of a key, a project (with its organisation) or an organisation."""

    kind: Literal["grant", "top_up", "refund", "correction", "write_off"]
    amount_usd: Annotated[float, Meta(ge=-1e9, le=1e9, description="Negative for a correction only.")]
    org: TenantName | None = None
    project: TenantName | None = None
    key_id: IdField | None = None
    expires_s: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    request_id: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    note: Text = ""
    idempotency_key: Annotated[str, Meta(max_length=190, pattern=r"^[^\x00]*$")] = ""


class Balance(msgspec.Struct, frozen=True):
    """What is left on an account: what was put in less what was used, in nano-dollars."""

    account: str
    balance_nanousd: int


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["money"], "sync_to_thread": True}

    @get("/credits", summary="List movements", responses=frame.LISTS, **docs)
    def list_credits(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        org: Filter = None,
        kind: Filter = None,
        account: Filter = None,
    ) -> Page[Line]:
        """Grants, top-ups, refunds, expiries, corrections and write-offs, newest first."""
        reach = frame.permitted(request, "money.read")
        filters = {"org": org, "kind": kind, "account": account}
        with frame.reading(control) as connection:
            found = transfers.lines(connection, reach, frame.window(limit, cursor), filters)
        return Page(*found)

    @post("/credits", summary="Book a movement", responses=frame.MAKES, **docs)
    def add_credit(request: AdminRequest, data: JSONBody[NewCredit]) -> Line:
        """Book a movement, once for each idempotency key; it counts at the next request."""
        reach = frame.permitted(request, "money.write")
        with frame.writing(control, request) as change:
            account, org = _account(change.connection, reach, data)
            given = Transfer(
                kind=data.kind,
                account=account,
                org=org,
                amount_nanousd=usd_to_nanousd(data.amount_usd),
                ts=change.now_s,
                actor=change.actor,
                note=data.note,
                request_id=data.request_id,
                expires_s=data.expires_s,
                idempotency_key=f"api:{data.idempotency_key}" if data.idempotency_key else "",
            )
            try:
                made = transfers.line(change.connection, transfers.transfer(change.connection, given))
            except TransferError as error:
                raise _refusal(error) from None
            if made.ts == change.now_s:
                change.record("credit.add", (org, made.id), None, msgspec.to_builtins(made))
        return made

    @get("/balance", summary="Read a balance", responses=frame.READS, **docs)
    def read_balance(request: AdminRequest, account: Account) -> Balance:
        """What is left on one account."""
        reach = frame.permitted(request, "money.read")
        with frame.reading(control) as connection:
            _require(connection, reach, account)
            return Balance(account, ledger.balance(connection, account))

    return [list_credits, add_credit, read_balance]


def _account(connection: Any, reach: Reach, data: NewCredit) -> tuple[str, str]:
    """Give the account that is meant, and its organisation. Raises NotThere or InvalidRequest."""
    if data.key_id is not None:
        if data.org is not None or data.project is not None:
            raise InvalidRequest("Name a key, or an organisation and perhaps a project.", param="key_id")
        return accounts.key(data.key_id), key_store.key(connection, reach, data.key_id).org
    if data.org is None:
        raise InvalidRequest("Name whose account it is: org, org and project, or key_id.", param="org")
    organisations.require(connection, reach, data.org, data.project)
    if data.project is not None:
        return accounts.project(data.org, data.project), data.org
    return accounts.organisation(data.org), data.org


def _require(connection: Any, reach: Reach, account: str) -> None:
    """Raise NotThere where an account is not within reach."""
    kind, _, name = account.partition(":")
    if kind == "key":
        key_store.key(connection, reach, name)
        return
    org, _, project = name.partition("/")
    if kind not in ("org", "project") or (kind == "project") != bool(project):
        raise InvalidRequest("An account is org:ORG, project:ORG/PROJECT or key:ID.", param="account")
    organisations.require(connection, reach, org, project or None)


def _refusal(error: TransferError) -> InvalidRequest | Conflict:
    field, _, text = str(error).partition(": ")
    kind = Conflict if field == "idempotency_key" else InvalidRequest
    return kind(f"{text[:1].upper()}{text[1:]}.", param=field)
