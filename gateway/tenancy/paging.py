"""Keyset paging: a page ends with a cursor that says where the next one begins.

A cursor holds the order's values of the last row, so that a page costs the same however deep it is, and rows
that come or go meanwhile neither repeat nor hide others.
"""

import base64
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

T = TypeVar("T")


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
        place = sa.tuple_(*order)
        last = sa.tuple_(*(sa.literal(value) for value in _decoded(window.cursor)))
        statement = statement.where(place < last if newest_first else place > last)
    direction: Callable[[Any], Any] = sa.desc if newest_first else sa.asc
    statement = statement.order_by(*(direction(column) for column in order)).limit(window.limit + 1)
    rows = list(connection.execute(statement).mappings())
    if len(rows) <= window.limit:
        return rows, None
    final = rows[window.limit - 1]
    return rows[: window.limit], _encoded(final[order[0]], final[order[1]])


def _encoded(at: float, row_id: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((at, row_id))).rstrip(b"=").decode()


def _decoded(cursor: str) -> tuple[float, str]:
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        at, row_id = msgspec.json.decode(
            base64.b64decode(padded, altchars=b"-_", validate=True), type=tuple[float, str]
        )
    except (ValueError, UnicodeError, msgspec.MsgspecError):
        raise CursorError("this cursor is not one that a list gave as 'next'") from None
    if "\0" in row_id:
        raise CursorError("this cursor is not one that a list gave as 'next'")
    return at, row_id
