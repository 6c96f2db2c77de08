"""The configuration that ``switchgear up`` writes is valid on every kind of machine."""

from pathlib import Path

import pytest

from backends.demo import DemoModels
from gateway.checks import check
from gateway.commands.demo_config import demo_config
from gateway.config_file import parse
from tests.fakes.golden import check_golden

MODELS = DemoModels(Path("/home/models/small"), Path("/home/models/large"), Path("/home/models/embed"))


@pytest.mark.parametrize(
    ("name", "gpu", "cores"), [("gpu", True, 16), ("two-cores", False, 2), ("one-core", False, 1)]
)
def test_the_demo_configuration(name: str, gpu: bool, cores: int) -> None:
    text = demo_config(Path("/home"), MODELS, gpu=gpu, cores=cores)
    settings = parse(text, name)
    check(settings, name, {})
    assert [model.name for model in settings.models] == ["small", "large", "embed"]
    check_golden(f"config/demo-{name}.toml", text)
