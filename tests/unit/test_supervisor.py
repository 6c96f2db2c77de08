"""The fleet's shell over real small processes; probes are a fake at the process boundary."""

import asyncio
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from backends import fleet
from backends.engines import LaunchCommand, LaunchProfile
from backends.launchers import AttachedLauncher, LocalLauncher, MakeCommand, Process
from backends.load import ReplicaLoad
from backends.probing import ProbeReply
from backends.replica import Event, Phase, Replica
from backends.scrapes import MUTE_S
from backends.supervisor import Supervisor
from backends.wanted import ReplicaSpec
from tests.fakes.processes import DEADLINE_S, until_async

FAKE = str(Path(__file__).parents[1] / "fakes" / "engine.py")


async def urllib_probe(
    url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
) -> ProbeReply:
    """A real request, by the standard library."""

    def ask() -> ProbeReply:
        request = urllib.request.Request(url, data=body, headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                return ProbeReply(reply.status, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return ProbeReply(error.code, error.read())
        except urllib.error.URLError as error:
            raise error.reason if isinstance(error.reason, OSError) else error from None

    return await asyncio.to_thread(ask)


class Scripted:
    """Answers by url; what is not named is refused. A callable may hang."""

    def __init__(self, answers: Mapping[str, int | Callable[[], Awaitable[int]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> ProbeReply:
        path = url.removeprefix("http://")
        self.asked.append(path)
        answer = self.answers.get(path)
        if answer is None:
            raise ConnectionRefusedError(111, "refused")
        return ProbeReply(answer if isinstance(answer, int) else await answer(), b"")


class FakeLauncher(LocalLauncher):
    """The local launcher, with every command exchanged for the fake engine's."""

    def __init__(self, state_dir: Path, *options: str) -> None:
        super().__init__(state_dir)
        self.options = options

    async def start(self, replica_id: str, make: MakeCommand, url: str) -> Process:
        def faked(port: int) -> LaunchCommand:
            make(port)
            argv = (sys.executable, "-P", FAKE, "--port", str(port), *self.options)
            return LaunchCommand(argv=argv, env={}, shutdown_timeout_s=1)

        return await super().start(replica_id, faked, url)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class House:
    """A supervisor with its clock and the changes it told."""

    def __init__(
        self, tmp_path: Path, specs: list[ReplicaSpec], probe: object = urllib_probe, *options: str
    ) -> None:
        self.clock = Clock()
        self.changes: list[tuple[str, Phase]] = []
        self.supervisor = Supervisor(
            specs,
            launchers={"local": FakeLauncher(tmp_path, *options), "attached": AttachedLauncher(tmp_path)},
            probe=probe,  # type: ignore[arg-type]  # either of the two above
            now=self.clock,
            state_dir=tmp_path,
            on_change=self.changed,
        )

    def changed(self, before: Replica, after: Replica) -> None:
        self.changes.append((after.id, after.phase))

    def phase(self, id_: str) -> Phase:
        return self.supervisor.replicas[id_].phase

    async def until(self, id_: str, *phases: Phase) -> None:
        """Reconcile and probe until the replica is in one of the phases; the clock stands still."""
        async with asyncio.timeout(DEADLINE_S):
            while self.phase(id_) not in phases:
                await self.supervisor.reconcile_once()
                await self.supervisor.probe_once()
                await asyncio.sleep(0.02)

    async def until_entered(self, id_: str, phase: Phase, times: int) -> None:
        """The same, until it has entered a phase so often: it may be gone again when we look."""
        async with asyncio.timeout(DEADLINE_S):
            while self.changes.count((id_, phase)) < times:
                await self.supervisor.reconcile_once()
                await self.supervisor.probe_once()
                await asyncio.sleep(0.02)


def launched(id_: str = "a") -> ReplicaSpec:
    profile = LaunchProfile(weights="/w", shutdown_timeout_s=1)
    return ReplicaSpec(id=id_, model="small", launcher="local", launch=profile, python="p")


def attached(id_: str, host: str, engine: str = "vllm") -> ReplicaSpec:
    return ReplicaSpec(id=id_, model="small", url=f"http://{host}/v1", engine=engine)


def test_a_launched_replica_becomes_ready_serves_its_load_and_stops(tmp_path: Path) -> None:
    house = House(tmp_path, [launched()], urllib_probe, "--load-s", "0.3")

    async def run() -> None:
        supervisor = house.supervisor
        assert supervisor.expected_ready_s("small") == 60.0
        await house.until("a", Phase.LOADING)
        house.clock.now_s += 12.0
        assert supervisor.expected_ready_s("small") == 48.0
        assert supervisor.progress()[0].elapsed_s == 12.0
        await house.until("a", Phase.READY)
        assert supervisor.expected_ready_s("small") == 0.0
        await supervisor.scrape_once()
        assert supervisor.loads["a"] == ReplicaLoad(running=2, waiting=1, kv_usage=0.25)
        await supervisor.stop()
        assert house.phase("a") is Phase.STOPPED

    asyncio.run(run())
    assert [phase for _, phase in house.changes] == [
        Phase.LOADING,
        Phase.READY,
        Phase.DRAINING,
        Phase.STOPPED,
    ]
    assert msgspec.json.decode((tmp_path / "load-times.json").read_bytes()) == {"small": 12.0}
    assert House(tmp_path, [launched()]).supervisor.expected_ready_s("small") == 12.0


def test_a_crash_loop_backs_off_gives_up_and_tries_again(tmp_path: Path) -> None:
    house = House(tmp_path, [launched()], Scripted({}), "--crash-after", "0")

    async def run() -> None:
        supervisor = house.supervisor
        for _ in range(fleet.GIVE_UP_AFTER):
            await house.until("a", Phase.LOADING)
            await house.until("a", Phase.WAITING, Phase.FAILED)
            await supervisor.reconcile_once()
            assert house.phase("a") is not Phase.LOADING
            house.clock.now_s += fleet.BACKOFF_MAX_S
        assert house.phase("a") is Phase.FAILED
        assert supervisor.replicas["a"].reason == "its process ended with status 3"
        assert "warden: engine ended with status 3" in supervisor.progress(log_lines=5)[0].log
        await supervisor.reconcile_once()
        assert house.phase("a") is Phase.FAILED
        house.clock.now_s += fleet.SLOW_RETRY_S
        await supervisor.reconcile_once()
        assert house.phase("a") is Phase.LOADING
        await supervisor.stop()

    asyncio.run(run())


def test_one_that_hangs_does_not_delay_the_others(tmp_path: Path) -> None:
    async def never() -> int:
        await asyncio.Event().wait()
        return 200

    probe = Scripted({"slow/health": never, "well/health": 200})
    house = House(tmp_path, [attached("slow", "slow"), attached("well", "well")], probe)
    house.supervisor.limits = msgspec.structs.replace(house.supervisor.limits, probe_timeout_s=0.2)

    async def run() -> None:
        await house.until("well", Phase.READY)
        assert house.phase("slow") is Phase.WAITING
        await house.supervisor.probe_once()
        assert house.supervisor.replicas["slow"].reason == "no answer in time"
        await house.supervisor.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answers", "phase"),
    [
        ({"x/health": 200}, Phase.READY),
        ({"x/health": 404, "x/v1/models": 200}, Phase.READY),
        ({"x/health": 501, "x/v1/models": 404}, Phase.READY),
        ({"x/health": 404, "x/v1/models": 401}, Phase.READY),
        ({"x/health": 503}, Phase.WAITING),
        ({"x/health": 404, "x/v1/models": 500}, Phase.WAITING),
        ({}, Phase.WAITING),
    ],
    ids=str,
)
def test_any_url_that_answers_counts(tmp_path: Path, answers: dict[str, int], phase: Phase) -> None:
    house = House(tmp_path, [attached("a", "x")], Scripted(answers))

    async def run() -> None:
        await house.supervisor.reconcile_once()
        await house.supervisor.probe_once()
        assert house.phase("a") is phase
        await house.supervisor.stop()

    asyncio.run(run())


def test_an_engine_without_a_health_address_is_asked_for_its_models(tmp_path: Path) -> None:
    probe = Scripted({"x/v1/models": 200})
    house = House(tmp_path, [attached("a", "x", engine="openai")], probe)

    async def run() -> None:
        await house.until("a", Phase.READY)
        await house.supervisor.stop()

    asyncio.run(run())
    assert set(probe.asked) == {"x/v1/models"}


def test_requests_eject_and_a_probe_readmits(tmp_path: Path) -> None:
    house = House(tmp_path, [attached("a", "x")], Scripted({"x/health": 200}))

    async def run() -> None:
        supervisor = house.supervisor
        await house.until("a", Phase.READY)
        before = supervisor.replicas
        supervisor.report("a", Event.SUCCEEDED)
        assert supervisor.replicas is before
        for _ in range(3):
            supervisor.report("a", Event.FAILED, "500")
        assert (house.phase("a"), before["a"].phase) == (Phase.EJECTED, Phase.READY)
        await supervisor.probe_once()
        assert house.phase("a") is Phase.EJECTED
        house.clock.now_s += 1.0
        await supervisor.probe_once()
        assert house.phase("a") is Phase.READY
        supervisor.report("a", Event.REFUSED, "refused")
        assert house.phase("a") is Phase.EJECTED
        supervisor.report("unknown", Event.FAILED)
        await supervisor.stop()

    asyncio.run(run())


def test_a_replica_that_serves_is_not_probed_until_it_is_silent(tmp_path: Path) -> None:
    probe = Scripted({"x/health": 200})
    house = House(tmp_path, [attached("a", "x")], probe)

    async def run() -> None:
        supervisor = house.supervisor
        await house.until("a", Phase.READY)
        asked = len(probe.asked)
        supervisor.report("a", Event.SUCCEEDED)
        await supervisor.probe_once()
        assert len(probe.asked) == asked
        await supervisor.probe_once()
        assert len(probe.asked) == asked + 1
        supervisor.report("a", Event.SUCCEEDED)
        supervisor.report("a", Event.REFUSED, "refused")
        await supervisor.probe_once()
        assert len(probe.asked) == asked + 2, "one that is not ready is always asked"
        await supervisor.stop()

    asyncio.run(run())


def test_a_replica_without_metrics_is_seldom_asked_for_them(tmp_path: Path) -> None:
    probe = Scripted({"x/health": 200, "x/metrics": 404})
    house = House(tmp_path, [attached("a", "x")], probe)

    async def run() -> None:
        supervisor = house.supervisor
        await house.until("a", Phase.READY)
        for _ in range(3):
            await supervisor.scrape_once()
        assert probe.asked.count("x/metrics") == 1
        house.clock.now_s += MUTE_S
        await supervisor.scrape_once()
        assert probe.asked.count("x/metrics") == 2
        await supervisor.stop()

    asyncio.run(run())


def test_a_launched_replica_whose_warm_up_fails_is_not_ready(tmp_path: Path) -> None:
    async def probe(
        url: str, headers: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> ProbeReply:
        return ProbeReply(200) if body is None else ProbeReply(500, b"no kernel")

    house = House(tmp_path, [launched()], probe)

    async def run() -> None:
        await house.until("a", Phase.LOADING)
        await house.supervisor.probe_once()
        assert house.phase("a") is Phase.LOADING
        assert house.supervisor.replicas["a"].reason.endswith("got 500: no kernel")
        house.clock.now_s += 900.0
        await house.supervisor.reconcile_once()
        await house.until("a", Phase.WAITING)
        assert "not ready 900 s" in house.supervisor.replicas["a"].reason
        await house.supervisor.stop()

    asyncio.run(run())


def test_declaring_anew_starts_and_ends(tmp_path: Path) -> None:
    house = House(tmp_path, [launched("a")])

    async def run() -> None:
        supervisor = house.supervisor
        await house.until("a", Phase.READY)
        supervisor.declare([launched("b")])
        await house.until("b", Phase.READY)
        await until_async(lambda: "a" not in supervisor.replicas)
        await supervisor.stop()

    asyncio.run(run())


def test_a_drained_replica_stays_out_until_it_is_resumed(tmp_path: Path) -> None:
    house = House(tmp_path, [attached("a", "x")], Scripted({"x/health": 200}))

    async def run() -> None:
        await house.until("a", Phase.READY)
        house.supervisor.drain("a")
        await house.supervisor.reconcile_once()
        await house.supervisor.probe_once()
        assert house.phase("a") is Phase.DRAINING
        house.supervisor.resume("a")
        await house.until("a", Phase.READY)
        with pytest.raises(KeyError):
            house.supervisor.drain("nobody")
        await house.supervisor.stop()

    asyncio.run(run())
