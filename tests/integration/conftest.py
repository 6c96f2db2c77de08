"""The engine's environment and the demo's models, prepared once and kept between runs."""

import os
from pathlib import Path

import pytest

from backends.demo import prepare
from backends.engines.environment import ensure

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The python of the environment that holds vLLM and torch."""
    return ensure(REPOSITORY / ".engine", gpu=False, progress=print)


@pytest.fixture(scope="session")
def demo_home(engine_python: Path) -> Path:
    """A home whose `models` folder holds the demo's small, large and embed."""
    home = Path(os.environ.get("SWITCHGEAR_TEST_HOME", REPOSITORY / ".cache" / "home"))
    prepare(home, engine_python, print)
    return home
