"""What is shipped, and what a gateway process loads."""

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"gateway", "routing", "backends", "semantic_cache", "dashboards"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_exactly_the_five_packages(shipped: set[str]) -> None:
    tops = {name.partition("/")[0] for name in shipped}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


@pytest.mark.parametrize(
    "name",
    [
        "routing/weights/head.npz",
        "routing/weights/table.npy",
        "routing/weights/examples.json",
        "backends/engines/locks/cpu.txt",
        "backends/engines/locks/cuda.txt",
        "backends/launchers/warden.py",
        "gateway/migrations/versions/0001_first_tables.py",
        "dashboards/console/dist/index.html",
    ],
)
def test_the_wheel_has_what_is_needed_at_run_time(shipped: set[str], name: str) -> None:
    assert name in shipped


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_generic_name_resolves_to_this_tree(name: str) -> None:
    found = importlib.import_module(name).__file__
    assert found is not None
    assert Path(found).is_relative_to(ROOT)


def test_the_gateway_never_loads_torch() -> None:
    code = (
        "import sys, time, gateway.app, gateway.commands.up; from gateway.grading import Grading;"
        "Grading.load(time.monotonic).read('What is the capital of France?');"
        "heavy = ('torch', 'vllm', 'sentence_transformers', 'transformers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_ordinary_handlers_load_no_library_of_models() -> None:
    code = (
        "import sys; from gateway.api import fallback; fallback.Ordinary([]);"
        "print([name for name in ('litestar', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "['litestar']"), done.stderr
