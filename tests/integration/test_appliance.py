"""`switchgear up` from start to end, with the small embedding engine: what goes wrong, and what is left."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.appliance import NO_NETWORK, Appliance
from tests.fakes.processes import until

Make = Callable[..., Appliance]

WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def model(name: str, weights: Path) -> str:
    return f"""
[[models]]
name = "{name}"
kind = "embedding"
engine = "local"
context_tokens = 512
price = {{ input = 0.01 }}
[models.launch]
weights = "{weights}"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def make(home: Path, demo_home: Path, tmp_path: Path) -> Iterator[Make]:
    """Make an appliance over `embed` and more models (name and weights); ended with the test."""
    made: list[Appliance] = []

    def make_one(
        *options: str, embed: bool = True, more: dict[str, Path] | None = None, **environ: str
    ) -> Appliance:
        models = {**({"embed": demo_home / "models" / "embed"} if embed else {}), **(more or {})}
        tables = "".join(model(name, weights) for name, weights in models.items())
        config = home / "switchgear.toml"
        config.write_text(
            f'[server]\nport = 0\nstate_dir = "{home / "state"}"\n'
            f'[database]\nurl = "sqlite:///{home / "switchgear.db"}"\n[fleet]\norphan_s = 1\n{tables}'
        )
        directory = tmp_path / f"run-{len(made)}"
        directory.mkdir()
        made.append(Appliance(home, directory, "--config", str(config), *options, **environ))
        return made[-1]

    yield make_one
    for one in made:
        one.destroy()


@pytest.fixture
def garbage(tmp_path: Path) -> Path:
    """A directory of weights that no engine can load."""
    weights = tmp_path / "garbage"
    weights.mkdir()
    (weights / "config.json").write_text("{ this is not JSON")
    return weights


def embeds(appliance: Appliance, name: str = "embed") -> int:
    return appliance.post("/embeddings", {"model": name, "input": "hello"}).status


def test_a_first_and_a_second_start(make: Make, home: Path) -> None:
    first = make().started()
    kept = home / "credentials.json"
    written = kept.read_bytes()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secrets = json.loads(written)
    assert (secrets["api_key"], secrets["admin_key"]) == (first.api_key, first.admin_key)
    assert len(secrets["webhook_secret"]) >= 32
    assert embeds(first) == 200
    assert first.readyz().json["status"] == "ready"
    rival = make("--port", "0")
    rival.start()
    assert rival.process.wait(timeout=100) == 1
    assert "in use by the gateway with process id" in rival.logged()
    assert embeds(first) == 200
    assert first.stop(signal.SIGTERM) == 0, first.logged()
    assert first.left() == {}

    second = make(**NO_NETWORK).started()
    assert kept.read_bytes() == written
    assert (second.api_key, second.admin_key) == (first.api_key, first.admin_key)
    assert f'"api_key":"{first.api_key}"' not in second.logged()
    (said,) = [line for line in second.printed().splitlines() if line.startswith("Ready in ")]
    assert said.removeprefix("Ready in ").split()[0].isdigit()
    assert embeds(second) == 200
    assert second.stop(signal.SIGINT) == 0, second.logged()
    assert second.left() == {}


def test_one_model_fails_to_load_while_the_other_serves(make: Make, garbage: Path) -> None:
    appliance = make(more={"broken": garbage}).started()
    assert embeds(appliance) == 200
    ready = appliance.readyz()
    assert (ready.status, ready.json["status"]) == (200, "degraded")
    assert ready.json["parts"]["models"]["embed"] == "ready"
    assert ready.json["parts"]["models"]["broken"] != "ready"
    refused = appliance.post("/embeddings", {"model": "broken", "input": "hello"})
    assert (refused.status, refused.json["error"]["code"]) == (503, "model_loading")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    shown = [line for line in appliance.logged().splitlines() if line.startswith("switchgear: ")]
    assert any("broken-0" in line and "ended with status" in line for line in shown)
    last = (appliance.home / "state" / "engines" / "broken-0.log").read_text().splitlines()
    assert any(
        line.strip() and line in "\n".join(shown) for line in last if "config.json" in line or "Error" in line
    )

    appliance.process.kill()
    appliance.process.wait(timeout=60)
    until(lambda: appliance.left() == {}, 100.0)


def test_no_model_loads(make: Make, garbage: Path) -> None:
    appliance = make(embed=False, more={"broken": garbage})
    appliance.start()
    assert appliance.process.wait(timeout=300) == 1
    assert "no model could be started" in appliance.logged()
    assert "Traceback" not in appliance.logged().partition("broken-0:")[0]
    assert appliance.left() == {}


def test_a_signal_in_the_middle_of_the_start(make: Make) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        appliance = make()
        appliance.start()
        until(lambda: "embed-0: " in appliance.logged(), 100.0)  # noqa: B023  # until returns at once
        assert appliance.stop(number) == 0, appliance.logged()
        assert appliance.left() == {}


def test_a_hang_up_of_the_terminal_ends_everything(make: Make) -> None:
    appliance = make()
    terminal, inner = os.openpty()
    with appliance.out.open("wb") as out, appliance.err.open("wb") as err:
        appliance.process = subprocess.Popen(
            [sys.executable, "-c", WITH_TERMINAL, *appliance.command],
            stdin=inner,
            stdout=out,
            stderr=err,
            cwd=appliance.directory,
            env=appliance.environ,
            start_new_session=True,
        )
    os.close(inner)
    appliance.wait_ready()
    assert len(appliance.left()) >= 3  # itself, the warden, the engine
    os.close(terminal)
    assert appliance.process.wait(timeout=100) == 0, appliance.logged()
    until(lambda: appliance.left() == {}, 100.0)


def test_a_taken_port(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        appliance = make("--port", str(port))
        appliance.start()
        assert appliance.process.wait(timeout=100) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in appliance.logged()
    assert "--port" in appliance.logged()
    assert "Traceback" not in appliance.logged()
    assert appliance.left() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server\n", "not valid TOML"),
        ("[server]\nprot = 1\n", "unknown key 'prot'"),
        ("[server]\nport = 'x'\n", "server.port"),
        ("", "models: there are none"),
        ("[[models]]\nname = 'a'\n[models.launch]\nweights = ''\n", "weights"),
    ],
    ids=str,
)
def test_a_wrong_configuration(home: Path, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(text)
    appliance = Appliance(home, tmp_path, "--config", str(config))
    appliance.start()
    assert appliance.process.wait(timeout=100) == 1
    assert said in appliance.logged()
    assert str(config) in appliance.logged()
    assert "Traceback" not in appliance.logged()


def test_a_missing_configuration_and_broken_credentials(home: Path, make: Make) -> None:
    missing = make("--config", str(home / "none.toml"))
    missing.start()
    assert missing.process.wait(timeout=100) == 1
    assert "no such file" in missing.logged()
    (home / "credentials.json").write_text("{")
    broken = make()
    broken.start()
    assert broken.process.wait(timeout=100) == 1
    assert "credentials.json" in broken.logged()
    assert "Traceback" not in broken.logged()
