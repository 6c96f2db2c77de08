"""The engine's own Python environment (vLLM, torch), apart from the gateway's, built from locks with hashes.

Rules: a stamp with the digest of the recipe is written last, so a directory without it is never trusted;
only a directory that this module made is ever removed; a good one is reused in milliseconds without network.
How the locks are made: deploy/locks/README.md.
"""

import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).with_name("locks")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LOCKED_PYTHON = (3, 11)
STAMP = (
    ".switchgear-engine"  # holds "building", then the digest: its presence says that the directory is ours
)
DEBIAN, FEDORA = "apt-get install libnuma1", "dnf install numactl-libs"

Progress = Callable[[str], None]


class EngineSetupError(Exception):
    """The engine's environment cannot be built; the message is one sentence for the operator."""


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of. Its imports are tried at the end, which also compiles them."""

    locks: tuple[Path, ...]
    imports: str
    needed_bytes: int  # wheels, pip's cache and the unpacked files together
    on_cpu: bool


IMPORTS = "torch, gguf, transformers, sentence_transformers, vllm.entrypoints.openai.api_server"
CPU = Recipe((LOCKS / "cpu-torch.txt", LOCKS / "cpu.txt"), IMPORTS, 6 << 30, on_cpu=True)
CUDA = Recipe((LOCKS / "cuda.txt",), IMPORTS, 25 << 30, on_cpu=False)


@dataclass(frozen=True)
class Machine:
    """What decides whether an environment can be built on a machine."""

    python: tuple[int, int]
    architecture: str
    cpuinfo: str
    free_bytes: int


def this_machine(directory: Path) -> Machine:
    """Read the facts of this machine; free space is that of the disk which holds the directory."""
    cpuinfo = Path("/proc/cpuinfo")
    return Machine(
        python=sys.version_info[:2],
        architecture=platform.machine(),
        cpuinfo=cpuinfo.read_text() if cpuinfo.exists() else "",
        free_bytes=shutil.disk_usage(directory).free,
    )


def obstacle(machine: Machine, recipe: Recipe) -> str | None:
    """Name what on this machine forbids the build, or None."""
    if machine.python != LOCKED_PYTHON:
        have, want = (".".join(map(str, version)) for version in (machine.python, LOCKED_PYTHON))
        return f"The engine's locks are for Python {want} and this is Python {have}: start with python{want}."
    if machine.architecture != "x86_64":
        return f"The engine's locks are for x86_64 and this machine is {machine.architecture}."
    if recipe.on_cpu and not re.search(r"^flags\s*:.*\bavx2\b", machine.cpuinfo, re.MULTILINE):
        return "This CPU has no AVX2, which vLLM's CPU build needs: use another machine, or a GPU."
    if machine.free_bytes < recipe.needed_bytes:
        have_gb, want_gb = machine.free_bytes / (1 << 30), recipe.needed_bytes / (1 << 30)
        return (
            f"The engine needs {want_gb:.0f} GB of free disk space and {have_gb:.1f} GB are free; make room."
        )
    return None


def explain(output: str) -> str:
    """Turn the output of a failed pip into one sentence."""
    if "DO NOT MATCH THE HASHES" in output:
        named = re.search(r"^\s*(\S+==\S+)", output[output.index("DO NOT MATCH") :], re.MULTILINE)
        return f"{named[1] if named else 'A package'} does not match its pinned hash, so it is not used."
    if "No space left on device" in output:
        return "The disk is full."
    if "No module named pip" in output:
        return f"{sys.executable} has no pip: run `python -m ensurepip`, or install the python3-pip package."
    if missing := re.search(r"No matching distribution found for (\S+)", output):
        return f"No package index that pip reaches has {missing[1]}: check the network and pip's settings."
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    return f"pip failed: {errors[-1].removeprefix('ERROR:').strip() if errors else output.strip()[-300:]}"


def digest(recipe: Recipe) -> str:
    """Identify an environment by what it is built from."""
    return hashlib.sha256(b"\0".join(lock.read_bytes() for lock in recipe.locks)).hexdigest()


def variables(engine_python: Path, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables for an engine that runs in this python, to lay over the inherited ones."""
    needed = {"PYTHONDONTWRITEBYTECODE": ""}  # where it is set, every start would compile 3000 files: 7 s
    native = engine_python.parent.parent / "native"
    if native.is_dir():
        needed["LD_LIBRARY_PATH"] = f"{native}:{inherited.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return needed


