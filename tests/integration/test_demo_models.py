"""The demo's models are what their GGUFs say, by transformers' own reading of the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.engines.environment import variables

# transformers reads GGUF only beside accelerate, which serving does not need
ACCELERATE = (
    "accelerate==1.15.0 --hash=sha256:97eacca0b73e45cb867dbf8c5d5d4dc32219544300e0c8992c7334dc2ef33cec\n"
)
TOLERANCE_IN_STD = 0.08  # bf16 against float32 weights; half of a head rotated wrongly gives more than 1


@pytest.fixture(scope="session")
def accelerate(demo_home: Path) -> Path:
    """A folder to import accelerate from."""
    folder = demo_home / "cache" / "accelerate"
    if not (folder / "accelerate").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text(ACCELERATE)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-r", folder / "requirements.txt", "--target", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def findings(demo_home: Path, engine_python: Path, accelerate: Path) -> dict[str, dict[str, Any]]:
    script = Path(__file__).with_name("logits_check.py")
    # One thread each: several threads spend the time waiting for each other on a busy machine.
    own = {"PYTHONPATH": str(accelerate), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env = os.environ | variables(engine_python) | own
    checks = {
        name: subprocess.Popen(
            [engine_python, "-P", script, demo_home / "models" / name], env=env, stdout=subprocess.PIPE
        )
        for name in ("small", "large")
    }
    printed = {name: check.communicate()[0] for name, check in checks.items()}
    assert [check.returncode for check in checks.values()] == [0, 0]
    return {name: json.loads(text.splitlines()[-1]) for name, text in printed.items()}


@pytest.mark.soak
@pytest.mark.parametrize("model", ["small", "large"])
def test_a_converted_model_gives_the_logits_of_its_gguf(
    findings: dict[str, dict[str, Any]], model: str
) -> None:
    found = findings[model]
    assert found["other_weights"] == []
    assert found["worst_difference_in_std"] < TOLERANCE_IN_STD
    assert all(all(chosen) for chosen in found["greedy_agreement"])
    assert [len(chosen) for chosen in found["greedy_agreement"]] == [16, 16, 16]
