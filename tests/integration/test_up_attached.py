"""``switchgear up`` with replicas that run elsewhere: it listens while they are down, and says so."""

from pathlib import Path

import pytest

from tests.appliance import READY, Appliance
from tests.fakes.processes import until
from tests.integration.gateway import Upstreams, model

CONFIG = """
[server]
port = 0
state_dir = "{home}/state"
[database]
url = "sqlite:///{home}/switchgear.db"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_it_says_that_it_listens_and_for_what_it_waits(home: Path) -> None:
    upstreams = Upstreams(1)
    config = home / "up.toml"
    config.write_text(CONFIG.format(home=home) + model("here", upstreams.ports) + model("away", [1]))
    appliance = Appliance(home, home, "--config", str(config))
    try:
        appliance.started()
        assert f"switchgear: listens on {appliance.root}" in appliance.logged()
        assert "away-0 does not answer at http://127.0.0.1:1/v1" in appliance.logged()
        assert appliance.readyz().status == 200
        assert appliance.stop() == 0
    finally:
        appliance.destroy()
        upstreams.close()


def test_it_listens_also_where_none_is_there_yet(home: Path) -> None:
    config = home / "up.toml"
    config.write_text(CONFIG.format(home=home) + model("away", [1]))
    appliance = Appliance(home, home, "--config", str(config))
    try:
        appliance.start()
        until(lambda: "switchgear: listens on http://127.0.0.1:" in appliance.logged())
        assert READY not in appliance.printed()
        assert appliance.stop() == 0
    finally:
        appliance.destroy()
