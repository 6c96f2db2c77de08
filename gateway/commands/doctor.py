"""``switchgear doctor``: one bundle that says how everything is, for whoever has to help.

It looks from outside, so it works while the gateway is down, and it changes nothing. No secret leaves: what
is named like one is masked, and so is every value of a variable that holds one, wherever it turns up.
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from backends.launchers import local
from gateway import database, tables
from gateway.checks import check, check_weights, warnings
from gateway.commands import address
from gateway.commands.base import add_config
from gateway.config_file import load
from gateway.settings import ConfigError, Settings

PACKAGES = ("switchgear", "litestar", "uvicorn", "msgspec", "sqlalchemy", "redis", "opentelemetry-sdk")
TIMEOUT_S = 5.0
LAST_ERRORS = 20
LOG_BYTES = 32 * 1024
SECRET_NAME = re.compile(r"(key|token|secret|password|sha256|headers)", re.IGNORECASE)
IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
SHORTEST_SECRET = 6
MASK = "***"
START = "Start it with 'switchgear up' or 'switchgear serve', or name another address with --base-url."


class NoGateway(Exception):
    """Nothing answers where the gateway should; the text says where that is and what to do."""


class Finding(msgspec.Struct, frozen=True):
    """One part: whether it is well, and what was seen."""

    part: str
    well: bool
    seen: str


def register(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_config(parser)
    parser.add_argument(
        "--base-url",
        metavar="U",
        help="of the gateway; default: where the running one says, else as in the file",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="where the bundle (.tar.gz) goes")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look at every part, write the bundle; exit status 1 where anything is not well. Raises ConfigError."""
    settings = load(options.config)
    root = (options.base_url or address.of(settings)).rstrip("/").removesuffix("/v1")
    clean = _cleaner(os.environ)
    findings, files = _looked_at(settings, str(options.config), root)
    report = {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": _versions(),
        "parts": [msgspec.structs.asdict(one) for one in findings],
        "notes": list(warnings(settings)),
        "last_errors": _last_errors(settings),
        "config": _masked(msgspec.to_builtins(settings)),
        "variables": sorted(name for name in os.environ if name.startswith(("SWITCHGEAR_", "OTEL_"))),
    }
    text = clean(json.dumps(report, indent=1))
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    out = options.out or Path(f"switchgear-doctor-{stamp}.tar.gz")
    _write(out, {"report.json": text, **{name: clean(content) for name, content in files.items()}})
    if options.json:
        print(text)
    else:
        for one in findings:
            print(f"{'ok ' if one.well else 'BAD'} {one.part}: {clean(one.seen)}")
    print(f"bundle: {out}", file=sys.stderr)
    return 0 if all(one.well for one in findings) else 1


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _looked_at(settings: Settings, source: str, root: str) -> tuple[list[Finding], dict[str, str]]:
    """Look at each part; gives what was found, and the files that go with it."""
    files: dict[str, str] = {}
    state_dir = Path(settings.server.state_dir)
    findings = [
        _tried("configuration", lambda: _configured(settings, source)),
        _tried("state directory", lambda: _state(state_dir)),
        _tried("database", lambda: _schema(settings)),
    ]
    if settings.redis is not None:
        findings.append(_tried("redis", lambda: _redis(settings)))
    for model in settings.models:
        for number, replica in enumerate(model.replicas):
            key = os.environ.get(replica.api_key_env or "", "")
            url = f"{replica.url.rstrip('/')}/models"
            findings.append(_tried(f"replica {model.name}-{number}", partial(_reached, url, key)))
    findings += _launched(settings)
    for path, name in (("/readyz", "readyz.json"), ("/metrics", "metrics.txt")):
        token = os.environ.get(settings.server.metrics_token_env or "", "") if path == "/metrics" else ""

        def ask(path: str = path, name: str = name, token: str = token) -> str:
            try:
                files[name] = _asked(root + path, token)
            except urllib.error.HTTPError:
                raise
            except OSError as error:
                raise NoGateway(f"nothing answers at {root}: {error}. {START}") from None
            return f"{root}: {files[name][:400]}" if name == "readyz.json" else f"{len(files[name])} bytes"

        findings.append(_tried(f"gateway {path}", ask))
    for log in sorted((_engines_dir(settings) / "engines").glob("*.log")):
        files[f"engines/{log.name}"] = log.read_text(errors="replace")[-LOG_BYTES:]
    return findings, files


def _engines_dir(settings: Settings) -> Path:
    """Give the state directory of who launches the engines."""
    state_dir = Path(settings.server.state_dir)
    return state_dir / "fleet" if settings.fleet.apart else state_dir


