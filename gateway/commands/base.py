"""What the subcommands share."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway import database
from gateway.checks import check, check_weights, missing_weights, warnings
from gateway.config_file import load
from gateway.logs import JsonFormatter
from gateway.settings import Settings


class CommandError(Exception):
    """A command cannot do what it was asked; the text says why and what to do."""


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config", metavar="FILE", type=Path, required=required, help="the TOML configuration"
    )


def checked(path: Path) -> Settings:
    """Read and check a file; warnings go to stderr. Raises ConfigError."""
    settings = load(path)
    check(settings, str(path), os.environ)
    tell_warnings(settings, path)
    return settings


def launchable(path: Path) -> Settings:
    """Read and check a file, and that the weights of what it launches here are here. Raises ConfigError."""
    settings = checked(path)
    if not settings.fleet.apart:
        check_weights(settings, str(path))
    for missing in missing_weights(settings):
        _note(path, f"{missing} here; it must be where 'switchgear fleet run' runs")
    return settings


def tell_warnings(settings: Settings, path: Path) -> None:
    """Say on stderr what works, but not quite as it reads."""
    for warning in warnings(settings):
        _note(path, warning)


def _note(path: Path, text: str) -> None:
    print(f"switchgear: {path}: note: {text}", file=sys.stderr)


@contextmanager
def opened_database(settings: Settings) -> Iterator[sa.Engine]:
    """Give the migrated database of a configuration. Raises CommandError or DatabaseError."""
    engine = database.connect(settings.database.url)
    try:
        database.migrate(engine)
        yield engine
    except SQLAlchemyError as error:
        raise CommandError(f"the database failed: {database.reason(error)}") from None
    finally:
        engine.dispose()


def log_to_stderr() -> None:
    """Send the log to stderr, a line each: JSON, unless a terminal shows it to people."""
    logging.basicConfig(
        level=os.environ.get("SWITCHGEAR_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    if not sys.stderr.isatty():
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
