"""The salt of kept answers' names: one for a state directory, secret, and it matters."""

from pathlib import Path

from gateway.salt import SALT_BYTES, own_salt
from semantic_cache.policy import exact_key, scope_key


def test_a_directory_has_one_salt_that_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cache.salt"
    salt = own_salt(path)
    assert len(salt) == SALT_BYTES
    assert own_salt(path) == salt
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["cache.salt"]
    assert own_salt(tmp_path / "other" / "cache.salt") != salt


def test_without_a_place_for_it_there_is_one_for_this_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert len(own_salt(blocked / "cache.salt")) == SALT_BYTES


def test_names_cannot_be_made_without_it() -> None:
    assert exact_key("t", "m", b"q", b"salt") != exact_key("t", "m", b"q")
    assert scope_key("t", "m", b"q", b"salt") != scope_key("t", "m", b"q", b"tlas")
