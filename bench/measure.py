"""One run: everything started, the rows measured in turn, round by round."""

import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench import load
from bench.contenders import KEY, Contender
from bench.house import request
from bench.processes import cpu_s, free_port, rss_mib, started, wait_for

ADDED = ("p50_us", "p99_us", "ttft_p50_us", "ttft_p99_us")


def body(model: str, *, stream: bool, mark: str) -> dict[str, Any]:
    """Build the body of one chat request."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": f"Tell me something short about number {mark}."},
    ]
    fields: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 128, "temperature": 0.7}
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields


class Row:
    """One contender at work."""

    def __init__(self, contender: Contender, port: int, pid: int | None, start_s: float | None) -> None:
        self.contender, self.port, self.pid, self.start_s = contender, port, pid, start_s
        self.rounds: list[dict[str, float]] = []
        self._marks = itertools.count()

    def next_request(self, *, stream: bool) -> Callable[[], bytes]:
        """Give requests that differ, or always the same one."""
        one = self.contender
        if one.repeat:
            same = request(self.port, body(one.model, stream=stream, mark="one"))
            return lambda: same
        return lambda: request(
            self.port, body(one.model, stream=stream, mark=f"{one.name}{next(self._marks)}")
        )

    async def warm(self) -> None:
        """Let it make its connections and fill its caches."""
        for stream in (False, True):
            await load.run(self.port, self.next_request(stream=stream), 8, 0.5)

    async def measure(self, seconds: float) -> None:
        """Measure one round: one connection, many, and paced streams."""
        found: dict[str, float] = {}
        one = await load.run(self.port, self.next_request(stream=False), 1, seconds / 2)
        found["p50_us"], found["p99_us"] = _quantiles_us(one.latencies_s)
        before_s, began_s = self._cpu_s(), time.monotonic()
        many = await load.run(self.port, self.next_request(stream=False), 64, seconds)
        found["requests_per_s"] = len(many.latencies_s) / (time.monotonic() - began_s)
        found["cpu_us_per_request"] = (self._cpu_s() - before_s) * 1e6 / max(1, len(many.latencies_s))
        before_s = self._cpu_s()
        streams = await load.run(self.port, self.next_request(stream=True), 8, seconds)
        found["cpu_us_per_chunk"] = (self._cpu_s() - before_s) * 1e6 / max(1, streams.events)
        found["ttft_p50_us"], found["ttft_p99_us"] = _quantiles_us(streams.first_s)
        found["failures"] = one.failures + many.failures + streams.failures
        self.rounds.append(found)

    def result(self) -> dict[str, Any]:
        """The median of each figure; memory is taken now."""
        figures: dict[str, Any] = {
            name: round(statistics.median(one[name] for one in self.rounds), 1) for name in self.rounds[0]
        }
        if self.pid is None:
            del figures["cpu_us_per_request"], figures["cpu_us_per_chunk"]
            return figures
        figures["rss_mib"] = round(rss_mib(self.pid), 1)
        if self.start_s is not None:
            figures["start_s"] = round(self.start_s, 2)
        return figures

    def _cpu_s(self) -> float:
        return 0.0 if self.pid is None else cpu_s(self.pid)


def _quantiles_us(values_s: list[float]) -> tuple[float, float]:
    if len(values_s) < 2:
        return 0.0, 0.0
    cuts = statistics.quantiles(values_s, n=100)
    return cuts[49] * 1e6, cuts[98] * 1e6


class Bench:
    """Upstream, sink and contenders under way; the load is this process, on the first core."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {self.cores[0]})
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.upstream, self.sink = (self._serve(name) for name in ("upstream", "sink"))

    def _serve(self, name: str) -> int:
        port, folder = free_port(), self.folder / name
        folder.mkdir()
        command = [sys.executable, "-m", f"bench.{name}", str(port)]
        self._stack.enter_context(started(command, self.cores[0], {}, folder))
        wait_for(f"http://127.0.0.1:{port}/health", folder)
        return port

    def start(self, contender: Contender, *, environ: dict[str, str] | None = None) -> Row:
        """Start a contender on the last core and wait for its first answer."""
        if not contender.command:
            return Row(contender, self.upstream, None, None)
        port, folder = free_port(), self.folder / f"{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        names = {
            "port": str(port),
            "upstream": f"http://127.0.0.1:{self.upstream}",
            "address": f"127.0.0.1:{self.upstream}",
            "sink": f"http://127.0.0.1:{self.sink}",
            "folder": str(folder),
            "key": KEY,
        }
        for name, text in contender.files.items():
            (folder / name).write_text(text.format(**names))
        command = [word.format(**names) for word in contender.command]
        own = {name: value.format(**names) for name, value in contender.environ.items()}
        own = {"BENCH_KEY": KEY, **own, **(environ or {})}
        pid = self._stack.enter_context(started(command, self.cores[-1], own, folder))
        first = json.dumps(body(contender.model, stream=False, mark="0")).encode()
        start_s = wait_for(f"http://127.0.0.1:{port}/v1/chat/completions", folder, first, KEY)
        return Row(contender, port, pid, start_s)


def measure_all(contenders: Sequence[Contender], rounds: int, seconds: float) -> dict[str, Any]:
    """Measure everything that can run here."""
    with ExitStack() as stack:
        bench = Bench(stack)
        rows: dict[str, Row] = {}
        for one in contenders:
            if one.missing:
                continue
            print(f"bench: starting {one.name}", file=sys.stderr)
            if one.shares:
                rows[one.name] = Row(one, rows[one.shares].port, rows[one.shares].pid, None)
            else:
                rows[one.name] = bench.start(one)
            uvloop.run(rows[one.name].warm())
        for number in range(rounds):
            for row in rows.values():
                print(f"bench: round {number + 1} of {rounds}: {row.contender.name}", file=sys.stderr)
                uvloop.run(row.measure(seconds))
        figures = {
            one.name: {"missing": one.missing} if one.missing else rows[one.name].result()
            for one in contenders
        }
    _add_differences(figures)
    return {
        "taken": datetime.date.today().isoformat(),
        "machine": f"{_processor()}, {len(bench.cores)} cores, {platform.system()} {platform.release()}",
        "versions": _versions(),
        "repeat": f"make bench ARGS='--rounds {rounds} --seconds {seconds:g}'",
        "rows": figures,
    }


def _add_differences(figures: dict[str, dict[str, Any]]) -> None:
    """Add what each row adds to calling the upstream directly."""
    direct = figures["direct"]
    for name, row in figures.items():
        if name != "direct" and "missing" not in row:
            row |= {f"added_{column}": round(row[column] - direct[column], 1) for column in ADDED}


def _versions() -> dict[str, str]:
    packages = {
        name: importlib.metadata.version(name) for name in ("uvicorn", "uvloop", "httptools", "aiohttp")
    }
    git = ["git", "rev-parse", "--short", "HEAD"]
    told = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    commit = told.stdout.strip() or "unknown"
    return {"switchgear": commit, "python": platform.python_version(), **packages}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
