"""Real, small processes: started, watched, ended, and never left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from backends.engines import LaunchCommand, Place
from backends.launchers import LAUNCHERS, LocalLauncher, MakeCommand, Process, warden
from backends.launchers.local import StateInUse, environment, running
from tests.fakes.processes import alive, numbers, parent_of, until, until_async

ROOT = Path(__file__).parents[2]
FAKE = str(ROOT / "tests" / "fakes" / "engine.py")


def fake(*options: str, **env: str) -> MakeCommand:
    return lambda port: LaunchCommand(
        argv=(sys.executable, "-P", FAKE, "--port", str(port), *options), env=env, shutdown_timeout_s=1
    )


async def says(process: Process, words: str) -> None:
    await until_async(lambda: any(words in line for line in process.log_tail()))


def pids(process: Process) -> list[int]:
    lines = process.log_tail()
    return numbers(lines, "engine ") + numbers(lines, "child ")


def test_serves_and_stops_with_its_log_kept(tmp_path: Path) -> None:
    async def run() -> None:
        process = await LocalLauncher(tmp_path).start("qwen/small 1", fake(), "")
        await says(process, "serving")
        reply = await asyncio.to_thread(urllib.request.urlopen, process.url.removesuffix("/v1") + "/health")
        with reply:
            assert reply.status == 200
        (engine,) = pids(process)
        assert await process.stop(10.0) == 128 + signal.SIGTERM
        assert not alive(engine)
        assert process.log_tail(1) == (f"warden: engine ended with status {128 + signal.SIGTERM}",)

    asyncio.run(run())
    assert list(tmp_path.rglob("*.pid")) == []


def test_what_runs_is_told_from_outside_and_nothing_is_changed(tmp_path: Path) -> None:
    async def run() -> None:
        assert dict(running(tmp_path)) == {}
        process = await LocalLauncher(tmp_path).start("qwen/small 1", fake(), "")
        await says(process, "serving")
        assert dict(running(tmp_path)) == {"qwen/small 1": process.url}
        await process.stop(10.0)
        assert dict(running(tmp_path)) == {}

    asyncio.run(run())
    (broken := tmp_path / "engines" / "b.pid").write_text("{")
    (gone := tmp_path / "engines" / "c.pid").write_text(json.dumps(
        {"mark": "m", "session": os.getpid(), "session_started": "1", "gateway": 1, "gateway_started": "1",
         "note": {"port": 1, "log_start": 0, "command": "", "place": {}}}
    ))  # fmt: skip
    assert dict(running(tmp_path)) == {}
    assert broken.exists()
    assert gone.exists()


def test_the_engine_sees_a_neutral_place(tmp_path: Path) -> None:
    async def run() -> dict[str, str]:
        process = await LocalLauncher(tmp_path).start("a", fake(GIVEN="yes"), "")
        await says(process, "serving")
        reply = await asyncio.to_thread(
            urllib.request.urlopen, process.url.removesuffix("/v1") + "/environment"
        )
        with reply:
            seen: dict[str, str] = json.load(reply)
        await process.stop(5.0)
        return seen

    seen = asyncio.run(run())
    assert seen["GIVEN"] == "yes"
    assert seen["PYTHONSAFEPATH"] == "1"
    assert list(Path(seen["cwd"]).iterdir()) == []


def test_no_secret_of_ours_reaches_an_engine() -> None:
    parent = {
        "PATH": "/bin",
        "SWITCHGEAR_ADMIN_KEY": "s",
        "OPENAI_API_KEY": "s",
        "VLLM_API_KEY": "s",
        "HF_HOME": "/h",
    }
    parent |= {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": "/x", "VLLM_LOGGING_LEVEL": "INFO"}
    seen = environment(parent, LaunchCommand(argv=("x",), env={}))
    kept = {"PATH": "/bin", "HF_HOME": "/h", "VLLM_LOGGING_LEVEL": "INFO"}
    assert seen == kept | {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


def test_a_deaf_engine_and_its_hidden_child_are_killed_after_the_grace(tmp_path: Path) -> None:
    async def run() -> None:
        options = ("--ignore-sigterm", "--spawn-child", "--child-session")
        process = await LocalLauncher(tmp_path).start("a", fake(*options), "")
        await says(process, "serving")
        family = pids(process)
        assert len(family) == 2
        assert await process.stop(0.3) == 128 + signal.SIGKILL
        assert not any(map(alive, family))

    asyncio.run(run())


def test_a_crash_is_seen_with_its_status_and_takes_the_children_along(tmp_path: Path) -> None:
    async def run() -> None:
        options = ("--crash-after", "0.1", "--spawn-child", "--child-session")
        process = await LocalLauncher(tmp_path).start("a", fake(*options), "")
        both = await asyncio.gather(process.wait(), process.wait())
        assert list(both) == [3, 3]
        assert len(pids(process)) == 2
        assert not any(map(alive, pids(process)))
        assert await process.stop(1.0) == 3

    asyncio.run(run())


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def run() -> None:
        make: MakeCommand = lambda port: LaunchCommand(argv=("/no/such/python",), env={})  # noqa: E731
        process = await LocalLauncher(tmp_path).start("a", make, "")
        assert await process.wait() == 127
        assert any("cannot start /no/such/python" in line for line in process.log_tail())

    asyncio.run(run())


def test_the_log_tail_is_of_this_start_only(tmp_path: Path) -> None:
    async def run() -> None:
        launcher = LocalLauncher(tmp_path)
        first = await launcher.start("a", fake("--crash-after", "0"), "")
        await first.wait()
        old = pids(first)
        second = await launcher.start("a", fake(), "")
        await says(second, "serving")
        assert len(pids(second)) == 1
        assert pids(second) != old
        await second.stop(5.0)
        assert f"engine {old[0]}" in (tmp_path / "engines" / "a.log").read_text().splitlines()

    asyncio.run(run())


@pytest.mark.parametrize("hidden", ["--child-session", "--child-unmarked"])
def test_a_killed_warden_leaves_nothing(tmp_path: Path, hidden: str) -> None:
    async def run() -> None:
        process = await LocalLauncher(tmp_path).start("a", fake("--spawn-child", hidden), "")
        await says(process, "serving")
        family = pids(process)
        os.kill(parent_of(family[0]), signal.SIGKILL)
        assert await process.wait() == 128 + signal.SIGKILL
        assert len(family) == 2
        assert not any(map(alive, family))

    asyncio.run(run())


GATEWAY = """
import asyncio, os, signal, sys
from pathlib import Path
from backends.engines import LaunchCommand
from backends.launchers import LocalLauncher

