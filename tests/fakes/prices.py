"""Prices and price books for tests."""

from typing import Any

from gateway.settings import PriceSettings
from gateway.tenancy.prices import PriceTable, Row
from gateway.tenancy.pricing import Price, price_of


def priced(model: str, org: str = "", **usd: Any) -> Price:
    """Give a price; see ``PriceSettings``."""
    return price_of(model, PriceSettings(**usd), org)


def book(*prices: Price) -> PriceTable:
    """Give a table in which these hold since ever."""
    return PriceTable(Row(price=price, valid_from_s=0.0) for price in prices)


SMALL = priced("small", input=0.05, cached_input=0.01, output=0.2)
LARGE = priced("large", input=0.5, cached_input=0.1, output=2.0)
