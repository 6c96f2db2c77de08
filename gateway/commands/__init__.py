"""The ``switchgear`` command's subcommands: one file each, listed in COMMANDS."""

import importlib
from types import ModuleType

COMMANDS = ("up", "serve", "check", "chat", "keys", "ledger")


def load() -> list[ModuleType]:
    """Import the subcommands; each has ``register(subparsers)``."""
    return [importlib.import_module(f"gateway.commands.{name}") for name in COMMANDS]


def expected_errors() -> tuple[type[Exception], ...]:
    """Give the exceptions whose text is meant for the operator."""
    from backends.demo import DemoModelError
    from backends.engines.environment import EngineSetupError
    from gateway.commands.base import CommandError
    from gateway.database import DatabaseError
    from gateway.server import PortTaken
    from gateway.settings import ConfigError
    from gateway.tenancy.journal import JournalError

    return (
        CommandError,
        ConfigError,
        DatabaseError,
        DemoModelError,
        EngineSetupError,
        JournalError,
        PortTaken,
    )
