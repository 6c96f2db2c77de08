"""``switchgear doctor`` beside a gateway that runs, and after it has ended: what it says, and what never."""

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from backends.engines import LaunchCommand
from backends.launchers import LocalLauncher, MakeCommand
from gateway import database
from tests.fakes.processes import until, until_async
from tests.fakes.upstream import script
from tests.integration.gateway import COMMAND, KEY, LIMITED, ROOT, Gateway, Upstreams, config, model, running
from tests.integration.redis_server import RedisServer

FAKE = str(ROOT / "tests" / "fakes" / "engine.py")
PASSWORD, API_KEY = "planted-password-1", "planted-key-2"


def fake() -> MakeCommand:
    return lambda port: LaunchCommand(
        argv=(sys.executable, "-P", FAKE, "--port", str(port)), env={}, shutdown_timeout_s=1
    )


def doctor(settings: Path, port: int | None, out: Path) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Run it; gives its exit status, its report and the files of the bundle, none with a secret."""
    base = ["--base-url", f"http://127.0.0.1:{port}"] if port is not None else []
    done = subprocess.run(
        [COMMAND, "doctor", "--config", str(settings), *base, "--out", str(out), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("SWITCHGEAR")},
            "TEST_KEY": KEY,
            "TEST_LIMITED_KEY": LIMITED,
            "UPSTREAM_KEY": API_KEY,
            "PYTHONPATH": str(ROOT),
        },
    )
    with tarfile.open(out) as bundle:
        files = {one.name: bundle.extractfile(one).read().decode() for one in bundle}  # type: ignore[union-attr]
    said = done.stdout + done.stderr + "".join(files.values())
    assert not [secret for secret in (PASSWORD, API_KEY, KEY, LIMITED) if secret in said]
    assert out.stat().st_mode & 0o777 == 0o600
    return done.returncode, json.loads(files["report.json"]), files


def test_it_says_how_everything_is_also_when_the_gateway_is_down(tmp_path: Path) -> None:
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=tmp_path)
    text = text.replace("max_concurrency = 64", 'max_concurrency = 64\napi_key_env = "UPSTREAM_KEY"')
    with running(Gateway(tmp_path, text, UPSTREAM_KEY=API_KEY), upstreams) as (gateway, _):
        until(gateway.ready)
        gateway.chat("small", script("fin:3", "fin:3", "fin:3"), stream=True)
        gateway.row(gateway.chat("small", script("ok"))[1]["x-request-id"])
        engines = tmp_path / "state" / "engines"
        engines.mkdir(exist_ok=True)
        (engines / "small-9.log").write_text(f"starts with {API_KEY}\nredis://user:{PASSWORD}@host/0\n")
        status, report, files = doctor(gateway.config, gateway.port, tmp_path / "up.tar.gz")
        parts = {one["part"]: one for one in report["parts"]}
        assert [one for one in parts.values() if not one["well"]] == []
        assert status == 0
        assert set(parts) == {
            "configuration", "state directory", "database", "replica small-0", "gateway /readyz",
            "gateway /metrics",
        }  # fmt: skip
        assert report["versions"]["switchgear"]
        assert report["config"]["models"][0]["name"] == "small"
        assert "switchgear_requests_total" in files["metrics.txt"]
        assert json.loads(files["readyz.json"])["status"] == "ready"
        assert files["engines/small-9.log"].startswith("starts with ***")
    status, report, _ = doctor(gateway.config, gateway.port, tmp_path / "down.tar.gz")
    bad = {one["part"] for one in report["parts"] if not one["well"]}
    assert status == 1
    assert bad == {"replica small-0", "gateway /readyz", "gateway /metrics"}


def test_it_finds_the_running_gateway_and_its_engines_by_the_state_directory(tmp_path: Path) -> None:
    """The file says port 8080 and the gateway was started with another one; one engine of two runs."""
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=tmp_path)
    launched = "".join(
        f'[[models]]\nname = "{name}"\nprice = {{ input = 1.0 }}\n[models.launch]\nweights = "hub/x"\n{more}'
        for name, more in (("up", ""), ("down", ""), ("asleep", "min_replicas = 0\n"))
    )
    with running(Gateway(tmp_path, text), upstreams) as (gateway, _):
        until(gateway.ready)

        async def looked_at() -> tuple[int, dict[str, Any], dict[str, str]]:
            engine = await LocalLauncher(tmp_path / "state").start("up-0", fake(), "")
            await until_async(lambda: any("serving" in line for line in engine.log_tail()))
            gateway.write(text + launched)
            try:
                return await asyncio.to_thread(doctor, gateway.config, None, tmp_path / "out.tar.gz")
            finally:
                await engine.stop(10.0)

        _, report, files = asyncio.run(looked_at())
        parts = {one["part"]: one for one in report["parts"]}
        assert parts["gateway /readyz"]["well"], parts
        assert json.loads(files["readyz.json"])["status"] == "ready"
        assert gateway.base_url.removesuffix("/v1") in parts["gateway /readyz"]["seen"]
        assert parts["replica up-0"]["well"]
        assert "http://127.0.0.1:" in parts["replica up-0"]["seen"]
        assert not parts["replicas of down"]["well"]
        assert "switchgear up" in parts["replicas of down"]["seen"]
        assert parts["replicas of asleep"]["well"]
    _, report, _ = doctor(gateway.config, None, tmp_path / "down.tar.gz")
    parts = {one["part"]: one for one in report["parts"]}
    assert not parts["gateway /readyz"]["well"]
    assert "nothing answers at http://127.0.0.1:8080" in parts["gateway /readyz"]["seen"]
    assert "--base-url" in parts["gateway /readyz"]["seen"]


def test_it_looks_at_postgresql_and_redis_and_says_which_is_away(tmp_path: Path, postgres: str) -> None:
    engine = database.connect(postgres)
    database.migrate(engine)
    engine.dispose()
    (tmp_path / "state").mkdir()
    redis = RedisServer(tmp_path)

    def looked(database_url: str, redis_url: str) -> dict[str, tuple[bool, str]]:
        more = f'[redis]\nurl = "{redis_url}"\n'
        text = config(model("small", [1]), directory=tmp_path, more=more)
        (tmp_path / "g.toml").write_text(text.replace(f"sqlite:///{tmp_path / 'gateway.db'}", database_url))
        _, report, _ = doctor(tmp_path / "g.toml", 1, tmp_path / "out.tar.gz")
        return {one["part"]: (one["well"], one["seen"]) for one in report["parts"]}

    parts = looked(postgres, redis.url)
    assert parts["database"][0]
    assert parts["database"][1].startswith("postgresql, schema ")
    assert parts["redis"][0]
    assert parts["redis"][1].startswith("answers, version ")
    redis.hold()  # it takes connections and says nothing
    silent = looked(postgres, redis.url)
    assert silent["database"][0]
    assert not silent["redis"][0]
    assert "imeout" in silent["redis"][1]
    redis.let_go()
    redis.close()
    away = looked(f"postgresql://switchgear:{PASSWORD}@127.0.0.1:1/x", f"redis://:{PASSWORD}@127.0.0.1:1/0")
    assert not away["database"][0]
    assert not away["redis"][0]
    assert "refused" in away["database"][1] + away["redis"][1]
