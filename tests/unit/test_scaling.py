"""Scaling through the real parts: from zero by a request, up, reclaimed, back; engines are fake processes."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from backends.engines import LaunchProfile, Place
from backends.replica import Phase
from gateway.app import Edges, House
from gateway.errors import ModelLoading
from gateway.gauges import of_fleet
from gateway.rollouts import Rollout
from gateway.settings import (
    DatabaseSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    SpotSettings,
    VersionSettings,
)
from routing.decision import Query
from tests.fakes.metadata import GCP, Metadata, served
from tests.fakes.processes import until_async

FAKE = Path(__file__).parents[1] / "fakes" / "engine.py"
INTERPRETER = f"""#!{sys.executable}
import os, sys
port = sys.argv[sys.argv.index("--port") + 1]
os.execv({sys.executable!r}, [{sys.executable!r}, "-P", {str(FAKE)!r}, "--port", port])
"""


@contextlib.asynccontextmanager
async def house(
    directory: Path, launch: LaunchProfile, versions: tuple[VersionSettings, ...] = ()
) -> AsyncGenerator[House]:
    """The parts of a gateway whose engine interpreter starts the fake engine; its fleet loops run."""
    python = directory / "python"
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    settings = Settings(
        server=ServerSettings(state_dir=str(directory / "state")),
        database=DatabaseSettings(url=f"sqlite:///{directory}/db"),
        models=(ModelSettings(name="m", launch=launch, queue_timeout_s=120.0, versions=versions),),
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
async def test_where_nobody_waits_a_request_wakes_its_model_and_is_told_when_to_come_again(
    tmp_path: Path,
) -> None:
    launch = LaunchProfile(weights="/w", min_replicas=0, when_asleep="refuse")
    async with house(tmp_path, launch) as built:
        with pytest.raises(ModelLoading) as refused:
            await serve(built)
        assert (refused.value.retry_after_s or 0) >= 1
        await until_async(lambda: phases(built) == {"m-0": Phase.READY})
        assert await serve(built) == "m-0"


@in_a_loop
async def test_what_an_earlier_run_left_is_wanted_by_its_names_and_as_it_is(tmp_path: Path) -> None:
    launch = LaunchProfile(weights="/w", min_replicas=1, max_replicas=2, spot=True)
    async with house(tmp_path, launch) as built:
        built.scaler.found({"m-3": Place(spot=True, zone="b"), "m-5": Place(), "other-0": Place()})
        assert built.scaler.ids("m") == ("m-3", "m-5")
        assert (built.scaler.seat("m", "m-3")[0].zone, built.scaler.seat("m", "m-5")[0].spot) == ("b", False)
        built.scaler.found({"m-1": Place(), "m-2": Place(), "m-3": Place()})
        assert built.scaler.ids("m") == ("m-1", "m-2"), "no more than there may be"
        built.scaler.found({})
        assert built.scaler.ids("m") == ("m-0",)


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


def versions_of(built: House) -> dict[str, str]:
    return {id_: one.version for id_, one in built.supervisor.replicas.items() if one.phase is Phase.READY}


@in_a_loop
async def test_a_version_comes_before_the_other_one_goes_and_goes_back_in_one_step(tmp_path: Path) -> None:
    launch = LaunchProfile(weights="/w", min_replicas=2, max_replicas=4, shutdown_timeout_s=1)
    versions = (
        VersionSettings(name="old", share=1.0, weights="/w/old"),
        VersionSettings(name="new", weights="/w/new"),
    )
    async with house(tmp_path, launch, versions) as built:
        await until_async(lambda: versions_of(built) == {"m-0": "old", "m-1": "old"})
        (model,) = built.process.settings.models
        least = 2

        def watch() -> bool:
            nonlocal least
            least = min(least, len(versions_of(built)))
            return set(versions_of(built).values()) == {"new"} and len(built.supervisor.replicas) == 2

        with await built.dispatcher.slot(Query(model="m"), band=1, deadline_s=1e12) as slot:
            assert slot.replica.version == "old"
            built.rollouts.adopt({"m": Rollout({"old": 0.0, "new": 1.0}, {"old": 1.0, "new": 0.0})})
            built.scaler.configure((model,))
            built.scaler.declare()
            await until_async(lambda: list(versions_of(built).values()).count("new") == 2)
            assert built.supervisor.replicas[slot.replica.id].phase is not Phase.STOPPED
        await until_async(watch)
        assert least == 2, "never fewer ready than wanted"
        assert await serve(built) in versions_of(built)


@in_a_loop
async def test_a_standby_is_loaded_and_called_in_at_once(tmp_path: Path) -> None:
    launch = LaunchProfile(weights="/w", max_replicas=2, standby=1, shutdown_timeout_s=1)
    async with house(tmp_path, launch) as built:
        await until_async(lambda: sorted(phases(built).values()) == [Phase.DRAINING, Phase.READY])
        assert built.scaler.shown("m") is not None
        starts = [tuple(built.supervisor.steps(id_)) for id_ in sorted(built.supervisor.replicas)]
        of_fleet(built.process.telemetry, built.supervisor)
        scraped = built.process.telemetry.text().decode()
        for id_, steps in zip(sorted(built.supervisor.replicas), starts, strict=True):
            for one in steps:
                labels = f'model="m",replica="{id_}",step="{one.step}"'
                assert f"switchgear_replica_start_step_seconds{{{labels}}} {one.seconds}" in scraped
        built.scaler.pin("m", 2)
        await until_async(lambda: set(phases(built).values()) == {Phase.READY})
        assert [tuple(built.supervisor.steps(id_)) for id_ in sorted(built.supervisor.replicas)] == starts
        built.scaler.pin("m", 1)
        await until_async(lambda: sorted(phases(built).values()) == [Phase.DRAINING, Phase.READY])


@in_a_loop
async def test_nothing_is_started_any_more_on_a_machine_that_goes(tmp_path: Path) -> None:
    metadata = Metadata()
    metadata.answers[GCP] = (200, b"FALSE")
    launch = LaunchProfile(weights="/w", max_replicas=3, max_num_seqs=1, shutdown_timeout_s=1)
    async with house(tmp_path, launch) as built:
        with served(metadata):
            built.spot.settings = SpotSettings(cloud="gcp", metadata_url=metadata.url)
            await until_async(lambda: phases(built) == {"m-0": Phase.READY})
            await built.spot.look()
            assert phases(built) == {"m-0": Phase.READY}
            assert built.process.health()[0]
            metadata.answers[GCP] = (200, b"TRUE")
            await built.spot.look()
        assert not built.process.health()[0]
        await until_async(lambda: phases(built)["m-0"] is Phase.STOPPED)
        waiting = [asyncio.create_task(serve(built)) for _ in range(4)]
        await until_async(lambda: len(phases(built)) > 1 or phases(built)["m-0"] is Phase.WAITING)
        await built.supervisor.reconcile_once()
        assert set(phases(built).values()) == {Phase.WAITING}, "wanted, and not started"
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@in_a_loop
async def test_the_top_band_is_on_demand_and_the_rest_on_spot(tmp_path: Path) -> None:
    launch = LaunchProfile(
        weights="/w", min_replicas=2, max_replicas=3, spot=True, on_demand=1, zones=("a", "b")
    )
    async with house(tmp_path, launch) as built:
        await until_async(lambda: phases(built) == {"m-0": Phase.READY, "m-1": Phase.READY})
        assert {id_: one.spot for id_, one in built.supervisor.replicas.items()} == {
            "m-0": False,
            "m-1": True,
        }
        for band, wanted in ((0, "m-0"), (1, "m-1"), (2, "m-1")):
            for _ in range(3):
                with await built.dispatcher.slot(Query(model="m"), band=band, deadline_s=1e12) as slot:
                    assert slot.replica.id == wanted
        built.supervisor.reclaim("m-1", 5.0)
        built.scaler.reclaimed("m", "m-1")
        await until_async(lambda: phases(built) == {"m-0": Phase.READY, "m-2": Phase.READY})
        assert built.supervisor.replicas["m-2"].spot
