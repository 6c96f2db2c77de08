"""What all tests share: hypothesis's settings, the engine's environment, the models, the one appliance."""

import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the switchgear command does, before numpy comes in

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from backends.demo import prepare
from backends.engines.environment import ensure
from tests.appliance import Appliance
from tests.schedule import Processes, remarks_of

REPOSITORY = Path(__file__).resolve().parents[1]

# A shared machine may be slow, so no example has a deadline.
settings.register_profile("switchgear", deadline=None)
settings.load_profile("switchgear")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Processes(), "processes")


@pytest.fixture(scope="session")
def remarks(pytestconfig: pytest.Config) -> list[str]:
    """What to say at the end of the run."""
    return remarks_of(pytestconfig)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """A client that a file of real connections forgot is found here, and blamed on that file."""
    yield
    if request.path.parent.name not in ("unit", "property"):
        gc.collect()


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The python of the environment that holds vLLM and torch, prepared once and kept between runs."""
    return ensure(REPOSITORY / ".engine", gpu=False, progress=print)


@pytest.fixture(scope="session")
def demo_home(engine_python: Path) -> Path:
    """A home whose `models` folder holds the demo's small, large and embed; likewise kept."""
    home = Path(os.environ.get("SWITCHGEAR_TEST_HOME", REPOSITORY / ".cache" / "home")).absolute()
    prepare(home, engine_python, print)
    return home


@pytest.fixture(scope="session")
def appliance(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """`switchgear up` with its own defaults: gateway, two real vLLM servers, the embedding child."""
    home, directory = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("appliance")
    (home / "models").symlink_to(demo_home / "models")
    running = Appliance(home, directory, "--port", "0")
    try:
        yield running.started()
        assert running.stop() == 0, running.logged()
        assert running.left() == {}
        assert "Traceback" not in running.logged(), running.logged()
    finally:
        running.destroy()
