"""``/v1/usage``: what the key that asks has used itself, by day and model."""

from typing import Annotated, Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from sqlalchemy.exc import SQLAlchemyError

from gateway.database import DatabaseError
from gateway.errors import DatabaseUnavailable, NotPermitted
from gateway.process import Process
from gateway.tenancy import accounts, ledger, usage
from gateway.tenancy.access import Reach
from gateway.tenancy.pricing import NANO

Day = Annotated[str | None, QueryParameter(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]$")]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    @get("/v1/usage", sync_to_thread=True, include_in_schema=False)
    def read_usage(
        request: Request[Any, Any, Any], from_day: Day = None, to_day: Day = None
    ) -> dict[str, Any]:
        """Sums of a half-open span of days, and what is left where the key has credit of its own."""
        key = process.pipeline.authenticate(dict(request.scope["headers"]))
        if not key.scopes & {"inference", "usage"}:
            raise NotPermitted("This API key may not see usage: its scopes lack 'usage'.")
        account = accounts.key(key.id)
        try:
            with process.control.opened().connect() as connection:
                reach = Reach(key.org, key.id)
                sums = usage.daily(connection, reach, {}, (from_day, to_day), ("day", "model"))
                left = ledger.balance(connection, account)
        except (SQLAlchemyError, DatabaseError):
            raise DatabaseUnavailable("The database is away; inference goes on.", retry_after_s=2.0) from None
        credit = any(bound.credit and bound.account == account for bound in key.bounds)
        rows = [
            {
                "day": one.day,
                "model": one.model,
                "requests": one.requests,
                "prompt_tokens": one.prompt_tokens,
                "cached_tokens": one.cached_tokens,
                "completion_tokens": one.completion_tokens,
                "cost_usd": one.amount_nanousd / NANO,
                "saved_usd": (one.baseline_nanousd - one.amount_nanousd) / NANO,
            }
            for one in sums
        ]
        return {"object": "list", "data": rows, "balance_usd": left / NANO if credit else None}

    return [read_usage]
