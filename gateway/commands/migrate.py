"""``switchgear migrate``: bring a database to this version's schema, before it serves."""

import argparse

from gateway.commands.base import add_config, opened_database
from gateway.config_file import load


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Migrate; the file needs no more than ``[database]``."""
    with opened_database(load(options.config)):
        print("the database has this version's schema")
    return 0
