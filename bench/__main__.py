"""``make bench``: a table on stdout and ``bench/results.json``.

Every row is measured in the same run, the rows in turn in each round; a figure is the median of the rounds.
CPU is the gateway process's own accounting (user and system) over all completed requests or chunks, least
touched by other work on the machine. The gateway runs on the last core, load and upstream on the first.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench import load

ROOT = Path(__file__).parents[1]
KEY = "sk-bench"
CONFIG = """
[server]
port = {port}
state_dir = "{state}"
[database]
url = "sqlite:///{state}/bench.db"
[[models]]
name = "small"
upstream_model = "upstream"
price = {{ input = 0.05, cached_input = 0.01, output = 0.20 }}
[[models.replicas]]
url = "{upstream}/v1"
[[models]]
name = "large"
upstream_model = "upstream"
price = {{ input = 0.20, cached_input = 0.04, output = 0.80 }}
[[models.replicas]]
url = "{upstream}/v1"
[[routes]]
name = "auto"
tiers = ["small", "large"]
[[keys]]
name = "bench"
key_env = "BENCH_KEY"
rpm = 100000000
tpm = 100000000000
"""


def request(port: int, model: str, *, stream: bool, mark: str) -> bytes:
    """Build the bytes of one chat request."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"Tell me something short about number {mark}."},
    ]
    body = {"model": model, "messages": messages, "max_tokens": 128, "temperature": 0.7}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def cpu_s(pid: int | None) -> float:
    """User and system seconds that a process has used; 0 for none."""
    return (
        0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)
    )  # its CPU clock, see clock_getcpuclockid


def rss_mib(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], core: int, env: dict[str, str]) -> Iterator[int]:
    """Run a server on a core; ends it with the block."""

    def pin() -> None:
        os.sched_setaffinity(0, {core})

    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        preexec_fn=pin,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def wait_for(url: str, within_s: float = 60.0) -> float:
    """Wait until a URL answers 200; gives the seconds it took."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < within_s:
        try:
            with urllib.request.urlopen(url, timeout=1) as reply:
                if reply.status == 200:
                    return time.monotonic() - began_s
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"bench: {url} did not answer within {within_s:.0f} s")


class Row:
    """One thing that is measured."""

    def __init__(self, name: str, port: int, pid: int | None, model: str, *, repeat: bool = False) -> None:
        self.name, self.port, self.pid, self.model, self.repeat = name, port, pid, model, repeat
        self.rounds: list[dict[str, float]] = []
        self._marks = itertools.count()

    def next_request(self, *, stream: bool) -> Callable[[], bytes]:
        """Give requests that differ, or always the same one."""
        if self.repeat:
            same = request(self.port, self.model, stream=stream, mark="one")
            return lambda: same
        return lambda: request(self.port, self.model, stream=stream, mark=f"{self.name}{next(self._marks)}")

    async def measure(self, seconds: float) -> None:
        """Measure one round: one connection, many, and paced streams."""
        found: dict[str, float] = {}
        one = await load.run(self.port, self.next_request(stream=False), 1, seconds / 2)
        found["p50_us"], found["p99_us"] = _quantiles_us(one.latencies_s)
        before_s, began_s = cpu_s(self.pid), time.monotonic()
        many = await load.run(self.port, self.next_request(stream=False), 64, seconds)
        found["requests_per_s"] = len(many.latencies_s) / (time.monotonic() - began_s)
        found["cpu_us_per_request"] = (cpu_s(self.pid) - before_s) * 1e6 / max(1, len(many.latencies_s))
        before_s = cpu_s(self.pid)
        streams = await load.run(self.port, self.next_request(stream=True), 8, seconds)
        found["cpu_us_per_chunk"] = (cpu_s(self.pid) - before_s) * 1e6 / max(1, streams.events)
        found["ttft_p50_us"], found["ttft_p99_us"] = _quantiles_us(streams.first_s)
        found["failures"] = one.failures + many.failures + streams.failures
        self.rounds.append(found)

    def result(self) -> dict[str, Any]:
        """The median of each figure; memory is taken now."""
        figures: dict[str, Any] = {
            name: round(statistics.median(one[name] for one in self.rounds), 1) for name in self.rounds[0]
        }
        if self.pid is not None:
            figures["rss_mib"] = round(rss_mib(self.pid), 1)
        return figures


def _quantiles_us(values_s: list[float]) -> tuple[float, float]:
    if len(values_s) < 2:
        return 0.0, 0.0
    cuts = statistics.quantiles(values_s, n=100)
    return cuts[49] * 1e6, cuts[98] * 1e6


def measure_all(rounds: int, seconds: float) -> dict[str, Any]:
    """Start everything, measure all rows in turn, give the results."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        up, floor, own = free_port(), free_port(), free_port()
        upstream = f"http://127.0.0.1:{up}"
        stack.enter_context(started([python, "-m", "bench.upstream", str(up)], cores[0], {}))
        wait_for(f"{upstream}/health")
        uvicorn = [
            python,
            "-m",
            "uvicorn",
            "bench.floor:app",
            "--port",
            str(floor),
            "--log-level",
            "critical",
        ]
        options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"]
        reference = {"BENCH_KEY": KEY, "BENCH_UPSTREAM": upstream}
        floor_pid = stack.enter_context(started([*uvicorn, *options], cores[-1], reference))
        config = Path(folder) / "bench.toml"
        config.write_text(CONFIG.format(port=own, state=folder, upstream=upstream))
        serve = [str(Path(python).parent / "switchgear"), "serve", "--config", str(config)]
        own_pid = stack.enter_context(started(serve, cores[-1], {"BENCH_KEY": KEY}))
        start_s = wait_for(f"http://127.0.0.1:{own}/readyz")
        rows = [
            Row("direct", up, None, "upstream"),
            Row("floor: uvicorn, aiohttp, key check", floor, floor_pid, "upstream"),
            Row("switchgear, named model", own, own_pid, "small"),
            Row("switchgear, routed", own, own_pid, "auto"),
            Row("switchgear, exact hit", own, own_pid, "small", repeat=True),
        ]
        for number in range(rounds):
            for row in rows:
                print(f"bench: round {number + 1} of {rounds}: {row.name}", file=sys.stderr)
                uvloop.run(row.measure(seconds))
        return {
            "taken": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {len(cores)} cores, Python {platform.python_version()}",
            "rounds": rounds,
            "seconds": seconds,
            "start_s": round(start_s, 2),
            "rows": {row.name: row.result() for row in rows},
        }


def table(results: dict[str, Any]) -> str:
    """Render the results as a Markdown table."""
    columns = {
        "cpu_us_per_request": "CPU us/request",
        "cpu_us_per_chunk": "CPU us/paced chunk",
        "requests_per_s": "requests/s, c=64",
        "p50_us": "p50 us, c=1",
        "p99_us": "p99 us, c=1",
        "ttft_p50_us": "TTFT p50 us",
        "rss_mib": "RSS MiB",
        "failures": "failures",
    }
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in results["rows"].items():
        cells = [f"{figures[column]:,.0f}" if column in figures else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each phase")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results.json")
    options = parser.parse_args()
    results = measure_all(options.rounds, options.seconds)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{results['taken']}, {results['machine']}; gateway start {results['start_s']} s\n")
    print(table(results))


if __name__ == "__main__":
    main()
