"""``switchgear serve``: the gateway alone, in front of replicas that run already."""

import argparse
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from gateway import app, pages, server, tallies, workers
from gateway.checks import check
from gateway.commands import address, credentials
from gateway.commands.base import CommandError, add_config, log_to_stderr, tell_warnings
from gateway.config_file import load
from gateway.settings import Settings


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.add_argument("--host", help="address to listen on (over server.host)")
    parser.add_argument("--port", type=int, help="port to listen on (over server.port); 0 chooses a free one")
    parser.add_argument("--workers", type=int, help="processes on this address (over server.workers)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    log_to_stderr()
    path: Path = options.config

    def reread() -> Settings:
        return with_address(load(path), options.host, options.port, options.workers)

    settings = reread()
    beside = credentials.read(path.absolute().parent)
    if beside is not None:
        credentials.put_into(os.environ, beside)
    check(settings, str(path), os.environ)
    tell_warnings(settings, path)
    if any(model.launch is not None for model in settings.models) and not settings.fleet.apart:
        raise CommandError(
            f"{path}: has [models.launch]; run it with 'switchgear up', or set fleet.apart = true and run "
            "'switchgear fleet run' beside it"
        )
    pages.give_back()
    listener = server.listen(settings.server.host, settings.server.port)
    say, count = partial(_say, settings, server.root_url(listener)), settings.server.workers
    edges = app.Edges(load=reread, source=str(path), file=path)
    if count == 1:
        uvloop.run(_serve(settings, listener, edges, None, say))
        return 0
    board = tallies.board(count)
    before = server.has_terminal()
    role = workers.supervise(
        count,
        drain_s=settings.server.drain_s,
        when_ready=say,
        hung_up=lambda: before and not server.has_terminal(),
    )
    if isinstance(role, int):
        return role
    edges = msgspec.structs.replace(
        edges, tallies=tallies.SharedTallies(board, role.place), tell_siblings=_hang_up_parent
    )
    uvloop.run(_serve(settings, listener, edges, role, role.ready))
    return 0


def _hang_up_parent() -> None:
    """Have the parent pass SIGHUP on to all of its workers."""
    os.kill(os.getppid(), signal.SIGHUP)


def with_address(
    settings: Settings, host: str | None, port: int | None, count: int | None = None
) -> Settings:
    """Put the command line's address, and number of workers, over those of the file."""
    if count is not None and count < 1:
        raise CommandError("--workers must be 1 or more")
    if port is not None and not 0 <= port <= 65535:
        raise CommandError("--port must be 0 to 65535; 0 takes a free one")
    wanted = {"host": host, "port": port, "workers": count}
    changed = {name: value for name, value in wanted.items() if value is not None}
    return msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **changed))


async def _serve(
    settings: Settings,
    listener: socket.socket,
    edges: app.Edges,
    worker: workers.Worker | None,
    listening: Callable[[], None],
) -> None:
    stop = server.Stop()
    if worker is not None:
        stop.with_parent(worker.parent_fd)

    async def when_listening() -> None:
        listening()

    async with app.opened(settings, edges) as process:
        await server.serve(process, app.build(process), listener, stop, when_listening=when_listening)


def _say(settings: Settings, root: str) -> None:
    address.tell(settings, root)
    print(f"Switchgear serves on {root}/v1", flush=True)
