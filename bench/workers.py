"""How throughput grows with workers: ``python -m bench.workers [--redis URL]``.

One gateway with 1, 2, ... N workers, limits in Redis, without a cache, on all cores; upstream and load are
processes on the same cores, so that no more than the cores can be had: ``used`` says how much of them was.
Without ``--redis`` the ``redis-server`` that is installed runs for it.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.house import gateway, request
from bench.load import Tally
from bench.load import run as drive
from bench.processes import cpu_s, free_port, started

LIMITS = "rpm = 1000000000\ntpm = 1000000000000\nconcurrency = 100000"  # checked, never met
CONNECTIONS = 32  # of each load process
CORES = sorted(os.sched_getaffinity(0))


def tables(upstream: int, redis: str) -> str:
    """Give the model, and the Redis that workers need."""
    return f"""
[redis]
url = "{redis}"
[[models]]
name = "bench"
price = {{ input = 0.05, output = 0.20 }}
[[models.replicas]]
url = "http://127.0.0.1:{upstream}/v1"
max_concurrency = 512
"""


def load(port: int, seconds: float) -> tuple[int, int]:
    """Drive the gateway from a process of its own; gives answers and failures."""
    messages = [{"role": "user", "content": "Tell me about foxes and dogs. " * 5}]
    asked = request(port, {"model": "bench", "messages": messages})
    tally: Tally = asyncio.run(drive(port, lambda: asked, CONNECTIONS, seconds))
    return len(tally.latencies_s), tally.failures


@contextmanager
def redis_at(url: str, folder: Path) -> Iterator[str]:
    """Give a Redis: the one that was named, or one that runs for this."""
    if url:
        yield url
        return
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("bench: no redis-server is installed; give --redis redis://HOST:PORT/0")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with started(command, CORES, {}, folder):
        yield f"redis://127.0.0.1:{port}/0"


def measured(workers: int, seconds: float, redis: str) -> dict[str, float]:
    """Give one row."""
    upstream = free_port()
    with ExitStack() as stack:
        folder, beside, behind = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3))
        shared = stack.enter_context(redis_at(redis, beside))
        stack.enter_context(
            started([sys.executable, "-m", "bench.upstream", str(upstream)], CORES, {}, behind)
        )
        options = ["--workers", str(workers)]
        port, pid = stack.enter_context(
            gateway(folder / "gateway", CORES, tables(upstream, shared), key=LIMITS, options=options)
        )
        pool = stack.enter_context(ProcessPoolExecutor(2))
        for seconds_now in (1.0, seconds):  # the first warms up
            cpu, began_s, busy = cpu_s(pid), time.monotonic(), _busy_s()
            found = list(pool.map(load, [port, port], [seconds_now, seconds_now]))
            spent_s = time.monotonic() - began_s
        answers = sum(one for one, _ in found)
        return {
            "workers": workers,
            "requests_per_s": answers / spent_s,
            "cpu_us_per_request": (cpu_s(pid) - cpu) / answers * 1e6,
            "used": (_busy_s() - busy) / spent_s / len(CORES),
            "failures": sum(failed for _, failed in found),
        }


def _busy_s() -> float:
    """Seconds that the cores here were not idle, by everything that runs."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name[3:].isdigit() and name.startswith("cpu") and int(name[3:]) in CORES:
            spent = [int(one) for one in counts[:8]]
            busy += sum(spent) - spent[3] - spent[4]
    return busy / ticks


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__)
    parser.add_argument("--most", type=int, default=max(2, len(CORES)), help="workers, at the end")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--redis", default="", metavar="URL")
    options = parser.parse_args()
    for number in range(options.rounds):
        for workers in range(1, options.most + 1):
            row = measured(workers, options.seconds, options.redis)
            print(
                f"round {number + 1}: {row['workers']} workers  {row['requests_per_s']:7.0f} requests/s  "
                f"CPU {row['cpu_us_per_request']:.0f} us a request  {row['used']:.0%} of {len(CORES)} cores  "
                f"{row['failures']} failures",
                flush=True,
            )


if __name__ == "__main__":
    main()
