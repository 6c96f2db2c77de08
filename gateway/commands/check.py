"""``switchgear check``: validate a configuration and print what would be served."""

import argparse

from gateway.commands import credentials
from gateway.commands.base import add_config, launchable
from gateway.settings import ModelSettings


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check and print."""
    settings = launchable(options.config)
    print(f"http://{settings.server.host}:{settings.server.port}/v1")
    for model in settings.models:
        print(f"  model {model.name}: {_where(model)}")
    for route in settings.routes:
        print(f"  route {route.name}: {' -> '.join(route.tiers)}")
    beside = options.config.absolute().parent / credentials.FILE
    more = f"; with 'switchgear up' also that of {beside}" if beside.exists() else ""
    print(f"  keys: {len(settings.keys)} in the file{more}")
    return 0


def _where(model: ModelSettings) -> str:
    if model.launch is not None:
        return f"{model.engine}, launched from {model.launch.weights} ({model.launch.min_replicas} replicas)"
    if model.kubernetes is not None:
        names = ", ".join(one.name for one in model.kubernetes.workloads)
        return f"{model.engine}, pods of {names} in {model.kubernetes.namespace}"
    return f"{model.engine} at {', '.join(replica.url for replica in model.replicas)}"
