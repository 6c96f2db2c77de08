"""Replicas as processes of this machine, each behind a warden (see `warden.py`).

Engines get a neutral environment (an allow-list of ours, never `SWITCHGEAR_*`), a neutral working directory
and `PYTHONSAFEPATH=1`, so that neither our secrets nor our module names reach them. Each replica has a log
file, appended, and a pidfile while it runs; pidfiles left by an earlier run name what `sweep` has to end.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from backends.engines.profile import LaunchCommand
from backends.launchers import warden
from backends.launchers.base import MakeCommand, Process

# fmt: off
ALLOWED = frozenset({
    "ALL_PROXY", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "LOGNAME", "NO_PROXY", "PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR",
    "TZ", "USER", "XDG_CACHE_HOME", "all_proxy", "http_proxy", "https_proxy", "no_proxy",
})
# fmt: on
ALLOWED_PREFIXES = ("CUDA_", "HF_", "LC_", "NCCL_", "NVIDIA_", "VLLM_")
DENIED = frozenset({"VLLM_API_KEY", "VLLM_SERVER_DEV_MODE"})
GRACE_BEYOND_S = 10.0
"""After the engine's own shutdown time-out."""
TAIL_BYTES = 64 << 10


class StateInUse(OSError):
    """Another gateway that is alive runs engines from the same state directory."""


class LocalProcess:
    """An engine and its warden.

    Not an asyncio subprocess: closing the loop kills such a one, and a warden that is killed cannot end its
    engine. A plain one only loses its pipe, which is the warden's sign to do so.
    """

    def __init__(self, popen: subprocess.Popen[bytes], url: str, log: Path, pidfile: Path) -> None:
        self._popen = popen
        self._url = url
        self._log = log
        self._log_start = log.stat().st_size
        self._pidfile = pidfile
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        threading.Thread(target=self._watch, args=(asyncio.get_running_loop(),), daemon=True).start()

    @property
    def url(self) -> str:
        return self._url

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float) -> int:
        pipe = self._popen.stdin
        assert pipe is not None
        if not self._exit.done():
            with contextlib.suppress(BrokenPipeError):  # it is just ending
                pipe.write(f"stop {grace_s}\n".encode())
        return await self.wait()

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = self._log_start if self._log_start <= size else 0
                file.seek(max(start, size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ()
        return tuple(text.splitlines()[-lines:])

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: wait for the warden; what is left where it was killed itself is ended here."""
        status = self._popen.wait()
        if status < 0:
            _end_leftovers(self._pidfile)
            status = 128 - status
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended, status)

    def _ended(self, status: int) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        if not self._exit.done():
            self._exit.set_result(status)


class LocalLauncher:
    """State: `<state_dir>/engines/{<replica>.log, <replica>.pid, empty/}`."""

    def __init__(self, state_dir: Path) -> None:
        self._dir = state_dir / "engines"
        self._ports: set[int] = set()

    async def start(self, replica_id: str, make: MakeCommand, url: str) -> Process:
        empty = self._dir / "empty"
        empty.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = quote(replica_id, safe="")
        log, pidfile = self._dir / f"{name}.log", self._dir / f"{name}.pid"
        log.touch(mode=0o600)
        port = self._free_port()
        command = make(port)
        grace_s = command.shutdown_timeout_s + GRACE_BEYOND_S
        arguments = ["--log", str(log), "--pidfile", str(pidfile), "--cwd", str(empty)]
        arguments += ["--grace", str(grace_s), "--gateway", str(os.getpid())]
        _note(log, f"switchgear: starting {replica_id} on port {port}")
        argv = [sys.executable, "-I", "-S", warden.__file__, *arguments, "--", *command.argv]
        popen = await asyncio.to_thread(_spawn, argv, environment(os.environ, command))
        return LocalProcess(popen, f"http://127.0.0.1:{port}/v1", log, pidfile)

    async def sweep(self) -> Sequence[str]:
        def end_all() -> list[str]:
            pidfiles = sorted(self._dir.glob("*.pid"))
            return [unquote(one.stem) for one in pidfiles if _end_leftovers(one, respect_gateway=True)]

        return await asyncio.to_thread(end_all)

    def _free_port(self) -> int:
        """A port that is free now and that this launcher has not given out before."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port


def environment(parent: Mapping[str, str], command: LaunchCommand) -> dict[str, str]:
    """What an engine sees: the allowed part of ours, the command's own, and the two neutral settings."""
    kept = {
        name: value
        for name, value in parent.items()
        if (name in ALLOWED or name.startswith(ALLOWED_PREFIXES)) and name not in DENIED
    }
    return kept | command.env | {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}


def _note(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _spawn(argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - launching the operator's engines is what this does
        argv,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=env,
    )


def _end_leftovers(pidfile: Path, *, respect_gateway: bool = False) -> bool:
    """End the processes of a pidfile's mark, if any; blocks until they are gone.

    Raises StateInUse where `respect_gateway` and the gateway that started them is alive.
    """
    try:
        record = json.loads(pidfile.read_text(encoding="utf-8"))
        mark, gateway, gateway_started = (
            str(record["mark"]),
            int(record["gateway"]),
            str(record["gateway_started"]),
        )
        session = int(record.get("session", 0)), str(record.get("session_started", ""))
    except (OSError, ValueError, KeyError, TypeError):
        pidfile.unlink(missing_ok=True)  # not ours, or cut short: its warden sees the end of its pipe anyway
        return False
    there = gateway_started != "" and warden.started(gateway) == gateway_started
    if respect_gateway and there and gateway != os.getpid():
        raise StateInUse(
            f"{pidfile.parent} is in use by the gateway with process id {gateway}; give another state_dir"
        )
    killed = warden.kill_marked(mark, *session)
    pidfile.unlink(missing_ok=True)
    return killed > 0
