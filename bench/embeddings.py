"""Joined embeddings: ``python -m bench.embeddings --model DIR --python PYTHON [--engine vllm]``.

An engine, and one gateway before it that joins (``batch_window_ms = 3``) beside one that does not;
one client, then 32 at once, each with a short text of its own; the median of the rounds.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop

from backends.engines import ENGINES
from backends.engines.environment import variables
from backends.engines.profile import LaunchContext, LaunchProfile
from bench import load
from bench.house import gateway, request
from bench.processes import cpu_s, free_port, started, wait_for

CLIENTS = 32
MODEL = """
[[models]]
name = "embed"
kind = "embedding"
price = {{ input = 0.01 }}
{window}
[[models.replicas]]
url = "http://127.0.0.1:{upstream}/v1"
"""


def requests(port: int) -> Callable[[], bytes]:
    """Give requests that differ."""
    marks = itertools.count()

    def make() -> bytes:
        text = f"A short sentence about number {next(marks)}, to be embedded."
        body = {"model": "embed", "input": text, "encoding_format": "base64"}
        return request(port, body, path="embeddings")

    return make


async def measure(port: int, pids: tuple[int, int], clients: int, seconds: float) -> tuple[float, ...]:
    """Give requests a second, p50 and p99 in ms, CPU us for each request of the gateway and of the engine."""
    before_s, began_s = [cpu_s(pid) for pid in pids], time.monotonic()
    found = await load.run(port, requests(port), clients, seconds)
    count = len(found.latencies_s)
    if found.failures or count < 2:
        raise SystemExit(f"bench: {found.failures} requests failed, {count} were served")
    cuts = statistics.quantiles(found.latencies_s, n=100)
    took_s = time.monotonic() - began_s
    cpu_us = [(cpu_s(pid) - was_s) * 1e6 / count for pid, was_s in zip(pids, before_s, strict=True)]
    return count / took_s, cuts[49] * 1e3, cuts[98] * 1e3, *cpu_us


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a sentence-transformers model")
    parser.add_argument("--python", type=Path, required=True, help="the engine environment's")
    parser.add_argument("--engine", choices=("local", "vllm"), default="local")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        port = free_port()
        context = LaunchContext(python=str(options.python), port=port, served_name="embed", kind="embedding")
        command = ENGINES[options.engine].launch(
            LaunchProfile(weights=str(options.model.absolute()), cpu_cores=(cores[0],)), context
        )
        child = {**variables(options.python), **command.env}
        own_folder = Path(folder) / "engine"
        own_folder.mkdir()
        engine = stack.enter_context(started(list(command.argv), cores[0], child, own_folder))
        rows = {"direct": (port, (engine, engine))}
        wait_for(f"http://127.0.0.1:{port}/health", own_folder)
        for name, window in (("gateway", ""), ("gateway, joined", "batch_window_ms = 3")):
            joins = MODEL.format(window=window, upstream=port)
            own, pid = stack.enter_context(gateway(Path(folder) / name, cores[-1], joins))
            rows[name] = own, (pid, engine)
        print("| | clients | requests/s | p50 ms | p99 ms | CPU us/request | of the engine |")
        print("|---" * 7 + "|")
        for clients in (1, CLIENTS):
            rounds = [
                {name: uvloop.run(measure(*where, clients, options.seconds)) for name, where in rows.items()}
                for _ in range(options.rounds)
            ]
            for name in rows:
                columns = zip(*(one[name] for one in rounds), strict=True)
                figures = (f"{statistics.median(column):.1f}" for column in columns)
                print(f"| {name} | {clients} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