async def main():
    def make(port):
        argv = (sys.executable, "-P", sys.argv[1], "--port", str(port), *sys.argv[3:])
        return LaunchCommand(argv=argv, env={}, shutdown_timeout_s=1)
    launcher = LocalLauncher(Path(sys.argv[2]), float(os.environ["ORPHAN_S"]))
    process = await launcher.start("a", make, "")
    await process.wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
if "--uvloop" in sys.argv:
    sys.argv.remove("--uvloop")
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


HIDDEN = ("--spawn-child", "--child-session")


def unwanted(replica_id: str, place: Place) -> MakeCommand | None:
    return None


def gateway(state: Path, *options: str, orphan_s: float = 0.0) -> tuple["subprocess.Popen[str]", list[int]]:
    """A parent that launches a fake engine with a hidden child; its process and their pids."""
    argv = [sys.executable, "-c", GATEWAY, FAKE, str(state), *HIDDEN, *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "ORPHAN_S": str(orphan_s)}
    parent = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    log = state / "engines" / "a.log"

    def lines() -> tuple[str, ...]:
        assert parent.poll() is None, parent.communicate()[1]
        return tuple(log.read_text().splitlines()) if log.exists() else ()

    until(lambda: bool(numbers(lines(), "child ")) and ("serving" in lines() or "--load-s" in options))
    return parent, numbers(lines(), "engine ") + numbers(lines(), "child ")


@pytest.mark.parametrize("options", [(), ("--uvloop",), ("--load-s", "600"), ("--ignore-sigterm",)], ids=str)
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    parent, family = gateway(tmp_path, *options)
    assert len(family) == 2
    parent.kill()
    parent.communicate()
    until(lambda: not any(map(alive, family)))
    until(lambda: not list(tmp_path.rglob("*.pid")))


def test_nothing_outlives_a_parent_that_ends_without_stopping_it(tmp_path: Path) -> None:
    parent, family = gateway(tmp_path)
    parent.send_signal(signal.SIGINT)
    parent.communicate()
    until(lambda: not any(map(alive, family)))


