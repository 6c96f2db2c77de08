"""Ledger rows as text: JSON Lines or CSV, with times in ISO and replicas as a list."""

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from gateway import tables

COLUMNS = tuple(column.name for column in tables.ledger.columns)
LINES = 500  # a piece of text

Format = Literal["jsonl", "csv"]


def written(rows: Iterable[dict[str, Any]], form: Format) -> Iterator[str]:
    """Write ledger rows, some hundred lines at a time; of none at least one piece, which may be empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    if form == "csv":
        writer.writeheader()
    for number, row in enumerate(rows, 1):
        row["ts"] = datetime.fromtimestamp(row["ts"], UTC).isoformat()
        replicas = row["replicas"].split(",") if row["replicas"] else []
        if form == "csv":
            plain = {name: _plain(value) for name, value in row.items()}
            writer.writerow({**plain, "replicas": " ".join(replicas)})
        else:
            text.write(msgspec.json.encode({**row, "replicas": replicas}).decode() + "\n")
        if number % LINES == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _plain(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
