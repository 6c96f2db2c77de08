"""What does not fit on a machine is refused at the door, by each command that would start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.gateway import COMMAND, ROOT

HUGE = {
    "model_type": "llama",
    "hidden_size": 16384,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "intermediate_size": 53248,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
CONFIG = """
[server]
port = 0
state_dir = "{home}/state"
[database]
url = "sqlite:///{home}/switchgear.db"
[fleet]
apart = {apart}
[[models]]
name = "huge"
price = {{ input = 1.0, output = 2.0 }}
[models.launch]
weights = "{home}/huge"
{launch}
"""


@pytest.mark.parametrize(
    ("command", "launch", "said"),
    [
        ("up", "", "of memory with their KV cache"),
        ("fleet run", "", "take a smaller model"),
        pytest.param("up", "gpus = 8\ntensor_parallel = 8", "no GPU was found here", marks=pytest.mark.soak),
        pytest.param("plan", "", "take a smaller model", marks=pytest.mark.soak),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_the_remedy(
    tmp_path: Path, command: str, launch: str, said: str
) -> None:
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "config.json").write_text(json.dumps(HUGE))
    config, apart = tmp_path / "switchgear.toml", command == "fleet run"
    config.write_text(CONFIG.format(home=tmp_path, apart=str(apart).lower(), launch=launch))
    more = {
        "up": ["--home", str(tmp_path / "home"), "--engine", str(ROOT / ".engine")],
        "fleet run": ["--python", sys.executable],
        "plan": [],
    }[command]
    done = subprocess.run(
        [COMMAND, *command.split(), "--config", str(config), *more],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1, done.stderr
    told = done.stdout if command == "plan" else done.stderr
    assert said in told
    if command != "plan":
        assert f"{config}: models[0].launch: 'huge' does not fit here" in told
        assert 'launch.fit = "warn"' in told
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.log")), "nothing was started"
