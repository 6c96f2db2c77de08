"""``switchgear serve``: the gateway alone, in front of replicas that run already."""

import argparse
import asyncio
import socket
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from gateway import app, server
from gateway.commands.base import CommandError, add_config, checked, log_to_stderr
from gateway.settings import Settings, load


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (over server.host)")
    parser.add_argument("--port", type=int, help="port to listen on (over server.port); 0 chooses a free one")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    log_to_stderr()
    path: Path = options.config
    settings = with_address(checked(path), options.host, options.port)
    if any(model.launch is not None for model in settings.models):
        raise CommandError(f"{path}: has [models.launch]; run it with 'switchgear up'")
    listener = server.listen(settings.server.host, settings.server.port)
    reread = lambda: with_address(load(path), options.host, options.port)  # noqa: E731  # a value, not a function of note
    uvloop.run(_serve(settings, listener, app.Edges(load=reread, source=str(path))))
    return 0


def with_address(settings: Settings, host: str | None, port: int | None) -> Settings:
    """Put the command line's address over that of the file."""
    wanted = {"host": host, "port": port}
    changed = {name: value for name, value in wanted.items() if value is not None}
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **changed))


async def _serve(settings: Settings, listener: socket.socket, edges: app.Edges) -> None:
    stop = server.Stop()
    async with app.opened(settings, edges) as process:
        say = partial(_say, server.root_url(listener))
        await server.serve(process, app.build(process), listener, stop, when_listening=say)


async def _say(root: str) -> None:
    print(f"Switchgear serves on {root}/v1", flush=True)
    await asyncio.sleep(0)