def ensure(
    directory: Path,
    *,
    gpu: bool,
    progress: Progress,
    recipe: Recipe | None = None,
    machine: Machine | None = None,
) -> Path:
    """Build the engine's environment unless it is there, and give its python.

    Raises EngineSetupError. `recipe` and `machine` stand for the shipped recipe and this machine.
    """
    directory, recipe = directory.absolute(), recipe or (CUDA if gpu else CPU)
    python, stamp, wanted = directory / "bin" / "python", directory / STAMP, digest(recipe)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with alone(directory.parent, progress):
        if stamp.exists() and stamp.read_text() == wanted and python.exists():
            return python
        if reason := obstacle(machine or this_machine(directory.parent), recipe):
            raise EngineSetupError(reason)
        started = time.monotonic()
        try:
            _build(directory, recipe, progress)
            partial = stamp.with_suffix(".partial")
            partial.write_text(wanted)
            partial.replace(stamp)
        except OSError as error:
            raise EngineSetupError(f"The engine's environment cannot be written: {error}.") from error
    progress(f"engine: ready in {time.monotonic() - started:.0f} s")
    return python


@contextmanager
def alone(directory: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock on the directory, so that two processes do not build in it at once."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process prepares {directory}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(directory: Path, recipe: Recipe, progress: Progress) -> None:
    progress(f"engine: new environment in {directory}")
    if directory.is_dir() and any(directory.iterdir()):
        if not (directory / STAMP).exists():
            raise EngineSetupError(f"{directory} holds something else: remove it, or name another directory.")
        shutil.rmtree(directory)
    directory.mkdir(exist_ok=True)
    (directory / STAMP).write_text("building")
    # Without pip: the running interpreter's installs into it, so ensurepip is not needed.
    if _run([sys.executable, "-m", "venv", "--without-pip", str(directory)]).returncode:
        raise EngineSetupError(f"{sys.executable} has no venv module: install it (Debian: python3-venv).")
    if recipe.on_cpu and not _loads("libnuma.so.1"):
        provide_libnuma(directory)
    python = directory / "bin" / "python"
    for lock in recipe.locks:
        _install(python, lock, progress)
    progress("engine: trying its imports")
    tried = _run([str(python), "-P", "-c", f"import {recipe.imports}"], env=os.environ | variables(python))
    if tried.returncode:
        raise EngineSetupError(f"The engine's packages do not load: {tried.stderr.strip().splitlines()[-1]}")


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def provide_libnuma(directory: Path) -> None:
    """Unpack Debian's libnuma in the environment, for a system that lacks it: this needs no root."""
    unpacked, native = directory / "libnuma", directory / "native"
    unpacked.mkdir()
    if shutil.which("apt-get") and shutil.which("dpkg"):
        _run(["apt-get", "download", "libnuma1"], cwd=unpacked)
        for package in unpacked.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(unpacked)])
    found = next(unpacked.rglob("libnuma.so.1"), None)
    if found is None:
        raise EngineSetupError(f"vLLM needs libnuma.so.1: install it (Debian: {DEBIAN}; Fedora: {FEDORA}).")
    native.mkdir()
    shutil.copy(found, native / "libnuma.so.1")


def _install(python: Path, lock: Path, progress: Progress) -> None:
    """Install a lock. Torch has one of its own, so that nothing else ever asks PyTorch's index."""
    progress(f"engine: installing {lock.read_text().count('==')} packages of {lock.name}")
    failure = _pip(python, lock, [], progress)
    if failure and lock.name == "cpu-torch.txt" and "No matching distribution" in failure:
        progress(f"engine: taking torch from {TORCH_CPU_INDEX}")
        failure = _pip(python, lock, ["--index-url", TORCH_CPU_INDEX], progress)
    if failure:
        raise EngineSetupError(explain(failure))


def _pip(python: Path, lock: Path, options: Sequence[str], progress: Progress) -> str | None:
    """Run pip on a lock; its output where it failed. Larger downloads are reported as progress."""
    command = [sys.executable, "-P", "-m", "pip", "--python", str(python), "install", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command += ["--no-compile", *options, "-r", str(lock)]  # what is imported is compiled when it is first
    output = []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603 - ours
        assert process.stdout
        try:
            for line in process.stdout:
                output.append(line)
                if re.search(r"Downloading .*\(\d{2,}\.\d MB\)", line):
                    progress(f"engine: {line.strip()}")
        except BaseException:  # a signal: pip must not go on filling the environment that is given up
            process.kill()
            raise
    return "".join(output) if process.returncode else None


def _run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603 - ours
