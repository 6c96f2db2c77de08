"""`switchgear up` with the demo's models, a cascaded route beside `auto`, and a key for each way to ask."""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from backends.demo import DemoModels
from gateway.commands.demo_config import demo_config

ROOT = Path(__file__).parents[2]
READY = b"SWITCHGEAR_READY "
_CASCADE = """
[[routes]]
name = "cascade"
tiers = ["small", "large"]
objective = { large_share = 0.0 }
cascade = {}
"""


class Ready(msgspec.Struct):
    """What the ready line tells."""

    base_url: str


def configured(home: Path, keys: dict[str, str]) -> Path:
    """Write the configuration: the demo's, the cascade, and the keys, each of a project of its own."""
    models = home / "models"
    demo = DemoModels(models / "small", models / "large", models / "embed")
    text = demo_config(home, demo, gpu=False, cores=os.cpu_count() or 1) + _CASCADE
    for name, key in keys.items():
        digest = hashlib.sha256(key.encode()).hexdigest()
        text += f'[[keys]]\nname = "{name}"\nproject = "{name}"\nsha256 = "{digest}"\n'
    path = home / "switchgear.toml"
    path.write_text(text)
    return path


def keys_for(names: Iterable[str]) -> dict[str, str]:
    """Make a key for each name."""
    return {name: f"sk-{secrets.token_hex(24)}" for name in names}


@contextmanager
def running(models: Path, engine: Path, folder: Path, keys: dict[str, str]) -> Iterator[str]:
    """Start it in a folder; gives its root, and ends it with the block. Ends the program where it fails."""
    home = folder / "home"
    home.mkdir()
    (home / "models").symlink_to(models.absolute())
    command = [str(Path(sys.executable).parent / "switchgear"), "up", "--home", str(home), "--port", "0"]
    command += ["--engine", str(engine.absolute()), "--config", str(configured(home, keys))]
    own = {name: value for name, value in os.environ.items() if not name.startswith("SWITCHGEAR")}
    log = folder / "log.txt"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, env={**own, "PYTHONPATH": str(ROOT)}
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(READY):
                    yield msgspec.json.decode(line[len(READY) :], type=Ready).base_url.removesuffix("/v1")
                    return
            raise SystemExit(f"bench: the appliance did not start:\n{log.read_text()[-3000:]}")
        finally:
            process.terminate()
            process.wait(300)
            process.stdout.close()
