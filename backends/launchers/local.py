"""Replicas as processes of this machine, each behind a warden (see `warden.py`).

Engines get a neutral environment (an allow-list of ours, never `SWITCHGEAR_*`), a neutral working directory
and `PYTHONSAFEPATH=1`, so that neither our secrets nor our module names reach them. Each replica has a log
file, appended, and a pidfile while it runs; pidfiles left by an earlier run name what `sweep` finds: it takes
over what is wanted still, and ends the rest.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from backends.engines.profile import LaunchCommand, Place
from backends.launchers import warden
from backends.launchers.base import Claim, MakeCommand, Process

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


class Note(Struct, frozen=True):
    """What is kept of an engine for who takes it over."""

    port: int
    log_start: int
    command: str
    """Its fingerprint."""
    place: Place


class Record(Struct, frozen=True):
    """A pidfile; a process id counts only with the start time beside it."""

    mark: str
    session: int
    """The warden, where it leads a session, else 0."""
    session_started: str
    gateway: int
    gateway_started: str
    note: Note


class Files:
    """Where a replica's log, pidfile and pipe are."""

    def __init__(self, directory: Path, replica_id: str) -> None:
        name = quote(replica_id, safe="")
        self.log, self.pidfile = directory / f"{name}.log", directory / f"{name}.pid"
        self.pipe = directory / f"{name}.pipe"


