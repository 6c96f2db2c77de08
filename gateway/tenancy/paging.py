"""Keyset paging: a page ends with a cursor that says where the next one begins.

A cursor holds the order's values of the last row, so that a page costs the same however deep it is, and rows
that come or go meanwhile neither repeat nor hide others.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

CURSOR = r"^[0-9]{1,12}(\.[0-9]{1,12})?~[A-Za-z0-9._:/-]{1,200}$"


class CursorError(ValueError):
    """A cursor that this list did not give."""


class Window(msgspec.Struct, frozen=True):
    """Which page is wanted: at most ``limit`` rows behind ``cursor``."""

    limit: int = 50
    cursor: str | None = None


def page(
    connection: sa.Connection,
    statement: sa.Select[Any],
    order: tuple[sa.ColumnElement[float], sa.ColumnElement[str]],
    window: Window,
    *,
    newest_first: bool = False,
) -> tuple[list[sa.RowMapping], str | None]:
    """Give one page of rows and the cursor of the next; None at the end. Raises CursorError.

    ``order`` is a time and an id; both must be among the selected columns, under their own names.
    """
    if window.cursor is not None:
        here = sa.tuple_(*order)
        last = sa.tuple_(*(sa.literal(value) for value in place(window.cursor)))
        statement = statement.where(here < last if newest_first else here > last)
    direction: Callable[[Any], Any] = sa.desc if newest_first else sa.asc
    statement = statement.order_by(*(direction(column) for column in order)).limit(window.limit + 1)
    rows = list(connection.execute(statement).mappings())
    if len(rows) <= window.limit:
        return rows, None
    final = rows[window.limit - 1]
    return rows[: window.limit], cursor(final[order[0]], final[order[1]])


def cursor(at: float, row_id: str) -> str:
    """Give the cursor behind a row."""
    return f"{at!r}~{row_id}"


def place(text: str) -> tuple[float, str]:
    """Give what a cursor holds. Raises CursorError."""
    if re.fullmatch(CURSOR, text) is None:
        raise CursorError("this cursor is not one that a list gave as 'next'")
    at, _, row_id = text.partition("~")
    return float(at), row_id