def test_the_next_start_ends_what_an_earlier_run_left(tmp_path: Path) -> None:
    parent, family = gateway(tmp_path)
    guard = parent_of(family[0])
    launcher = LocalLauncher(tmp_path)
    with pytest.raises(StateInUse, match=f"process id {parent.pid}"):
        asyncio.run(launcher.sweep(unwanted))
    parent.send_signal(signal.SIGSTOP)  # neither parent nor warden can clean up
    os.kill(guard, signal.SIGKILL)
    parent.kill()
    parent.communicate()
    until(lambda: not alive(family[0]))  # by the kernel
    assert alive(family[1])
    assert list(launcher.left()) == ["a"]
    assert asyncio.run(launcher.sweep(lambda replica_id, place: fake(*HIDDEN))) == {}
    assert not any(map(alive, family))
    assert launcher.left() == {}


def orphaned(directory: Path, orphan_s: float) -> tuple[int, int]:
    """An engine whose gateway was killed, and its child."""
    parent, (engine, child) = gateway(directory, orphan_s=orphan_s)
    parent.kill()
    parent.communicate()
    return engine, child


def test_an_orphan_is_taken_over_as_it_is_and_ends_with_its_new_gateway(tmp_path: Path) -> None:
    family = orphaned(tmp_path, 600.0)

    async def run() -> None:
        launcher = LocalLauncher(tmp_path)
        assert launcher.left() == {"a": Place()}
        process = (await launcher.sweep(lambda replica_id, place: fake(*HIDDEN)))["a"]
        assert tuple(pids(process)) == family
        reply = await asyncio.to_thread(urllib.request.urlopen, process.url.removesuffix("/v1") + "/health")
        with reply:
            assert reply.status == 200
        assert await process.stop(10.0) == 128 + signal.SIGTERM

    asyncio.run(run())
    assert not any(map(alive, family))
    assert [one.name for one in (tmp_path / "engines").iterdir() if one.suffix in (".pid", ".pipe")] == []


def test_an_orphan_that_is_not_wanted_so_is_ended_before_another_one_starts(tmp_path: Path) -> None:
    family = orphaned(tmp_path, 600.0)
    other = fake(*HIDDEN, "--token-s", "1")
    assert asyncio.run(LocalLauncher(tmp_path).sweep(lambda replica_id, place: other)) == {}
    assert not any(map(alive, family))


def test_an_orphan_that_nobody_takes_over_ends(tmp_path: Path) -> None:
    family = orphaned(tmp_path, 0.5)
    until(lambda: not any(map(alive, family)))
    until(lambda: LocalLauncher(tmp_path).left() == {})


def test_the_crash_of_one_that_was_taken_over_is_seen(tmp_path: Path) -> None:
    engine, _ = orphaned(tmp_path, 600.0)

    async def run() -> None:
        launcher = LocalLauncher(tmp_path)
        process = (await launcher.sweep(lambda replica_id, place: fake(*HIDDEN)))["a"]
        os.kill(engine, signal.SIGKILL)
        assert await process.wait() == 128 + signal.SIGKILL

    asyncio.run(run())


def test_a_broken_pidfile_is_put_away(tmp_path: Path) -> None:
    directory = tmp_path / "engines"
    directory.mkdir()
    (directory / "a.pid").write_text("{")
    assert asyncio.run(LocalLauncher(tmp_path).sweep(unwanted)) == {}
    assert list(directory.iterdir()) == []


def test_a_log_that_grew_too_large_is_emptied_into_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(log, b"x" * 11)
        warden.trim(log, str(path), 11)
        assert path.stat().st_size == 11
        warden.trim(log, str(path), 10)
        os.write(log, b"next")
    finally:
        os.close(log)
    assert (path.read_bytes(), (tmp_path / "a.log.1").read_bytes()) == (b"next", b"x" * 11)


def test_an_attached_replica_is_neither_started_nor_ended(tmp_path: Path) -> None:
    async def run() -> None:
        process = await LAUNCHERS["attached"](tmp_path, 0.0).start("a", fake(), "http://127.0.0.1:9/v1")
        assert process.url == "http://127.0.0.1:9/v1"
        waiting = asyncio.create_task(process.wait())
        assert await process.stop(1.0) == 0
        assert await waiting == 0

    asyncio.run(run())