class LocalProcess:
    """An engine and its warden.

    Not an asyncio subprocess: closing the loop kills such a one, and a warden that is killed cannot end its
    engine. A plain one only loses its pipe, which is the warden's sign to do so.
    """

    def __init__(self, pipe: int, note: Note, files: Files, ended: Callable[[], int]) -> None:
        """`pipe` is held until its end; `ended()` blocks until the warden has ended, and gives its status."""
        self._pipe, self._note, self._files = pipe, note, files
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        watch = (asyncio.get_running_loop(), ended)
        threading.Thread(target=self._watch, args=watch, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._note.port}/v1"

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_s: float) -> int:
        if not self._exit.done():
            os.write(self._pipe, f"stop {grace_s}\n".encode())
        return await self.wait()

    def log_tail(self, lines: int = 20) -> tuple[str, ...]:
        try:
            with self._files.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = self._note.log_start if self._note.log_start <= size else 0
                file.seek(max(start, size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ()
        return tuple(text.splitlines()[-lines:])

    def _watch(self, loop: asyncio.AbstractEventLoop, ended: Callable[[], int]) -> None:
        """In a thread: wait for the warden; what is left where it was killed itself is ended here."""
        status = ended()
        if status < 0:
            _end_leftovers(self._files.pidfile)
            status = 128 - status
        try:
            loop.call_soon_threadsafe(self._ended, status)
        except RuntimeError:  # the loop is closed: nobody waits any more
            os.close(self._pipe)

    def _ended(self, status: int) -> None:
        os.close(self._pipe)
        if not self._exit.done():
            self._exit.set_result(status)


class LocalLauncher:
    """State: `<state_dir>/engines/{<replica>.log, <replica>.pid, <replica>.pipe, empty/}`."""

    def __init__(self, state_dir: Path, orphan_s: float = 0.0) -> None:
        """`orphan_s`: so long an engine outlives a gateway that was killed, for the next one to take over."""
        self._dir, self._orphan_s = state_dir / "engines", orphan_s
        self._ports: set[int] = set()

    async def start(self, replica_id: str, make: MakeCommand, url: str) -> Process:
        empty = self._dir / "empty"
        empty.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = Files(self._dir, replica_id)
        files.log.touch(mode=0o600)
        port = self._free_port()
        command = make(port)
        grace_s = command.shutdown_timeout_s + GRACE_BEYOND_S
        _note(files.log, f"switchgear: starting {replica_id} on port {port}")
        note = Note(port, files.log.stat().st_size, _fingerprint(command), command.place)
        arguments = ["--log", str(files.log), "--pidfile", str(files.pidfile), "--cwd", str(empty)]
        arguments += ["--pipe", str(files.pipe), "--note", msgspec.json.encode(note).decode()]
        arguments += ["--orphan", str(self._orphan_s), "--grace", str(grace_s), "--gateway", str(os.getpid())]
        argv = [sys.executable, "-I", "-S", warden.__file__, *arguments, "--", *command.argv]
        pipe = _made_pipe(files.pipe)
        try:
            popen = await asyncio.to_thread(_spawn, argv, environment(os.environ, command))
        except BaseException:
            os.close(pipe)
            raise
        return LocalProcess(pipe, note, files, popen.wait)

    def left(self) -> Mapping[str, Place]:
        found = ((unquote(one.stem), _record(one)) for one in sorted(self._dir.glob("*.pid")))
        return {id_: one.note.place for id_, one in found if one is not None and one.session}

    async def sweep(self, claim: Claim) -> Mapping[str, Process]:
        adopted: dict[str, Process] = {}
        with _alone(self._dir):
            for pidfile in sorted(self._dir.glob("*.pid")):
                replica_id = unquote(pidfile.stem)
                files, record = Files(self._dir, replica_id), _record(pidfile)
                process = None if record is None else self._taken_over(replica_id, files, record, claim)
                if process is not None:
                    adopted[replica_id] = process
                else:
                    await asyncio.to_thread(_end_leftovers, pidfile)
            for pipe in self._dir.glob("*.pipe"):
                if not pipe.with_suffix(".pid").exists():
                    pipe.unlink(missing_ok=True)
        return adopted

    def _taken_over(self, replica_id: str, files: Files, record: Record, claim: Claim) -> Process | None:
        """Take the warden's pipe, where its engine is wanted as it is. Raises StateInUse."""
        gateway = record.gateway
        if gateway != os.getpid() and warden.started(gateway) == record.gateway_started != "":
            raise StateInUse(
                f"{self._dir} is in use by the gateway with process id {gateway}; give another state_dir"
            )
        make = claim(replica_id, record.note.place)
        try:
            if make is None or _fingerprint(make(record.note.port)) != record.note.command:
                return None
            guard, pipe = _held(files.pipe, record)
        except (OSError, ValueError):  # the warden is gone, or ends its engine just now; or nobody can run it
            return None
        own = {"gateway": os.getpid(), "gateway_started": warden.started(os.getpid())}
        warden.write_record(str(files.pidfile), {**msgspec.to_builtins(record), **own})
        self._ports.add(record.note.port)
        _note(files.log, f"switchgear: took {replica_id} over")
        return LocalProcess(pipe, record.note, files, partial(_ended, guard, files.log))

    def _free_port(self) -> int:
        """A port that is free now and that this launcher has not given out before."""
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port


def running(state_dir: Path) -> Mapping[str, str]:
    """The url of each engine that runs from a state directory, by its replica; for who only looks."""
    found = ((unquote(one.stem), _read(one)) for one in sorted((state_dir / "engines").glob("*.pid")))
    return {
        id_: f"http://127.0.0.1:{one.note.port}/v1"
        for id_, one in found
        if one is not None and warden.started(one.session) == one.session_started != ""
    }


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
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=env,
    )


def _made_pipe(path: Path) -> int:
    """Make the warden's pipe, and hold it. Raises OSError."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _held(path: Path, record: Record) -> tuple[int, int]:
    """Watch a warden that runs, and hold its pipe. Raises OSError."""
    guard = os.pidfd_open(record.session)
    try:
        if warden.started(record.session) != record.session_started or select.select([guard], [], [], 0)[0]:
            raise ProcessLookupError(record.session)
        return guard, os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.close(guard)
        raise


def _ended(guard: int, log: Path) -> int:
    """Block until a warden that is not our child has ended; its status, or that of a kill, negative."""
    select.select([guard], [], [])
    os.close(guard)
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        last = file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
    _, told, status = last.partition(warden.ENDED)
    return int(status) if told else -signal.SIGKILL


def _fingerprint(command: LaunchCommand) -> str:
    """What tells two commands apart, without what they hold."""
    whole = msgspec.json.encode((command.argv, sorted(command.env.items()), command.shutdown_timeout_s))
    return hashlib.sha256(whole).hexdigest()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Be the only one that sweeps this directory; waits for another one."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _record(pidfile: Path) -> Record | None:
    """What a warden wrote; None, and away with it, where that cannot be read.

    Its warden sees the end of its pipe anyway.
    """
    record = _read(pidfile)
    if record is None:
        pidfile.unlink(missing_ok=True)
    return record


def _read(pidfile: Path) -> Record | None:
    try:
        return msgspec.json.decode(pidfile.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _end_leftovers(pidfile: Path) -> None:
    """End the processes of a pidfile's mark, if any; blocks until they are gone."""
    record = _record(pidfile)
    if record is not None:
        warden.kill_marked(record.mark, record.session, record.session_started)
    pidfile.unlink(missing_ok=True)
