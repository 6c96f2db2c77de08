"""``/admin/v1/webhooks``: where an organisation is told of alerts, and what came of it."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, Limit, Page
from gateway.errors import Conflict, InvalidRequest
from gateway.process import Process
from gateway.settings import TenantName
from gateway.tenancy import deliveries, webhooks
from gateway.tenancy.deliveries import Delivery
from gateway.tenancy.paging import Window
from gateway.tenancy.webhooks import Endpoint

PING = "ping"

State = Annotated[
    Literal["pending", "delivered", "given_up"] | None,
    QueryParameter(name="state", description="Only those in this state."),
]


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an organisation, by name, wants to be told of its alerts."""

    org: TenantName
    url: Annotated[str, Meta(min_length=1, max_length=2000)]


class MadeWebhook(Endpoint, frozen=True, kw_only=True):
    """A webhook with the secret that its messages are signed by, which is shown this once."""

    secret: str


DOCS: dict[str, Any] = {"tags": ["webhooks"], "sync_to_thread": True}


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers; webhooks are for those who administer an organisation: addresses may be secret."""
    return [*_endpoints(process), *_messages(process)]


def _endpoints(process: Process) -> list[HTTPRouteHandler]:
    control = process.control

    @get("/webhooks", summary="List webhooks", responses=frame.LISTS, **DOCS)
    def list_webhooks(
        request: AdminRequest, limit: Limit = 50, cursor: Cursor = None, org: Filter = None
    ) -> Page[Endpoint]:
        """Webhooks, oldest first, without their secrets."""
        reach = frame.permitted(request, "tenants.write")
        with frame.reading(control) as connection:
            found = webhooks.list_endpoints(connection, reach, frame.window(limit, cursor), org)
        return Page(*found)

    @post("/webhooks", summary="Make a webhook", responses=frame.MAKES, **DOCS)
    def create_webhook(request: AdminRequest, data: JSONBody[NewWebhook]) -> Response[MadeWebhook]:
        """Make a webhook; the answer holds its secret, this once."""
        reach = frame.permitted(request, "tenants.write")
        master = control.webhook_master
        if master is None:
            raise Conflict(
                f"There is nothing to sign webhooks by: give every gateway process the variable "
                f"{webhooks.MASTER_ENV}, the same random text of {webhooks.MASTER_MIN_CHARACTERS} characters "
                "or more."
            )
        try:
            webhooks.check_url(data.url, allow_private=process.settings.webhooks.allow_private)
        except webhooks.UrlError as error:
            raise InvalidRequest(f"This address cannot be called: {error}.", param="url") from None
        with frame.writing(control, request) as change:
            made = webhooks.create(change, reach, data.org, data.url)
        shown = MadeWebhook(**msgspec.to_builtins(made), secret=webhooks.secret(master, made.id))
        return Response(shown, status_code=201, headers={"cache-control": "no-store"})

    @delete("/webhooks/{webhook_id:str}", summary="Delete a webhook", responses=frame.READS, **DOCS)
    def delete_webhook(request: AdminRequest, webhook_id: frame.Id) -> None:
        """Delete a webhook; messages to it that wait are not sent."""
        reach = frame.permitted(request, "tenants.write")
        with frame.writing(control, request) as change:
            webhooks.delete(change, webhooks.endpoint(change.connection, reach, webhook_id))

    return [list_webhooks, create_webhook, delete_webhook]


def _messages(process: Process) -> list[HTTPRouteHandler]:
    control = process.control

    @post(
        "/webhooks/{webhook_id:str}/ping",
        summary="Send a ping",
        responses=frame.ACTS,
        status_code=202,
        **DOCS,
    )
    def ping_webhook(request: AdminRequest, webhook_id: frame.Id) -> Delivery:
        """Send a signed message that says nothing, soon; the list of deliveries says what came of it."""
        reach = frame.permitted(request, "tenants.write")
        with frame.writing(control, request) as change:
            one = webhooks.endpoint(change.connection, reach, webhook_id)
            if deliveries.waiting(change.connection, one.id, PING):
                raise Conflict("A ping to this webhook is under way already.")
            body = deliveries.message(PING, change.now_s, {"webhook_id": one.id})
            made = deliveries.put(change.connection, one.id, PING, body, change.now_s)
            change.record("webhook.ping", (one.org, one.id), None, {"message": made.id})
        return made

    @get("/webhooks/{webhook_id:str}/deliveries", summary="List deliveries", responses=frame.READS, **DOCS)
    def list_deliveries(
        request: AdminRequest,
        webhook_id: frame.Id,
        limit: Limit = 50,
        cursor: Cursor = None,
        wanted: State = None,
    ) -> Page[Delivery]:
        """Messages to a webhook, newest first: attempts, the last status, when it is tried next."""
        reach = frame.permitted(request, "tenants.write")
        with frame.reading(control) as connection:
            one = webhooks.endpoint(connection, reach, webhook_id)
            found = deliveries.list_deliveries(connection, one.id, Window(limit, cursor), wanted)
        return Page(*found)

    return [ping_webhook, list_deliveries]
