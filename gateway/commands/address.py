"""Where a running gateway listens: a file in its state directory, for the commands that look for it.

It counts only while the process that wrote it lives, so nobody has to take it away.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from backends.launchers.warden import started
from gateway.settings import Settings


class Address(msgspec.Struct, frozen=True):
    """``STATE_DIR/gateway.json``; a process id counts only with the start time beside it."""

    root: str
    pid: int
    started: str


def tell(settings: Settings, root: str) -> None:
    """Write down that this process serves on a root URL; a gateway serves also where that fails."""
    path = _path(settings)
    partial = path.with_suffix(".partial")
    with contextlib.suppress(OSError):
        partial.write_bytes(msgspec.json.encode(Address(root, os.getpid(), started(os.getpid()))))
        partial.replace(path)


def found(settings: Settings) -> str | None:
    """Give the root URL of the gateway that runs on this state directory; None where none does."""
    try:
        told = msgspec.json.decode(_path(settings).read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError):
        return None
    return told.root if told.started and started(told.pid) == told.started else None


def of(settings: Settings) -> str:
    """Give the root URL of the running gateway, or else what the file says."""
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    return found(settings) or f"http://{host}:{server.port}"


def _path(settings: Settings) -> Path:
    return Path(settings.server.state_dir) / "gateway.json"