def _launched(settings: Settings) -> Iterator[Finding]:
    """Look at each engine that runs here, and for models that should have one and have none."""
    engines = local.running(_engines_dir(settings))
    for id_, url in engines.items():
        yield _tried(f"replica {id_}", partial(_serving, url))
    having = {id_.rpartition("-")[0] for id_ in engines}
    start = "switchgear fleet run" if settings.fleet.apart else "switchgear up"
    for model in settings.models:
        if model.launch is not None and model.name not in having:
            asleep = model.launch.min_replicas == 0
            seen = "min_replicas = 0" if asleep else f"'{start}' launches it; why it ended is in its log"
            yield Finding(f"replicas of {model.name}", asleep, f"none runs on this machine: {seen}")


def _serving(url: str) -> str:
    return f"{url}: {_reached(url + '/models', '')}"


def _tried(part: str, look: Callable[[], str]) -> Finding:
    """Look; whatever is raised says what is wrong with the part."""
    try:
        return Finding(part, True, look())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace")
        return Finding(part, False, f"status {error.code}: {said}")
    except (NoGateway, ConfigError, database.DatabaseError) as error:
        return Finding(part, False, str(error))
    except Exception as error:
        return Finding(part, False, f"{type(error).__name__}: {database.reason(error)}")


def _configured(settings: Settings, source: str) -> str:
    check(settings, source, os.environ)
    if not settings.fleet.apart:
        check_weights(settings, source)
    return f"{len(settings.models)} models, {len(settings.routes)} routes"


def _state(state_dir: Path) -> str:
    if not state_dir.is_dir():
        raise FileNotFoundError(f"{state_dir} is not there; the gateway makes it when it starts")
    if not os.access(state_dir, os.W_OK):
        raise PermissionError(f"{state_dir} cannot be written by this user")
    room = os.statvfs(state_dir)
    return f"{state_dir}, {room.f_bavail * room.f_frsize // 2**20} MiB free"


def _schema(settings: Settings) -> str:
    engine = database.connect(settings.database.url)
    try:
        name = engine.url.database
        if engine.dialect.name == "sqlite" and name and not Path(name).exists():
            raise FileNotFoundError(f"{name} is not there; the gateway makes it when it starts")
        with engine.connect() as connection:
            version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return f"{engine.dialect.name}, schema {version}"
    finally:
        engine.dispose()


def _redis(settings: Settings) -> str:
    from redis import Redis

    assert settings.redis is not None
    password = os.environ.get(settings.redis.password_env or "")
    with Redis.from_url(settings.redis.url, password=password, socket_timeout=TIMEOUT_S) as client:
        told: Any = client.info("server")
        return f"answers, version {told['redis_version']}"


def _reached(url: str, key: str) -> str:
    """Say what a server answers; one that lacks the path is there all the same."""
    try:
        return _asked(url, key)[:200]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403) or error.code >= 500:
            raise
        with error:
            return f"answers, with status {error.code}"


def _asked(url: str, token: str) -> str:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - of the configuration
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310 - as above
        return str(reply.read().decode(errors="replace"))


def _last_errors(settings: Settings) -> list[dict[str, Any]]:
    """Give the last rows of the ledger that did not end well; none where it cannot be read."""
    table = tables.ledger.c
    columns = (
        table.request_id,
        table.ts,
        table.model,
        table.route,
        table.status,
        table.attempts,
        table.replicas,
    )
    try:
        engine = database.connect(settings.database.url)
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
            return []
        wanted = sa.select(*columns).where(table.status != "ok").order_by(table.ts.desc()).limit(LAST_ERRORS)
        try:
            with engine.connect() as connection:
                return [dict(row) for row in connection.execute(wanted).mappings()]
        finally:
            engine.dispose()
    except (sa.exc.SQLAlchemyError, database.DatabaseError):
        return []


def _masked(value: Any, name: str = "") -> Any:
    """Give the configuration without what is named like a secret; names of variables are none."""
    if isinstance(value, dict):
        return {key: _masked(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, name) for one in value]
    secret = isinstance(value, str) and SECRET_NAME.search(name) and not name.endswith(("_env", "_file"))
    return MASK if secret else value


def _cleaner(environ: Mapping[str, str]) -> Callable[[str], str]:
    """Give what masks, in any text, the passwords of URLs and the values of variables that hold secrets."""
    held = {value for name, value in environ.items() if SECRET_NAME.search(name)}
    longest_first = sorted((one for one in held if len(one) >= SHORTEST_SECRET), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, MASK)
        return IN_URL.sub(MASK, text)

    return clean


def _write(out: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(out, "w:gz") as bundle:
        for name, content in files.items():
            data = content.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            bundle.addfile(entry, io.BytesIO(data))
    out.chmod(0o600)
