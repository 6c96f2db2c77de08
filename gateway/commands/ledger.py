"""``switchgear ledger export``: the ledger of a configuration's database, row by row."""

import argparse
import csv
import math
import sys
from datetime import UTC, datetime

import msgspec

from gateway import database
from gateway.commands.base import CommandError, add_config, opened_database
from gateway.settings import load
from gateway.tenancy import ledger

COLUMNS = tuple(column.name for column in database.ledger.columns)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write the rows of a span of time to stdout")
    add_config(export)
    export.add_argument(
        "--from", dest="from_", metavar="T", help="ISO time, inclusive; default: the beginning"
    )
    export.add_argument("--to", metavar="T", help="ISO time, exclusive; default: now and later")
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from_s = -math.inf if options.from_ is None else _time(options.from_)
    to_s = math.inf if options.to is None else _time(options.to)
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    with opened_database(load(options.config)) as engine:
        if options.format == "csv":
            writer.writeheader()
        for row in ledger.export(engine, max(from_s, 0.0), min(to_s, 1e12)):
            row["ts"] = datetime.fromtimestamp(row["ts"], UTC).isoformat()
            row["replicas"] = row["replicas"].split(",") if row["replicas"] else []
            if options.format == "csv":
                writer.writerow({**row, "replicas": " ".join(row["replicas"])})
            else:
                print(msgspec.json.encode(row).decode())
    return 0


def _time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{text!r} is not an ISO time such as 2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
