"""The price book: what a model costs whom from when on, in SQL and as the table that requests look into.

Rules: rows are only added, and may be ended; of the prices of one organisation and model that are valid at a
moment the one that began last counts; an organisation's own price goes before the general one. A price of the
file is added when it differs from the last one that came from the file, so that a price which was set by the
admin API stays in force over a restart.
"""

import hashlib
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.database import as_struct
from gateway.tables import prices
from gateway.tenancy.access import EVERYTHING, Reach
from gateway.tenancy.organisations import NotThere
from gateway.tenancy.paging import Window, page
from gateway.tenancy.pricing import UNPRICED, Price, PriceError, unpriced

FIELDS = Price.__struct_fields__


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A price and its validity, in seconds since the epoch; ``valid_to_s`` is exclusive."""

    price: Price
    valid_from_s: float
    valid_to_s: float | None = None
    origin: Literal["file", "admin"] = "file"
    created_s: float = 0.0

    @property
    def id(self) -> str:
        """An id that follows from what the row says."""
        content = repr((self.price.org, self.price.model, self.valid_from_s, self.price.version))
        return f"price_{hashlib.sha256(content.encode()).hexdigest()[:24]}"


class PriceTable:
    """The prices in force, looked up by model, organisation and time."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: tuple[Row, ...] = ()
        self._by_name: dict[tuple[str, str], list[Row]] = {}
        self._turns: list[float] = []  # when a price begins or ends
        self.edition = object()
        """Another one for each book, to tell which one was looked into; a book itself may be large."""
        self.replace(rows)

    def replace(self, rows: Iterable[Row]) -> None:
        """Put a new price book in force; ``edition`` comes last: what was found before is of an older one."""
        book = tuple(rows)
        by_name: dict[tuple[str, str], list[Row]] = {}
        for row in sorted(book, key=lambda row: (row.valid_from_s, row.created_s), reverse=True):
            by_name.setdefault((row.price.org, row.price.model), []).append(row)
        ends = {row.valid_to_s for row in book if row.valid_to_s is not None}
        self._by_name, self._turns = by_name, sorted(ends.union(row.valid_from_s for row in book))
        self.rows, self.edition = book, object()

    def span(self, now_s: float) -> tuple[float, float]:
        """Give from when until when (exclusive) the prices in force now are those in force."""
        turns = self._turns
        place = bisect_right(turns, now_s)
        return turns[place - 1] if place else -math.inf, turns[place] if place < len(turns) else math.inf

    def find(self, model: str, org: str, now_s: float) -> Price:
        """Give the price in force; the flagged zero of a model that has none."""
        for name in ((org, model), ("", model)):
            for row in self._by_name.get(name, ()):
                if row.valid_from_s <= now_s and (row.valid_to_s is None or now_s < row.valid_to_s):
                    return row.price
        return unpriced(model)


def imported(known: Iterable[Row], found: Iterable[Price], now_s: float) -> list[Row]:
    """Give the rows that a file's prices add to the known ones."""
    last: dict[str, Row] = {}
    for row in known:
        if row.origin == "file" and not row.price.org:
            before = last.get(row.price.model)
            if before is None or before.valid_from_s <= row.valid_from_s:
                last[row.price.model] = row
    new = []
    for price in found:
        before = last.get(price.model)
        if price.version == UNPRICED or (before is not None and before.price.version == price.version):
            continue
        # The first one holds since ever: a clock that is set back must not make a model free.
        from_s = 0.0 if before is None else now_s
        row = Row(price=price, valid_from_s=from_s, origin="file", created_s=now_s)
        last[price.model] = row
        new.append(row)
    return new


def load(connection: sa.Connection) -> list[Row]:
    """Read the price book."""
    return [_row(found) for found in connection.execute(sa.select(prices)).mappings()]


class Line(Price, frozen=True, kw_only=True):
    """One row of the price book as it is shown."""

    id: str
    valid_from_s: float
    valid_to_s: float | None
    origin: str
    created_s: float


def lines(
    connection: sa.Connection, reach: Reach, window: Window, filters: Mapping[str, str | None]
) -> tuple[list[Line], str | None]:
    """Give a page of the price book, newest first: general prices, and those of the caller's organisation."""
    statement = sa.select(prices)
    if reach.org != EVERYTHING:
        statement = statement.where(prices.c.org.in_(["", reach.org]))
    for name, value in filters.items():
        if value is not None:
            statement = statement.where(prices.c[name] == value)
    rows, behind = page(connection, statement, (prices.c.created_s, prices.c.id), window, newest_first=True)
    return [as_struct(row, Line) for row in rows], behind


def line(connection: sa.Connection, price_id: str) -> Line:
    """Give one row. Raises NotThere."""
    row = connection.execute(sa.select(prices).where(prices.c.id == price_id)).mappings().first()
    if row is None:
        raise NotThere(f"there is no price {price_id!r}")
    return as_struct(row, Line)


def import_file(connection: sa.Connection, found: Iterable[Price], now_s: float) -> bool:
    """Add the prices of a file that are new, tell whether any was; two processes at once do no harm."""
    new = imported(load(connection), found, now_s)
    for row in new:
        try:
            with connection.begin_nested():
                connection.execute(sa.insert(prices).values(**values(row)))
        except IntegrityError:
            continue
    return bool(new)


def add(connection: sa.Connection, row: Row) -> str:
    """Add a price; gives its id. Raises PriceError where another one begins at the same moment."""
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(prices).values(**values(row)))
    except IntegrityError:
        raise PriceError(
            f"another price of {row.price.model!r} begins at the same time; choose another valid_from"
        ) from None
    return row.id


def end(connection: sa.Connection, price_id: str, at_s: float) -> bool:
    """Let a price end; False where there is none, or where it ends sooner."""
    matches = (prices.c.id == price_id, sa.or_(prices.c.valid_to_s.is_(None), prices.c.valid_to_s > at_s))
    return bool(connection.execute(sa.update(prices).where(*matches).values(valid_to_s=at_s)).rowcount)


def write_snapshot(path: Path, rows: Iterable[Row]) -> None:
    """Keep the price book on disk, atomically, for a start without the database. Raises OSError."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(list(rows)))
    partial.replace(path)


def read_snapshot(path: Path) -> list[Row]:
    """Read the price book kept on disk; none where there is no usable file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Row])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return []


def values(row: Row) -> dict[str, Any]:
    """Give a row's columns."""
    named = {field: getattr(row.price, field) for field in FIELDS}
    times = {name: getattr(row, name) for name in ("valid_from_s", "valid_to_s", "origin", "created_s")}
    return {"id": row.id, **named, **times}


def _row(found: sa.RowMapping) -> Row:
    price = Price(**{field: found[field] for field in FIELDS})
    return Row(
        price=price,
        valid_from_s=found["valid_from_s"],
        valid_to_s=found["valid_to_s"],
        origin=found["origin"],
        created_s=found["created_s"],
    )
