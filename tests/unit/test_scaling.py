"""Scaling through the real parts: from zero by a request, up, reclaimed, back; engines are fake processes."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

from backends.engines import LaunchProfile
from backends.replica import Phase
from gateway.app import Edges, House
from gateway.settings import DatabaseSettings, ModelSettings, ServerSettings, Settings
from routing.decision import Query
from tests.fakes.processes import until_async

FAKE = Path(__file__).parents[1] / "fakes" / "engine.py"
INTERPRETER = f"""#!{sys.executable}
import os, sys
port = sys.argv[sys.argv.index("--port") + 1]
os.execv({sys.executable!r}, [{sys.executable!r}, "-P", {str(FAKE)!r}, "--port", port])
"""


@contextlib.asynccontextmanager
async def house(directory: Path, launch: LaunchProfile) -> AsyncGenerator[House]:
    """The parts of a gateway whose engine interpreter starts the fake engine; its fleet loops run."""
    python = directory / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    settings = Settings(
        server=ServerSettings(state_dir=str(directory / "state")),
        database=DatabaseSettings(url=f"sqlite:///{directory}/db"),
        models=(ModelSettings(name="m", launch=launch, queue_timeout_s=120.0),),
    )
    built = House(settings, Edges(engine_python=str(python), environ={}))

    async def loop() -> None:
        while True:
            await built.scaler.look()
            await built.supervisor.reconcile_once()
            await built.supervisor.probe_once()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(loop())
    try:
        yield built
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await built.supervisor.stop()
        await built.clients.close()
        await built.books.close()


def in_a_loop(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """Run a test in an event loop of its own."""

    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    return run


def phases(built: House) -> dict[str, Phase]:
    return {id_: one.phase for id_, one in built.supervisor.replicas.items()}


async def serve(built: House) -> str:
    with await built.dispatcher.slot(Query(model="m"), band=1, deadline_s=1e12) as slot:
        return slot.replica.id


@in_a_loop
async def test_requests_wake_a_model_once_and_wait_for_it(tmp_path: Path) -> None:
    async with house(tmp_path, LaunchProfile(weights="/w", min_replicas=0, max_replicas=2)) as built:
        assert phases(built) == {}
        assert await asyncio.gather(*(serve(built) for _ in range(5))) == ["m-0"] * 5
        assert phases(built) == {"m-0": Phase.READY}


@in_a_loop
async def test_a_reclaimed_replica_finishes_its_request_while_a_substitute_serves(tmp_path: Path) -> None:
    launch = LaunchProfile(weights="/w", max_replicas=3, shutdown_timeout_s=1)
    async with house(tmp_path, launch) as built:
        await until_async(lambda: phases(built) == {"m-0": Phase.READY})
        with await built.dispatcher.slot(Query(model="m"), band=1, deadline_s=1e12) as slot:
            built.supervisor.reclaim(slot.replica.id, 60.0)
            built.scaler.reclaimed("m", slot.replica.id)
            await until_async(lambda: phases(built).get("m-1") is Phase.READY)
            assert phases(built)["m-0"] is Phase.DRAINING
            assert await serve(built) == "m-1"
        await until_async(lambda: phases(built) == {"m-1": Phase.READY})


@in_a_loop
async def test_an_operator_scales_out_in_and_to_zero(tmp_path: Path) -> None:
    launch = LaunchProfile(weights="/w", min_replicas=0, max_replicas=2, shutdown_timeout_s=1)
    async with house(tmp_path, launch) as built:
        built.scaler.pin("m", 2)
        await until_async(lambda: phases(built) == {"m-0": Phase.READY, "m-1": Phase.READY})
        built.scaler.pin("m", 0)
        await until_async(lambda: phases(built) == {})


@in_a_loop
async def test_sleep_without_sleep_mode_ends_the_process_and_a_request_starts_it(tmp_path: Path) -> None:
    async with house(tmp_path, LaunchProfile(weights="/w", shutdown_timeout_s=1)) as built:
        await until_async(lambda: phases(built) == {"m-0": Phase.READY})
        await built.supervisor.sleep("m-0")
        await until_async(lambda: phases(built) == {"m-0": Phase.STOPPED})
        assert await serve(built) == "m-0"
