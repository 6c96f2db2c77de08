"""python -m bench.hits: what a cached answer costs beside one that comes from upstream.

One gateway with both tiers on, before an upstream that answers at once: so what hits save is least here. In
turn, round by round: past the cache, a miss that is looked up in both tiers, an exact hit, and questions of
ever other words that likeness answers, all but those that are audited or missed. It has been asked about
the same things in other words before, until it serves. One client, then 32. CPU is that of the gateway.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from backends.engines import ENGINES
from backends.engines.environment import variables
from backends.engines.profile import LaunchContext, LaunchProfile
from bench import load
from bench.house import gateway, request
from bench.processes import ROOT, cpu_s, free_port, started, wait_for

CLIENTS = (1, 32)
CACHE = "exact_ttl_s = 3600\nsemantic = { error_bound = 0.1, precision = 0.8 }"
MODEL = """
[[models]]
name = "m"
price = {{ input = 0.05, output = 0.20 }}
[[models.replicas]]
url = "http://127.0.0.1:{upstream}/v1"
"""
EMBED = """
[[models]]
name = "embed"
kind = "embedding"
price = {{ input = 0.01 }}
[[models.replicas]]
url = "http://127.0.0.1:{port}/v1"
"""
THINGS = (
    "door",
    "lamp",
    "chair",
    "window",
    "table",
    "carpet",
    "shelf",
    "mirror",
    "clock",
    "stove",
    "sofa",
    "boat",
)
FORMS = ("How do I clean the {}", "how can i clean a {}", "the best way to clean the {}", "wash the {}")
LETTERS = str.maketrans("0123456789", "abcdefghij")  # long numbers are not looked up by likeness
_TAUGHT = 60  # rounds of questions


def question(number: int) -> str:
    """Give a question that was not asked before, about one of the things."""
    thing, form = THINGS[number % len(THINGS)], FORMS[number // len(THINGS) % len(FORMS)]
    return f"{form.format(thing)} of {str(number).translate(LETTERS)}"


def asked(port: int, kind: str) -> Callable[[], bytes]:
    """Give the requests of a row."""

    def body(text: str) -> dict[str, object]:
        return {"model": "m", "messages": [{"role": "user", "content": text}]}

    numbers = itertools.count(int(time.monotonic_ns()) // 1000)
    if kind == "past the cache":
        return lambda: request(port, body(question(next(numbers))), header="x-switchgear-cache: bypass")
    if kind == "exact hits":
        same = request(port, body("How do I clean the door?"))
        return lambda: same
    if kind == "misses":  # of ever another scope: nothing is near
        return lambda: request(port, body(question(next(numbers))) | {"seed": next(numbers)})
    return lambda: request(port, body(question(next(numbers))))


def counts(port: int) -> dict[str, float]:
    """Give how many requests there were, by what the cache did."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith("switchgear_requests_total{"):
            name = line.partition('cache="')[2].partition('"')[0]
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    return found


async def measure(port: int, pid: int, kind: str, clients: int, seconds: float) -> tuple[float, ...]:
    """Give requests a second, p50 ms, CPU us for each, and the share of hits by likeness in them."""
    before, before_s, began_s = counts(port), cpu_s(pid), time.monotonic()
    found = await load.run(port, asked(port, kind), clients, seconds)
    took_s, spent_s, after = time.monotonic() - began_s, cpu_s(pid) - before_s, counts(port)
    if found.failures:
        raise SystemExit(f"bench: {found.failures} requests failed")
    count = len(found.latencies_s)
    near = after.get("hit-semantic", 0.0) - before.get("hit-semantic", 0.0)
    return count / took_s, statistics.median(found.latencies_s) * 1e3, spent_s * 1e6 / count, near / count


async def teach(port: int) -> None:
    """Ask slowly enough that each answer is learned from, until most come from the cache."""
    for _ in range(_TAUGHT):
        before = counts(port)
        tally = await load.run(port, asked(port, "hits by likeness"), 1, 0.05)
        await asyncio.sleep(0.15)
        new = counts(port).get("hit-semantic", 0.0) - before.get("hit-semantic", 0.0)
        if new > 0.8 * len(tally.latencies_s):
            return
    raise SystemExit("bench: the semantic cache never opened")


def measured(port: int, pid: int, kinds: Sequence[str], rounds: int, seconds: float) -> Iterator[str]:
    """Give the lines of the table, each figure the median of the rounds."""
    runs = [
        {
            (kind, clients): uvloop.run(measure(port, pid, kind, clients, seconds))
            for kind in kinds
            for clients in CLIENTS
        }
        for _ in range(rounds)
    ]
    for kind, clients in runs[0]:
        columns = zip(*(run[kind, clients] for run in runs), strict=True)
        rate, p50_ms, cpu_us, near = map(statistics.median, columns)
        yield f"{kind} | {clients} | {rate:,.0f} | {p50_ms:.2f} | {cpu_us:.0f} | {near:.0%} |"


@contextmanager
def embedder(model: Path, python: Path, core: int, folder: Path) -> Iterator[str]:
    """Run a sentence-transformers child; gives its table of the configuration."""
    port = free_port()
    context = LaunchContext(python=str(python), port=port, served_name="embed", kind="embedding")
    profile = LaunchProfile(weights=str(model.absolute()), cpu_cores=(core,))
    command = ENGINES["local"].launch(profile, context)
    folder.mkdir()
    with started(list(command.argv), core, {**variables(python), **command.env}, folder):
        wait_for(f"http://127.0.0.1:{port}/health", folder)
        yield EMBED.format(port=port)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--model", type=Path, help="a sentence-transformers model: misses with its vectors, too"
    )
    parser.add_argument("--python", type=Path, default=ROOT / ".engine/bin/python", help="what runs it")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    print("| | clients | requests/s | p50 ms | CPU us/request | by likeness |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder, port = Path(root) / "upstream", free_port()
        folder.mkdir()
        stack.enter_context(
            started([sys.executable, "-m", "bench.upstream", str(port)], cores[0], {}, folder)
        )
        wait_for(f"http://127.0.0.1:{port}/health", folder)
        models = MODEL.format(upstream=port)
        with gateway(Path(root) / "gateway", cores[-1], models, cache=CACHE) as (own, pid):
            uvloop.run(teach(own))
            kinds = ("past the cache", "misses", "exact hits", "hits by likeness")
            for line in measured(own, pid, kinds, options.rounds, options.seconds):
                print(f"| {line}", flush=True)
        if options.model:
            models += stack.enter_context(
                embedder(options.model, options.python, cores[0], Path(root) / "embed")
            )
            cache = CACHE.replace("error_bound", 'embedding = "embed", error_bound')
            with gateway(Path(root) / "other", cores[-1], models, cache=cache) as (own, pid):
                for line in measured(own, pid, ("misses",), options.rounds, options.seconds):
                    print(f"| by MiniLM: {line}", flush=True)


if __name__ == "__main__":
    main()
