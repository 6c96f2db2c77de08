"""Runs one gateway process: uvicorn, signals, and a shutdown that lets streams finish.

SIGUSR1: readiness turns red, and nothing else: load balancers hear first that it goes. SIGTERM and SIGINT:
that, and new requests are refused with ``retry-after``, running ones finish within ``drain_s``, the rest end
with an error event; a second signal does not wait. SIGHUP reads the configuration again, or, where the
terminal that the process was started from is gone, counts as SIGTERM.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import cast

import uvicorn
from litestar.types import ASGIApp

from gateway import pages
from gateway.process import Process
from gateway.settings import ConfigError
from gateway.wire import JoinedHttpProtocol

log = logging.getLogger("switchgear.server")

ABORT_GRACE_S = 2.0
POLL_S = 0.05
KEEP_ALIVE_S = 75.0
LOOK_EVERY_S = 5.0
COLLAPSE_AGAIN_S = (10.0, 120.0)


class PortTaken(Exception):
    """The address cannot be listened on; the text says which and what to do."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling; it closes what lies idle, now and then, all at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.leaving = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for the end, without waking ten times a second as uvicorn does for its date header."""
        while not self.leaving.is_set():
            for connection in list(self.server_state.connections):
                cast("JoinedHttpProtocol", connection).close_if_idle(KEEP_ALIVE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self.leaving.wait()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as in uvicorn
        yield


class Stop:
    """SIGTERM and SIGINT, noted from its making on: what comes before the process serves counts too."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.impatient = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ask)

    def with_parent(self, parent_fd: int) -> None:
        """End also when the parent is gone, which brings the pipe to its end."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(parent_fd)
            self.ask()

        loop.add_reader(parent_fd, gone)

    def ask(self) -> None:
        """End the process; asked again, do not wait for what is under way."""
        if self.asked.is_set():
            self.impatient.set()
        self.asked.set()


def listen(host: str, port: int) -> socket.socket:
    """Bind the address; raises PortTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        remedy = "another port (server.port or --port)"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            remedy = "an address of this machine (server.host or --host)"
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}. Choose {remedy}.") from None
    listener.listen(2048)
    listener.setblocking(False)
    return listener


def root_url(listener: socket.socket) -> str:
    """Give the address that clients on this machine reach the listener by."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    process: Process,
    app: ASGIApp,
    listener: socket.socket,
    stop: Stop,
    *,
    when_listening: Callable[[], Awaitable[None]],
    after: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until a signal comes, then drain; ``after`` runs while the rest still serves its last streams."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        loop="uvloop",
        http=JoinedHttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=2048,
    )
    server = _Server(config)
    _spare_requests()
    _handle_hang_up(process, stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, process.leave)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    welcome = asyncio.create_task(_welcome(server, when_listening))
    stopped = asyncio.create_task(stop.asked.wait())
    try:
        await asyncio.wait([serving, stopped, *([welcome])], return_when=asyncio.FIRST_COMPLETED)
        if welcome.done():
            await welcome
            await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        await drain(process, stop.impatient)
    finally:
        welcome.cancel()
        stopped.cancel()
        server.leaving.set()
        await asyncio.wait([serving], timeout=ABORT_GRACE_S)
        server.force_exit = True
        await serving


def _spare_requests() -> None:
    """Take three costs off every request.

    Garbage collection: a request leaves nothing in cycles, yet with the default thresholds an eighth of the
    CPU goes into looking. The loop's list of open async generators: all of ours are closed by name. And small
    pages, of what is there now and of what the first minutes have brought.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    sys.set_asyncgen_hooks(firstiter=None)
    pages.collapse()
    loop = asyncio.get_running_loop()
    for later_s in COLLAPSE_AGAIN_S:
        loop.call_later(later_s, loop.run_in_executor, None, pages.collapse)


async def drain(process: Process, impatient: asyncio.Event) -> None:
    """Let running requests finish within ``drain_s``, then end them."""
    process.draining = True
    loop = asyncio.get_running_loop()
    until_s = loop.time() + process.settings.server.drain_s
    if process.exchanges:
        log.info("draining: %d requests under way", len(process.exchanges))
    while process.exchanges and loop.time() < until_s and not impatient.is_set():  # noqa: ASYNC110  # three conditions
        await asyncio.sleep(POLL_S)
    for exchange in list(process.exchanges):
        exchange.shut_down()
    until_s = loop.time() + ABORT_GRACE_S
    while process.exchanges and loop.time() < until_s:  # noqa: ASYNC110  # two conditions
        await asyncio.sleep(POLL_S)


async def _welcome(server: uvicorn.Server, when_listening: Callable[[], Awaitable[None]]) -> None:
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    await when_listening()


def _handle_hang_up(process: Process, stop: Stop) -> None:
    had_terminal = has_terminal()

    def hang_up() -> None:
        if had_terminal and not has_terminal():
            stop.ask()
            return
        try:
            process.reload()
            waiting = process.file.waiting() if process.file is not None else []
            more = f"; only a restart puts these in force: {', '.join(waiting)}" if waiting else ""
            log.info("configuration read again%s", more)
        except ConfigError as error:
            log.error("the configuration was not changed: %s", error)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def has_terminal() -> bool:
    """Tell whether the terminal that the process was started from is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
