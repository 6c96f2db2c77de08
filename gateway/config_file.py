"""One TOML file becomes ``Settings``: read, its paths made absolute, its errors in an operator's words.

An error names the file, the key's path and the remedy.
"""

import os.path
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from backends.engines.profile import is_path
from gateway.settings import WORDS, ConfigError, ModelSettings, Settings

KINDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "text",
}


def parse(text: str, source: str) -> Settings:
    """Parse TOML text; ``source`` names it in errors. Raises ConfigError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    return _converted(tables, source)


def load(path: Path) -> Settings:
    """Read a file; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Name a TOML file with --config.") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}. Name a TOML file with --config."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: cannot be read: it is not UTF-8 (byte {error.start}); save it as UTF-8."
        ) from None
    return anchored(parse(text, str(path)), path.absolute().parent)


def anchored(settings: Settings, folder: Path) -> Settings:
    """Make the relative paths of a file relative to its folder, wherever a command is started."""
    server, database = settings.server, settings.database
    server = msgspec.structs.replace(server, state_dir=str(folder / server.state_dir))
    name = database.url.removeprefix("sqlite:///")
    if name != database.url and name and not name.startswith((":", "/", "file:")):
        database = msgspec.structs.replace(database, url=f"sqlite:///{folder / name}")
    models = tuple(_model_anchored(model, folder) for model in settings.models)
    return msgspec.structs.replace(settings, server=server, database=database, models=models)


def _model_anchored(model: ModelSettings, folder: Path) -> ModelSettings:
    """Make the paths of a model's weights absolute: an engine starts elsewhere and knows no ``~``."""
    if model.launch is None:
        return model
    launch = msgspec.structs.replace(model.launch, weights=_path_anchored(model.launch.weights, folder))
    versions = tuple(
        msgspec.structs.replace(one, weights=one.weights and _path_anchored(one.weights, folder))
        for one in model.versions
    )
    return msgspec.structs.replace(model, launch=launch, versions=versions)


def _path_anchored(weights: str, folder: Path) -> str:
    return os.path.normpath(folder / Path(weights).expanduser()) if is_path(weights) else weights


def _converted(tables: dict[str, Any], source: str) -> Settings:
    try:
        return msgspec.convert(tables, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {finding(error)}") from None


def finding(error: msgspec.ValidationError) -> str:
    """Say msgspec's finding as an operator says it: the key's path, what is wrong, what to do."""
    message, _, path = str(error).partition(" - at `$.")
    key = path.rstrip("`")
    return f"{key}: {_plain(message)}" if key else _plain(message)


def _plain(message: str) -> str:
    field = message.partition("unknown field `")[2].rstrip("`")
    if field:
        return f"unknown key {field!r}; remove it or correct its spelling"
    missing = message.partition("required field `")[2].rstrip("`")
    if missing:
        return f"the key {missing!r} is missing; add it"
    for pattern, words in WORDS.items():
        if message.endswith(f"matching regex {pattern!r}"):
            return f"must be {words}"
    if message.startswith("Expected `"):
        said = message.replace("Expected", "must be").replace(", got", ", not")
        return re.sub(r"`([^`]*)`", lambda found: _kinds(found[1]), said)
    return (message[:1].lower() + message[1:]).replace("`", "'")


def _kinds(types: str) -> str:
    """Say what msgspec calls ``int | null`` in words; nothing can be null in TOML."""
    kinds = [KINDS.get(one, f"'{one}'") for one in types.split(" | ") if one != "null"]
    return " or ".join(kinds)
