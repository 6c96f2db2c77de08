"""The engine's environment: what stops a build, and that a build is whole or is made again.

The builds are real: a tiny wheel, a real venv, a real pip that reaches nothing but the test's folder.
"""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from backends.engines.environment import (
    CPU,
    CUDA,
    STAMP,
    EngineSetupError,
    Machine,
    Recipe,
    ensure,
    explain,
    obstacle,
    variables,
)

AVX2 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 avx512f\n"
FIT = Machine(python=(3, 11), architecture="x86_64", cpuinfo=AVX2, free_bytes=100 << 30)


def wheel(folder: Path, name: str, text: str = "") -> str:
    """Write a wheel of one module; give its sha256."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def recipe(folder: Path, sha256: str, imports: str = "tiny") -> Recipe:
    lock = folder / "lock.txt"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{sha256}\n")
    return Recipe((lock,), imports, needed_bytes=1 << 20, on_cpu=False)


def build(directory: Path, made_of: Recipe, machine: Machine = FIT) -> tuple[Path, list[str]]:
    said: list[str] = []
    return ensure(directory, gpu=False, progress=said.append, recipe=made_of, machine=machine), said


def test_a_fit_machine_has_no_obstacle() -> None:
    assert obstacle(FIT, CPU) is None
    assert obstacle(FIT, CUDA) is None


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (replace(FIT, python=(3, 13)), "The engine's locks are for Python 3.11 and this is Python 3.13"),
        (replace(FIT, architecture="aarch64"), "this machine is aarch64"),
        (replace(FIT, cpuinfo="flags\t: fpu sse4_2 avx\n"), "This CPU has no AVX2"),
        (replace(FIT, cpuinfo=""), "This CPU has no AVX2"),
        (replace(FIT, free_bytes=5 << 30), "needs 6 GB of free disk space and 5.0 GB are free; make room"),
    ],
)
def test_an_obstacle_is_named_in_one_sentence(machine: Machine, sentence: str) -> None:
    assert sentence in str(obstacle(machine, CPU))


def test_a_gpu_needs_no_avx2() -> None:
    assert obstacle(replace(FIT, cpuinfo="flags\t: fpu\n"), CUDA) is None


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    a==1 from x:\n",
            "a==1 does not match its pinned hash, so it is not used.",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "The disk is full.",
        ),
        (
            "WARNING: Retrying ...\nERROR: No matching distribution found for torch==2.13.0+cpu\n",
            "No package index that pip reaches has torch==2.13.0+cpu: check the network and pip's settings.",
        ),
        ("note\nERROR: first\nERROR: last\n", "pip failed: last"),
        ("Segmentation fault", "pip failed: Segmentation fault"),
    ],
)
def test_pips_failures_become_one_sentence(output: str, sentence: str) -> None:
    assert explain(output) == sentence


def test_no_pip_is_named() -> None:
    assert "has no pip" in explain("/usr/bin/python3: No module named pip")


def test_a_build_is_used_again_without_looking_anywhere(tmp_path: Path, index: Path) -> None:
    made_of = recipe(tmp_path, wheel(index, "tiny"))
    python, said = build(tmp_path / "engine", made_of)
    assert python == tmp_path / "engine" / "bin" / "python"
    assert said[-1].startswith("engine: ready in")
    (index / "tiny-1.0-py3-none-any.whl").unlink()
    assert build(tmp_path / "engine", made_of, replace(FIT, free_bytes=0)) == (python, [])


def test_a_build_without_its_stamp_is_made_again(tmp_path: Path, index: Path) -> None:
    made_of = recipe(tmp_path, wheel(index, "tiny"))
    directory = tmp_path / "engine"
    directory.mkdir()
    (directory / STAMP).write_text("building")
    (directory / "left").write_text("half of a build")
    build(directory, made_of)
    assert not (directory / "left").exists()


def test_another_lock_makes_another_build(tmp_path: Path, index: Path) -> None:
    build(tmp_path / "engine", recipe(tmp_path, wheel(index, "tiny")))
    _, said = build(tmp_path / "engine", recipe(tmp_path, wheel(index, "tiny", "changed = True\n")))
    assert said[-1].startswith("engine: ready in")


def test_a_directory_of_someone_else_is_left_alone(tmp_path: Path, index: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.txt").write_text("precious")
    with pytest.raises(EngineSetupError, match="holds something else"):
        build(tmp_path / "engine", recipe(tmp_path, wheel(index, "tiny")))
    assert (tmp_path / "engine" / "thesis.txt").read_text() == "precious"


def test_a_wrong_hash_is_refused_and_leaves_no_stamp(tmp_path: Path, index: Path) -> None:
    right = wheel(index, "tiny")
    with pytest.raises(EngineSetupError, match=r"^tiny==1\.0 does not match its pinned hash"):
        build(tmp_path / "engine", recipe(tmp_path, "0" * 64))
    assert (tmp_path / "engine" / STAMP).read_text() == "building"
    build(tmp_path / "engine", recipe(tmp_path, right))


def test_without_a_network_one_sentence_says_so(tmp_path: Path, index: Path) -> None:
    with pytest.raises(EngineSetupError, match=r"^No package index that pip reaches has tiny==1\.0"):
        build(tmp_path / "engine", recipe(tmp_path, "0" * 64))


def test_packages_that_do_not_load_are_no_engine(tmp_path: Path, index: Path) -> None:
    made_of = recipe(tmp_path, wheel(index, "tiny", "raise ImportError('no such kernel')\n"))
    with pytest.raises(EngineSetupError, match="do not load: ImportError: no such kernel"):
        build(tmp_path / "engine", made_of)


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, index: Path) -> None:
    with pytest.raises(EngineSetupError, match="free disk space"):
        build(tmp_path / "engine", recipe(tmp_path, "0" * 64), replace(FIT, free_bytes=1000))
    assert not (tmp_path / "engine").exists()


def test_engines_get_the_library_that_was_unpacked_for_them(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    assert "LD_LIBRARY_PATH" not in variables(python, {})
    (tmp_path / "native").mkdir()
    assert variables(python, {})["LD_LIBRARY_PATH"] == f"{tmp_path}/native"
    assert variables(python, {"LD_LIBRARY_PATH": "/a"})["LD_LIBRARY_PATH"] == f"{tmp_path}/native:/a"


@pytest.mark.parametrize("lock", [*CPU.locks, *CUDA.locks], ids=lambda lock: lock.name)
def test_every_entry_of_a_lock_is_exact_and_has_hashes(lock: Path) -> None:
    for entry in lock.read_text().replace("\\\n", " ").splitlines():
        assert "==" in entry
        assert "--hash=sha256:" in entry
        assert "://" not in entry
