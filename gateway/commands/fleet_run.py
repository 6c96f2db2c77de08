"""``switchgear fleet run``: the fleet as a process of its own, for gateways with ``[fleet] apart = true``."""

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from backends.engines import environment
from gateway import database, fleet_rows, server
from gateway.checks import check, check_weights
from gateway.commands.base import CommandError, log_to_stderr
from gateway.config_file import load
from gateway.fleet_process import FleetHouse
from gateway.loops import Loop, running
from gateway.planning import refuse_misfits, this_machine
from gateway.settings import Settings

RENEW_S = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the TOML configuration")
    parser.add_argument("--engine", type=Path, default=Path(".engine"), help="the engines' environment")
    parser.add_argument("--python", type=Path, help="an interpreter with the engine, instead of --engine")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Wait for the lease, run the fleet until a signal or until somebody else has the lease."""
    log_to_stderr()
    settings = load(options.config)
    check(settings, str(options.config), os.environ)
    check_weights(settings, str(options.config))
    if not settings.fleet.apart:
        raise CommandError(f"{options.config}: fleet.apart is not set; the gateway runs these engines itself")
    machine = this_machine()
    refuse_misfits(settings, str(options.config), machine, _say)
    python = options.python
    if python is None:
        gpu = bool(machine.gpus)
        python = environment.ensure(options.engine.absolute(), gpu=gpu, progress=_say)
    os.environ.update(environment.variables(python))
    engine = database.connect(settings.database.url)
    try:
        database.migrate(engine)
        return uvloop.run(_run(settings, engine, str(python), tuple(range(len(machine.gpus)))))
    except SQLAlchemyError as error:
        raise CommandError(f"the database failed: {database.reason(error)}") from None
    finally:
        engine.dispose()


async def _run(settings: Settings, engine: sa.Engine, python: str, gpus: tuple[int, ...]) -> int:
    stop = server.Stop()
    house = FleetHouse(
        settings,
        engine,
        now=time.monotonic,
        wall=time.time,
        environ=os.environ,
        engine_python=python,
        gpus=gpus,
    )
    said = False
    while not await house.take_lease():
        if not said:
            _say(f"waits: {await asyncio.to_thread(fleet_rows.holder, engine)} runs the fleet")
            said = True
        if await _stopped(stop, RENEW_S):
            return 0
    _say("runs the fleet")
    await house.begin()
    try:
        async with running(house.loops(), lambda name: None):
            return await _keep(house, stop)
    finally:
        _say("stopping the engines")
        async with running(_telling(house), lambda name: None):
            await house.end()


def _telling(house: FleetHouse) -> Sequence[Loop]:
    """What goes on while the engines end: who has the lease says so, and what still runs."""
    return (Loop("lease", RENEW_S, house.take_lease),)


async def _keep(house: FleetHouse, stop: server.Stop) -> int:
    """Renew the lease until a signal (0), or until somebody else has it (1).

    While the database is away the engines go on: the gateways that cannot read it keep what they last heard.
    """
    while not await _stopped(stop, RENEW_S):
        try:
            if not await house.take_lease():
                _say("another fleet has taken over: this one ends")
                return 1
        except SQLAlchemyError as error:
            _say(f"the lease cannot be renewed: {database.reason(error)}")
    return 0


async def _stopped(stop: server.Stop, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await stop.asked.wait()
    except TimeoutError:
        return False
    return True


def _say(text: str) -> None:
    print(f"switchgear fleet: {text}", flush=True)
