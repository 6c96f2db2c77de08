"""The ``switchgear`` command's subcommands: one file each, listed in COMMANDS."""

import importlib
from types import ModuleType

COMMANDS = {
    "up": "run the appliance: gateway and engines, demo models by default",
    "serve": "run the gateway in front of replicas that run already",
    "plan": "say whether each launched model fits, what it holds, how it is started",
    "fleet": "show and change the replicas of a running gateway",
    "migrate": "bring the database to this version's schema",
    "check": "validate a configuration, print what would be served",
    "chat": "ask a model through the openai client",
    "keys": "make, list and revoke API keys",
    "cache": "replay a stream of questions through the semantic cache",
    "doctor": "look at every part of an installation, write a bundle for whoever helps",
    "ledger": "export the ledger, hold the books against each other",
    "bench": "try scheduling policies, autoscaling rules and spot replicas on simulated traffic",
    "route": "routing by complexity: score, replay, calibrate, what-if",
}


def load(name: str) -> ModuleType:
    """Import a subcommand; it has ``register(parser)``."""
    return importlib.import_module(f"gateway.commands.{name}")


def expected_errors() -> tuple[type[Exception], ...]:
    """Give the exceptions whose text is meant for the operator."""
    from backends.demo import DemoModelError
    from backends.engines.environment import EngineSetupError
    from backends.launchers.local import StateInUse
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
        StateInUse,
    )
