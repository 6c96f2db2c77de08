"""``switchgear ledger``: the ledger of a configuration's database, and whether its books agree."""

import argparse
import math
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.commands.base import CommandError, add_config, opened_database
from gateway.commands.counters import token_counts
from gateway.config_file import load
from gateway.tenancy import ledger
from gateway.tenancy.engines import against_engines
from gateway.tenancy.export import written
from gateway.tenancy.reconcile import reconcile


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
    proof = actions.add_parser(
        "reconcile", help="hold journal, ledger, roll-ups and balances against each other"
    )
    add_config(proof)
    proof.add_argument("--json", action="store_true", help="print JSON")
    proof.set_defaults(run=_reconcile)


def _reconcile(options: argparse.Namespace) -> int:
    """Say what does not agree; exit status 1 if anything does not."""
    settings = load(options.config)
    state_dir = Path(settings.server.state_dir)
    with opened_database(settings) as engine:
        report = reconcile(engine, state_dir / "journal", state_dir / "journal-kept")
        checks = against_engines(engine, token_counts(settings))
    if options.json:
        print(msgspec.json.encode({**msgspec.structs.asdict(report), "engines": checks}).decode())
    else:
        for name in ("missing", "doubled", "altered"):
            for request_id in getattr(report, name):
                print(f"{name}: {request_id}")
        for finding in (*report.groups, *report.balances):
            print(f"{finding.what}: {finding.found} nano-dollars, must be {finding.expected}")
        for check in checks:
            print(
                f"{check.replica}: the engine counted {check.engine_prompt_tokens} prompt tokens and "
                f"{check.engine_completion_tokens} generated ones, the ledger has "
                f"{check.ledger_prompt_tokens} and {check.ledger_completion_tokens}"
                f"{'' if check.well else ': more than there were'}"
            )
        print(
            f"{report.rows} rows, {report.journal_entries} of them in the journal, "
            f"gap {report.gap_nanousd} nano-dollars"
        )
    return 0 if report.well and all(check.well for check in checks) else 1


def _export(options: argparse.Namespace) -> int:
    from_s = -math.inf if options.from_ is None else _time(options.from_)
    to_s = math.inf if options.to is None else _time(options.to)
    with opened_database(load(options.config)) as engine:
        for text in written(ledger.export(engine, max(from_s, 0.0), min(to_s, 1e12)), options.format):
            sys.stdout.write(text)
    return 0


def _time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{text!r} is not an ISO time such as 2026-11-01 or 2026-11-01T12:00:00Z"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
