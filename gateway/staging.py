"""The configuration file as the console changes it: read, tried, put in place of the old one, taken back.

The file stays the truth: a change is written to it, in one step, and read again by every process. What it
replaces is kept beside the state, so that it can be taken back. A file that belongs to somebody else
(``server.managed_config``, or a place that cannot be written) is only read.
"""

import difflib
import hashlib
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tomlkit.exceptions import TOMLKitError

from gateway.checks import check
from gateway.config_file import anchored, load, parse
from gateway.settings import ConfigError, Settings

KEPT = 20
RESTARTS = (
    "server.host", "server.port", "server.workers", "server.state_dir", "server.metrics_token_env",
    "database.url", "redis", "cache.max_bytes", "streams.total_bytes", "coalescing.lease_s",
)  # fmt: skip
"""What a running process holds since its start."""


class Overtaken(Exception):
    """The file is not the one that the change was made over."""


class NotOurs(Exception):
    """The file cannot be changed from here; the text says why."""


class KeptFile(msgspec.Struct, frozen=True):
    """An earlier text of the file, and when it was replaced, in seconds since 1970."""

    id: str
    replaced_s: float


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a text would do; ``finding`` says what is wrong, ``restart`` names keys that wait for a start."""

    text: str
    diff: str
    finding: str | None
    changed: list[str]
    restart: list[str]


class ConfigFile:
    """One file; ``environ`` is what its names of variables are checked against."""

    def __init__(self, path: Path, state_dir: Path, environ: Mapping[str, str]) -> None:
        self.path = path
        self._kept = state_dir / "config"
        self._environ = environ
        self._started = load(path)

    def read(self) -> str:
        """Give the text. Raises ConfigError where it cannot be read."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path}: cannot be read: {error}") from None

    def read_only(self, settings: Settings) -> str | None:
        """Say why the file cannot be changed from here, or None."""
        if settings.server.managed_config:
            return "server.managed_config is true: change the file where it comes from."
        folder = self.path.resolve().parent
        if not (os.access(self.path, os.W_OK) and os.access(folder, os.W_OK)):
            return f"{self.path} cannot be written by the gateway: change it where it comes from."
        return None

    def waiting(self) -> list[str]:
        """Name the keys whose value in the file waits for a restart. Raises ConfigError."""
        return restarts(self._started, self._checked(self.read()))

    def tried(self, text: str) -> Trial:
        """Say what a text would change, and what is wrong with it. Raises ConfigError for the file itself."""
        before = self.read()
        names = (str(self.path.name), "staged")
        lines = difflib.unified_diff(before.splitlines(), text.splitlines(), *names, lineterm="")
        finding, restart, changed = None, [], []
        try:
            after = self._checked(text)
            restart = restarts(self._started, after)
            changed = sorted(changed_keys(tomllib.loads(before), tomllib.loads(text)))
        except ConfigError as error:
            finding = str(error)
        except tomllib.TOMLDecodeError:
            changed = []  # the file itself is broken: everything mends it
        return Trial(text=text, diff="\n".join(lines), finding=finding, changed=changed, restart=restart)

    def replace(self, text: str, over: str, now_s: float, reload: Callable[[], None]) -> None:
        """Write a text in place of that with this digest, and have it read.

        Raises Overtaken, ConfigError for a wrong text, or NotOurs where it cannot be written; then, and where
        ``reload`` refuses it, the file is as it was.
        """
        before = self.read()
        if digest(before) != over:
            raise Overtaken
        self._checked(text)
        try:
            self._keep(before, now_s)
            self._write(text)
        except OSError as error:
            raise NotOurs(f"{self.path} cannot be written: {error.strerror}.") from None
        try:
            reload()
        except ConfigError:
            self._write(before)
            raise

    def earlier(self) -> list[KeptFile]:
        """Give what was replaced, the latest first."""
        names = sorted((one.name for one in self._kept.glob("*.toml")), reverse=True)
        return [KeptFile(name.removesuffix(".toml"), int(name.partition(".")[0]) / 1000) for name in names]

    def kept(self, id_: str) -> str | None:
        """Give the text of an earlier file, or None."""
        known = any(one.id == id_ for one in self.earlier())
        return (self._kept / f"{id_}.toml").read_text(encoding="utf-8") if known else None

    def _checked(self, text: str) -> Settings:
        settings = anchored(parse(text, str(self.path)), self.path.absolute().parent)
        check(settings, str(self.path), self._environ)
        return settings

    def _keep(self, text: str, now_s: float) -> None:
        self._kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{int(now_s * 1000)}.toml"
        with open(os.open(self._kept / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        for one in self.earlier()[KEPT:]:
            (self._kept / f"{one.id}.toml").unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        path = self.path.resolve()  # a link stays one
        mode = path.stat().st_mode & 0o777
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(number, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def digest(text: str) -> str:
    """Give what names a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def restarts(started: Settings, now: Settings) -> list[str]:
    """Name the keys that differ and that only a start puts in force."""

    def value(settings: Settings, key: str) -> Any:
        found: Any = settings
        for name in key.split("."):
            found = getattr(found, name)
        return found

    return [key for key in RESTARTS if value(started, key) != value(now, key)]


def changed_keys(before: Any, after: Any, at: str = "") -> Iterator[str]:
    """Name what differs between two files; tables of a list go by their names."""
    left, right = _named(before), _named(after)
    if left is None or right is None:
        if before != after:
            yield at
        return
    for name in {**left, **right}:
        yield from changed_keys(left.get(name), right.get(name), f"{at}.{name}" if at else name)


def _named(value: Any) -> dict[str, Any] | None:
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return {str(one["name"]): one for one in value}
    return value if isinstance(value, dict) else None


def with_objectives(text: str, objectives: Mapping[str, Mapping[str, float]]) -> str:
    """Give the text with other objectives of routes; everything else stays as it is written.

    Raises ConfigError where the text is no TOML, or has no such route.
    """
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ConfigError(f"this is not TOML: {error}") from None
    routes: Any = document.get("routes", [])
    for name, objective in objectives.items():
        route = next((one for one in routes if isinstance(one, dict) and one.get("name") == name), None)
        if route is None:
            raise ConfigError(f"routes: there is no route {name!r} in the file")
        table = tomlkit.inline_table()
        table.update(objective)
        route["objective"] = table
    return tomlkit.dumps(document)
