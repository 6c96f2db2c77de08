"""``/admin/v1/prices``: the price book. Prices are added and ended, never changed."""

from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Cursor, Filter, Limit, Page
from gateway.errors import Conflict, InvalidRequest
from gateway.process import Process
from gateway.settings import Name, PriceSettings, TenantName
from gateway.tenancy import organisations, prices
from gateway.tenancy.prices import Line, Row
from gateway.tenancy.pricing import PriceError, price_of

Moment = Annotated[float, Meta(ge=0, le=1e11, description="Seconds since 1970.")]


class NewPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price to be added: for everybody, or for one organisation; from now on unless it says otherwise."""

    model: Name
    price: PriceSettings
    org: TenantName | None = None
    valid_from_s: Moment | None = None
    valid_to_s: Moment | None = None


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a price ends: now unless it says otherwise."""

    at_s: Moment | None = None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control
    docs: dict[str, Any] = {"tags": ["money"], "sync_to_thread": True}

    @get("/prices", summary="List prices", responses=frame.LISTS, **docs)
    def list_prices(
        request: AdminRequest,
        limit: Limit = 50,
        cursor: Cursor = None,
        model: Filter = None,
        org: Filter = None,
        version: Filter = None,
    ) -> Page[Line]:
        """Prices, the newest first; of those valid at a moment the one that began last counts."""
        reach = frame.permitted(request, "money.read")
        filters = {"model": model, "org": org, "version": version}
        with frame.reading(control) as connection:
            found = prices.lines(connection, reach, frame.window(limit, cursor), filters)
        return Page(*found)

    @post("/prices", summary="Add a price", responses=frame.MAKES, **docs)
    def add_price(request: AdminRequest, data: JSONBody[NewPrice]) -> Line:
        """Add a price, in USD per million tokens; it holds for requests that begin from then on."""
        reach = frame.permitted(request, "money.write")
        now_s = control.wall()
        from_s = now_s if data.valid_from_s is None else data.valid_from_s
        if data.valid_to_s is not None and data.valid_to_s <= from_s:
            raise InvalidRequest("It must be later than valid_from_s.", param="valid_to_s")
        try:
            price = price_of(data.model, data.price, data.org or "")
        except PriceError as error:
            raise InvalidRequest(f"{error}; round it.", param="price") from None
        row = Row(
            price=price, valid_from_s=from_s, valid_to_s=data.valid_to_s, origin="admin", created_s=now_s
        )
        with frame.writing(control, request) as change:
            if data.org is not None:
                organisations.require(change.connection, reach, data.org)
            try:
                made = prices.line(change.connection, prices.add(change.connection, row))
            except PriceError as error:
                raise Conflict(f"{str(error).capitalize()}.", param="valid_from_s") from None
            change.record("price.add", (data.org or "*", made.id), None, msgspec.to_builtins(made))
        return made

    @post("/prices/{price_id:str}/end", summary="End a price", status_code=200, responses=frame.ACTS, **docs)
    def end_price(request: AdminRequest, price_id: frame.Id, data: JSONBody[End]) -> Line:
        """End a price; one that ends sooner already stays as it is."""
        frame.permitted(request, "money.write")
        at_s = control.wall() if data.at_s is None else data.at_s
        with frame.writing(control, request) as change:
            before = prices.line(change.connection, price_id)
            prices.end(change.connection, price_id, at_s)
            after = prices.line(change.connection, price_id)
            subject = (before.org or "*", price_id)
            change.record("price.end", subject, msgspec.to_builtins(before), msgspec.to_builtins(after))
        return after

    return [list_prices, add_price, end_price]
