"""Stands between the gateway and one engine, so that nothing of the engine outlives them both.

Standard library only; run by path with `python -I -S`. It listens on a named pipe that only the gateway
holds: when the gateway ends in whatever way (`kill -9` included), the pipe's end is what the warden sees. For
`--orphan` seconds a next gateway may take the pipe, and with it the engine, over. Then, on the word `stop`,
or on SIGTERM, it asks the engine's main process to end, waits the grace, and kills the rest.

- Only the main process gets the SIGTERM: it knows in which order its parts stop, and a worker that stops by
  itself takes a running request with it. Whoever is left when the main process has ended is killed.
- As a "child subreaper" the warden inherits orphaned grandchildren, so it finds even those that made a
  session of their own (vLLM's engine core survives a `kill -9` of its API process).
- If the warden itself is killed, the kernel kills the engine's main process (PR_SET_PDEATHSIG). The rest
  is of the warden's session or carries its mark in its environment (vLLM's engine core writes its title over
  that), and the pidfile names both: the gateway, or its next start, ends whatever belongs to them.
- The log is emptied into `<log>.1` when it has grown too large.

Exit status: the engine's own, or 128 + signal.
"""

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
import uuid

ENDED = "warden: engine ended with status "
MARK = "ENGINE_WARDEN"
"""The environment variable that everything below a warden inherits."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK_S = 0.5
LAST_S = 10.0
"""So long it tries to kill what does not die (a process in an uninterruptible call)."""


def main() -> int:
    options = parse(sys.argv[1:])
    with contextlib.suppress(PermissionError):  # already a leader
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.append(1))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    pipe = os.open(options.pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.environ[MARK] = uuid.uuid4().hex
    engine = start(options, log)
    try:
        write_pidfile(options)
    except OSError as error:
        os.write(log, f"warden: no pidfile: {error}\n".encode())
    watch = Watch(engine, options, pipe, stopping)
    while watch.status is None:
        watch.step(wake_read)
        trim(log, options.log, options.max_log_bytes)
    kill_descendants(engine)
    for path in (options.pipe, options.pidfile):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    os.write(log, f"{ENDED}{watch.status}\n".encode())
    return watch.status


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", required=True)
    parser.add_argument("--pidfile", required=True)
    parser.add_argument("--pipe", required=True)
    parser.add_argument(
        "--note", default="{}", help="JSON, kept in the pidfile for who takes the engine over"
    )
    parser.add_argument("--orphan", type=float, default=0.0)
    parser.add_argument("--cwd", required=True)
    parser.add_argument("--gateway", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--max-log-bytes", type=int, default=64 << 20)
    parser.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


class Watch:
    """What the warden knows while the engine runs; `status` is None until its main process has ended."""

    def __init__(self, engine: int, options: argparse.Namespace, pipe: int, stopping: list[int]) -> None:
        self.engine, self.options, self.pipe, self.stopping = engine, options, pipe, stopping
        self.grace_s: float = options.grace
        self.status: int | None = None
        self.kill_at_s: float | None = None
        self.orphan_s: float | None = None  # since when nobody holds the pipe
        self.heard = b""

    def step(self, wake: int) -> None:
        """Wait for something, half a second at most, and act."""
        readers = [wake, *([self.pipe] if self.orphan_s is None else [])]
        ready, _, _ = select.select(readers, [], [], TICK_S)
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        self._listen()
        if self.stopping and self.kill_at_s is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.options.pipe)  # who comes now does not find it any more
            self.kill_at_s = time.monotonic() + self.grace_s
            send(self.engine, signal.SIGTERM)
        if self.kill_at_s is not None and time.monotonic() >= self.kill_at_s:
            send(self.engine, signal.SIGKILL)
        self._reap()

    def _listen(self) -> None:
        """Read the pipe: nothing to read where it is held, its end where it is not."""
        try:
            data = os.read(self.pipe, 4096)
        except BlockingIOError:
            self.orphan_s = None
            return
        if data:
            self.orphan_s = None
            self._hear(data)
        elif self.orphan_s is None:
            self.orphan_s = time.monotonic()
        if self.orphan_s is not None and time.monotonic() >= self.orphan_s + self.options.orphan:
            self.stopping.append(1)

    def _hear(self, data: bytes) -> None:
        """`stop <grace>` and a newline."""
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            word, _, grace = line.partition(b" ")
            if word == b"stop":
                self.grace_s = float(grace or self.grace_s)
                self.kill_at_s = None  # a later word counts: its grace starts now
                self.stopping.append(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.engine:
                code = os.waitstatus_to_exitcode(status)
                self.status = code if code >= 0 else 128 - code


def start(options: argparse.Namespace, log: int) -> int:
    """Fork and exec the engine in a process group of its own; its pid."""
    warden = os.getpid()
    blank = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(blank)
        with contextlib.suppress(OSError):  # the child has done it, or has exec'd
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != warden:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(options.cwd)
        os.dup2(blank, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(options.command[0], options.command, os.environ)  # noqa: S606 - no shell wanted
    except BaseException as error:
        os.write(log, f"warden: cannot start {options.command[0]}: {error}\n".encode())
        os._exit(127)


def write_pidfile(options: argparse.Namespace) -> None:
    """The mark to look for, and the gateway with its start time (a pid alone may by now be somebody else)."""
    gateway = {"gateway": options.gateway, "gateway_started": started(options.gateway)}
    leads = os.getsid(0) == os.getpid()  # else it is the session of whoever has called it
    own = {"session": os.getpid() if leads else 0, "session_started": started(os.getpid())}
    note = json.loads(options.note)
    write_record(options.pidfile, {"mark": os.environ[MARK], "note": note, **own, **gateway})


def write_record(pidfile: str, record: dict[str, object]) -> None:
    """Replace a pidfile at once; raises OSError."""
    draft = pidfile + ".new"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(draft, pidfile)


def kill_descendants(engine: int) -> None:
    """Kill the engine's group and all that has come to descend from the warden, until nothing is left."""
    give_up_s = time.monotonic() + LAST_S
    while time.monotonic() < give_up_s:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(engine, signal.SIGKILL)
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def kill_marked(mark: str, session: int, session_started: str) -> int:
    """Kill everything of a session, or that carries the mark, wherever it hangs; how many there were.

    The session counts only as long as its number has not become somebody else's.
    """
    give_up_s, killed = time.monotonic() + LAST_S, set()
    while time.monotonic() < give_up_s:
        ours = session and started(session) in ("", session_started)
        pids = {*marked(mark), *(of_session(session) if ours else ())}
        if not pids:
            break
        for pid in pids:
            send(pid, signal.SIGKILL)
        killed.update(pids)
        time.sleep(0.02)
    return len(killed)


def of_session(session: int) -> list[int]:
    """The living processes of a session."""
    found = [(int(name), stat(int(name))) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid, fields in found if fields and fields[3] == str(session) and fields[0] != "Z"]


def marked(mark: str) -> list[int]:
    """The living processes that carry the mark."""
    entry, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if entry in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:  # gone, or somebody else's
                continue
    return found


def descendants(root: int) -> list[int]:
    """All processes below `root`, by their parents in /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat(int(name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found, unseen = [], [root]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def started(pid: int) -> str:
    """The start time of a process, in clock ticks since the machine's; "" where there is none."""
    fields = stat(pid)
    return fields[19] if fields else ""


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on (the name before it may hold anything)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def trim(log: int, path: str, most: int) -> None:
    """Copy and empty: the engine goes on writing at the end of the same file."""
    if os.fstat(log).st_size > most:
        with contextlib.suppress(OSError):
            shutil.copyfile(path, path + ".1")
        os.ftruncate(log, 0)


def prctl(option: int, value: int) -> None:
    """Best effort: where libc has no prctl, the pipe and the pidfile still do their part."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
