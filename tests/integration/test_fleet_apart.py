"""The fleet as a process apart, behind a gateway that holds and loses nothing; engines are fakes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import alive, until
from tests.integration.admin import ADMIN, ask, good
from tests.integration.clients import Load
from tests.integration.gateway import COMMAND, KEY, ROOT, Gateway, config, end

FAKE = ROOT / "tests" / "fakes" / "engine.py"
INTERPRETER = f"""#!{sys.executable}
import os, sys
port = sys.argv[sys.argv.index("--port") + 1]
options = ["--port", port, "--token-s", "0.05", "--load-s", "0.3"]
os.execv({sys.executable!r}, [{sys.executable!r}, "-P", {str(FAKE)!r}, *options])
"""
MODEL = """
[[models]]
name = "m"
queue_timeout_s = 100
price = { input = 1.0, output = 2.0 }
[models.launch]
weights = "hub/model"
max_num_seqs = 2
min_replicas = 0
max_replicas = 2
shutdown_timeout_s = 1
[models.launch.scaling]
out_window_s = 0
in_window_s = 1
idle_s = 2
peak_share = 0.0
[fleet]
apart = true
"""


class FleetProcess:
    """``switchgear fleet run`` beside a gateway's configuration."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.directory = gateway.directory
        python = self.directory / "python"
        python.write_text(INTERPRETER)
        python.chmod(0o755)
        self.out = self.directory / f"{name}.txt"
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [COMMAND, "fleet", "run", "--config", str(gateway.config), "--python", str(python)],
                stdout=out,
                stderr=out,
                cwd=self.directory,
                env={**os.environ, "TEST_KEY": KEY, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def engines(self) -> list[int]:
        """The engines that live, by what they wrote into their logs."""
        logs = (self.directory / "state" / "fleet" / "engines").glob("*.log")
        words = [line.split() for log in logs for line in log.read_text().splitlines()]
        return [pid for one in words if one[:1] == ["engine"] and one[1:2] and alive(pid := int(one[1]))]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        return end(self.process, number)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    settings = config(MODEL, directory=tmp_path, server="heartbeat_after_s = 0.2")
    made = Gateway(tmp_path, settings, SWITCHGEAR_ADMIN_KEY=ADMIN)
    yield made
    made.stop()


def replicas(gateway: Gateway) -> float:
    return gateway.metric("switchgear_replicas", model="m", phase="ready")


def told_priority(gateway: Gateway, tier: str) -> int | None:
    """What a launched engine is told of a request that puts itself seven steps back."""
    body = gateway.chat("m", "hello", service_tier=tier, priority=7)[2]
    found: int | None = json.loads(body)["asked_priority"]
    return found


@pytest.mark.soak
def test_from_zero_to_two_and_back_without_a_client_error(gateway: Gateway) -> None:
    fleet = FleetProcess(gateway, "first")
    try:
        until(lambda: "runs the fleet" in fleet.said())
        load = Load(gateway.base_url, KEY)
        try:
            load.more(1)
            until(lambda: len(load.ids) >= 1)
            assert told_priority(gateway, "default") == 107
            assert told_priority(gateway, "flex") == 207
            assert told_priority(gateway, "priority") == 107, "a client never gets before its key's band"
            load.more(9)
            until(lambda: replicas(gateway) == 2)
        finally:
            load.end()
        assert load.errors == []
        until(lambda: replicas(gateway) == 0)
        until(lambda: fleet.engines() == [])
        until(lambda: {row["request_id"] for row in gateway.rows()} >= set(load.ids))
        rows = [row["request_id"] for row in gateway.rows() if row["request_id"] in set(load.ids)]
        assert len(rows) == len(set(rows)) == len(load.ids)
    finally:
        assert fleet.stop() == 0, fleet.said()[-3000:]


def phases(gateway: Gateway) -> dict[str, str]:
    return {one["id"]: one["phase"] for one in good(gateway, "GET", "replicas")["data"]}


@pytest.mark.soak
def test_an_operator_reaches_the_fleet_through_any_gateway(gateway: Gateway) -> None:
    status, _, answer = ask(gateway, "POST", "models/m/scale", {"replicas": 2})
    assert (status, "switchgear fleet run" in answer["error"]["message"]) == (409, True)
    fleet = FleetProcess(gateway, "only")
    try:
        until(lambda: "runs the fleet" in fleet.said())
        shown = good(gateway, "POST", "models/m/scale", {"replicas": 2})
        assert (shown["scaling"]["desired"], shown["scaling"]["pinned"]) == (2, 2)
        until(lambda: phases(gateway) == {"m-0": "ready", "m-1": "ready"})
        assert good(gateway, "POST", "replicas/m-0/drain")["phase"] == "draining"
        assert gateway.chat("m", "hello")[1]["x-switchgear-replica"] == "m-1"
        good(gateway, "POST", "replicas/m-0/resume")
        until(lambda: phases(gateway)["m-0"] == "ready")
        good(gateway, "POST", "replicas/m-0/sleep")
        until(lambda: phases(gateway)["m-0"] == "stopped")
        assert len(fleet.engines()) == 1
        good(gateway, "POST", "replicas/m-0/wake")
        until(lambda: phases(gateway)["m-0"] == "ready")
        good(gateway, "POST", "replicas/m-1/reclaim", {"notice_s": 1})
        until(lambda: phases(gateway) == {"m-0": "ready", "m-2": "ready"})
        loaded = good(gateway, "POST", "models/m/adapters/load", {"name": "a", "path": "/a"})
        assert loaded == {"m-0": "ok", "m-2": "ok"}
        until(lambda: gateway.chat("m:a", "hello")[0] == 200)
        good(gateway, "POST", "models/m/adapters/unload", {"name": "a"})
        until(lambda: gateway.chat("m:a", "hello")[0] == 404)
        assert good(gateway, "POST", "models/m/scale", {"replicas": None})["scaling"]["pinned"] is None
        status, _, answer = ask(gateway, "POST", "replicas/m-9/drain")
        assert (status, answer["error"]["message"]) == (404, "There is no replica 'm-9'.")
    finally:
        assert fleet.stop() == 0, fleet.said()[-3000:]


@pytest.mark.soak
def test_engines_outlive_the_gateway_and_end_with_their_fleet(gateway: Gateway) -> None:
    fleet = FleetProcess(gateway, "first")
    try:
        assert gateway.chat("m", "hello")[0] == 200
        before = fleet.engines()
        assert before
        gateway.stop()
        gateway.start()
        until(lambda: replicas(gateway) == 1)
        assert gateway.chat("m", "hello again")[0] == 200
    finally:
        assert fleet.stop() == 0, fleet.said()[-3000:]
    assert fleet.engines() == []


@pytest.mark.soak
def test_a_second_fleet_waits_and_takes_over_when_the_first_is_killed(gateway: Gateway) -> None:
    """Its engines go on meanwhile, under load, and are the second one's then."""
    first, second = FleetProcess(gateway, "first"), None
    load = Load(gateway.base_url, KEY)
    try:
        load.more(1)
        until(lambda: len(load.ids) >= 1)
        before = first.engines()
        assert before
        second = FleetProcess(gateway, "second")
        until(lambda: "waits: " in second.said())
        first.stop(signal.SIGKILL)
        until(lambda: "runs the fleet" in second.said(), 60.0)
        served = len(load.ids)
        until(lambda: replicas(gateway) >= 1 and len(load.ids) > served + 20)
        load.end()
        assert load.errors == []
        assert set(before) <= set(second.engines())
    finally:
        load.end()
        first.stop()
        assert second is None or second.stop() == 0, second.said()[-3000:]
