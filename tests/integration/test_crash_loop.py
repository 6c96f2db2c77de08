"""A gateway that is killed at any moment, again and again, owes nobody and is owed nothing.

Real processes: ``kill -9`` under load at moments drawn from a seed, a start over what it left behind, and at
the end a proof of the books: every request that a client saw begin has one row, and everything agrees.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway import database
from gateway.tenancy import ledger
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import emptied
from tests.integration.gateway import COMMAND, Gateway, Upstreams, config, end, model, running, unique

CLIENTS = 4
DEATHS = 300  # of one soak, over each kind of database


class Load:
    """Clients that ask without a pause; they remember which requests were answered, and at what cost."""

    def __init__(self, gateway: Gateway, seed: int) -> None:
        self.gateway = gateway
        self.begun: set[str] = set()
        self.costs: dict[str, int] = {}
        self.over = threading.Event()
        self.threads = [
            threading.Thread(target=self._ask, args=(random.Random(seed * 100 + number),))
            for number in range(CLIENTS)
        ]

    def _ask(self, chance: random.Random) -> None:
        while not self.over.is_set():
            stream = chance.random() < 0.7
            prompt = script("ok", n=chance.randrange(1, 60), gap_s=chance.choice([0.0, 0.002]), tag=unique())
            fields: dict[str, Any] = {"metadata": {"team": "a"}} if chance.random() < 0.3 else {}
            try:
                status, headers, _ = self.gateway.chat("small", prompt, stream=stream, **fields)
            except (OSError, http.client.HTTPException):
                self.over.wait(0.05)  # nobody is there: leave the machine to who starts
                continue
            if status == 200:
                self.begun.add(headers["x-request-id"])
                if not stream:
                    cost = float(headers["x-switchgear-cost-usd"])
                    self.costs[headers["x-request-id"]] = round(cost * 1e9)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def killed_again_and_again(gateway: Gateway, seed: int, deaths: int) -> Load:
    chance = random.Random(seed)
    load = Load(gateway, seed)
    load.start()
    try:
        for _ in range(deaths):
            until(gateway.ready)
            seen = len(load.begun)
            until(lambda seen=seen: len(load.begun) > seen)  # type: ignore[misc]  # a default binds the value
            threading.Event().wait(chance.random() * 0.7)  # the moment of death is what is drawn
            end(gateway.process, signal.SIGKILL)
            assert gateway.process.stdout is not None
            gateway.process.stdout.close()
            gateway.log.close()
            gateway.start()
    finally:
        load.stop()
    return load


def proved(gateway: Gateway) -> dict[str, Any]:
    command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=gateway.directory, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def booked(url: str) -> list[dict[str, Any]]:
    engine = database.connect(url)
    try:
        return list(ledger.export(engine, 0.0, 1e12))
    finally:
        engine.dispose()


def crash_loop(directory: Path, seed: int, deaths: int, url: str = "") -> None:
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=directory)
    own = f"sqlite:///{directory / 'gateway.db'}"
    url = url or own
    text = text.replace(own, url)
    with running(Gateway(directory, text), upstreams) as (gateway, _):
        load = killed_again_and_again(gateway, seed, deaths)
        until(gateway.ready)
        until(lambda: load.begun <= {row["request_id"] for row in booked(url)})
        report = proved(gateway)
    rows = {row["request_id"]: row for row in booked(url)}
    assert len(rows) == len(booked(url))
    for request_id, cost in load.costs.items():
        assert rows[request_id]["amount_nanousd"] == cost
    assert report["gap_nanousd"] == 0
    assert {row["status"] for row in rows.values()} >= {"ok"}
    after = proved(gateway)  # the process is gone, and everything is carried
    assert after["rows"] == len(rows) == after["journal_entries"]
    assert list((directory / "state" / "journal").iterdir()) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_few_deaths_lose_nothing(tmp_path: Path, seed: int) -> None:
    crash_loop(tmp_path, seed, 2)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_hundreds_of_deaths_lose_nothing(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """One gateway, one state directory, one ledger, hundreds of deaths; SEED draws other moments."""
    url = emptied(request.getfixturevalue("postgres")) if kind == "postgresql" else ""
    crash_loop(tmp_path, int(os.environ.get("SEED", "1")) * 1000, DEATHS, url)


@pytest.mark.soak
def test_a_database_that_is_away_loses_nothing(tmp_path: Path) -> None:
    """litellm#38121, #26886: known keys are served, readiness is truthful, usage comes when it is back."""
    upstreams = Upstreams(1)
    directory = tmp_path / "db"
    directory.mkdir()
    text = config(model("small", upstreams.ports), directory=tmp_path)
    text = text.replace(f"{tmp_path / 'gateway.db'}", f"{directory / 'gateway.db'}")
    with running(Gateway(tmp_path, text), upstreams) as (gateway, _):
        until(gateway.ready)
        ids = [gateway.chat("small", script("ok", tag=unique()))[1]["x-request-id"]]
        lock = subprocess.Popen(
            ["python3", "-c", LOCKED, str(directory / "gateway.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert lock.stdout is not None
        assert lock.stdin is not None
        assert lock.stdout.readline() == b"locked\n"
        for _ in range(20):
            status, headers, _ = gateway.chat("small", script("ok", tag=unique()))
            assert status == 200
            ids.append(headers["x-request-id"])
        until(lambda: not gateway.ready(), 60)
        status, _, body = gateway.call("GET", "/readyz")
        assert (status, json.loads(body)["status"]) == (200, "degraded")
        assert "ledger" in json.loads(body)["parts"]
        lock.stdin.close()
        assert lock.wait(timeout=60) == 0
        lock.stdout.close()
        until(gateway.ready, 60)
        command = [COMMAND, "ledger", "export", "--config", str(gateway.config)]

        def exported() -> list[str]:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            return [json.loads(line)["request_id"] for line in done.stdout.splitlines()]

        until(lambda: sorted(exported()) == sorted(ids), 60)
        assert proved(gateway)["gap_nanousd"] == 0


LOCKED = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
held.execute("ROLLBACK")
"""
