"""A configuration file that is changed from outside of an editor: never half written, never lost."""

import stat
from pathlib import Path

import pytest

from gateway.settings import ConfigError
from gateway.staging import (
    KEPT,
    ConfigFile,
    Overtaken,
    changed_keys,
    digest,
    with_objectives,
)

TEXT = """# ours
[server]
port = 8080
[[models]]
name = "small"  # the cheap one
price = { input = 1.0 }
replicas = [{ url = "http://127.0.0.1:1/v1" }]
[[models]]
name = "large"
price = { input = 9.0 }
replicas = [{ url = "http://127.0.0.1:2/v1" }]
[[routes]]
name = "auto"
tiers = ["small", "large"]
objective = { large_share = 0.3 }
"""


@pytest.fixture
def file(tmp_path: Path) -> ConfigFile:
    path = tmp_path / "gateway.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return ConfigFile(path, tmp_path / "state", {})


def test_a_change_is_written_and_can_be_taken_back(file: ConfigFile) -> None:
    after = TEXT.replace("0.3", "0.5")
    read: list[str] = []
    file.replace(after, digest(TEXT), 10.0, lambda: read.append(file.read()))
    assert read == [after]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    [earlier] = file.earlier()
    assert (earlier.replaced_s, file.kept(earlier.id)) == (10.0, TEXT)
    assert file.kept("../gateway") is None
    file.replace(TEXT, digest(after), 20.0, lambda: None)
    assert [one.replaced_s for one in file.earlier()] == [20.0, 10.0]


def test_a_change_over_another_file_or_to_a_wrong_one_changes_nothing(file: ConfigFile) -> None:
    with pytest.raises(Overtaken):
        file.replace(TEXT + "\n", digest("something else"), 1.0, lambda: None)
    with pytest.raises(ConfigError, match="nonsense"):
        file.replace(TEXT + "[nonsense]\n", digest(TEXT), 1.0, lambda: None)
    assert (file.read(), file.earlier()) == (TEXT, [])


def test_a_change_that_cannot_be_put_in_force_is_taken_back(file: ConfigFile) -> None:
    def refuse() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        file.replace(TEXT.replace("0.3", "0.5"), digest(TEXT), 1.0, refuse)
    assert file.read() == TEXT


def test_a_link_stays_one_and_old_texts_are_not_kept_for_ever(file: ConfigFile, tmp_path: Path) -> None:
    target = tmp_path / "real.toml"
    file.path.rename(target)
    file.path.symlink_to(target)
    text = TEXT
    for number in range(KEPT + 3):
        after = f"{TEXT}# {number}\n"
        file.replace(after, digest(text), float(number), lambda: None)
        text = after
    assert file.path.is_symlink()
    assert target.read_text() == text
    assert len(file.earlier()) == KEPT


def test_a_trial_says_what_changes_what_is_wrong_and_what_waits(file: ConfigFile) -> None:
    trial = file.tried(TEXT.replace("0.3", "0.5").replace("8080", "8081"))
    assert (trial.changed, trial.restart) == (
        ["routes.auto.objective.large_share", "server.port"],
        ["server.port"],
    )
    assert "-objective = { large_share = 0.3 }" in trial.diff
    assert trial.finding is None
    wrong = file.tried(TEXT.replace("0.3", "3"))
    assert wrong.finding is not None
    assert "large_share" in wrong.finding
    assert file.waiting() == []


def test_who_owns_the_file(file: ConfigFile) -> None:
    assert file.read_only(file._checked(TEXT)) is None
    managed = file._checked(TEXT.replace("port = 8080", "managed_config = true"))
    assert "managed_config" in (file.read_only(managed) or "")


def test_an_objective_is_changed_and_nothing_else() -> None:
    text = with_objectives(TEXT, {"auto": {"quality": 0.95}})
    assert text == TEXT.replace("{ large_share = 0.3 }", "{quality = 0.95}")
    with pytest.raises(ConfigError, match="no route"):
        with_objectives(TEXT, {"other": {"quality": 0.9}})
    with pytest.raises(ConfigError, match="TOML"):
        with_objectives("[", {"auto": {"quality": 0.9}})


def test_keys_that_differ_have_their_names() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": [{"name": "x", "e": 1}]}
    after = {"a": {"b": 2, "c": [1]}, "d": [{"name": "x", "e": 2}, {"name": "y"}]}
    assert sorted(changed_keys(before, after)) == ["a.b", "d.x.e", "d.y"]
