"""The image's promises that can be read off its files: lean, linted, not root, watched."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = (ROOT / "deploy" / "locks" / "gateway.txt").read_text()
HEAVY = (
    "torch",
    "vllm",
    "nvidia",
    "triton",
    "transformers",
    "sentence-transformers",
    "cuda",
    "ray",
    "onnxruntime",
)


def locked() -> set[str]:
    return {
        line.partition("==")[0].lower() for line in LOCK.splitlines() if "==" in line and line[:1].isalnum()
    }


def test_the_gateways_lock_has_nothing_of_an_engine() -> None:
    names = locked()
    assert {"aiohttp", "litestar", "numpy"} <= names, "the lock is read"
    assert not [name for name in names if name.startswith(HEAVY)]


def test_every_package_of_the_lock_has_hashes() -> None:
    entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", LOCK, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    assert len(entries) >= len(locked())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_nobody_in_particular_and_is_watched() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\S+)$", final, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0, "a number, so that Kubernetes can tell that it is not root"
    assert "/livez" in final.partition("HEALTHCHECK")[2].partition("ENTRYPOINT")[0]
    assert DOCKERFILE.count("\nFROM ") == 2
    assert "pip" not in final, "nothing is installed in the last stage"


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert set(wheel["packages"]) <= copied, "the console among them"
    assert all((ROOT / source).exists() for source in copied)
    assert DOCKERFILE.count("pip --python") == DOCKERFILE.count("--require-hashes") + DOCKERFILE.count(
        "--no-index"
    )
