"""python -m bench.lookups: what a look-up among many texts of one scope costs, and what it misses.

Texts are unit vectors in clusters of fifty, asked are texts near some of them; with ``--texts FOLDER`` the
questions of the streams there are a row too, asked are some that were left out. From 200,000 texts in memory
on they are taken in as from a file. CPU is that of this process and of Redis, so it stays true on a busy
machine, where wall time does not. Recall is that of the 48 nearest and of the very nearest, by cosine; memory
is what the process that keeps the texts grew by. Each row is measured by a process of its own.
"""

import argparse
import asyncio
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.processes import cpu_s, redis_server, rss_mib
from routing.embedding import StaticEmbedder
from semantic_cache.judge import NEIGHBOURS
from semantic_cache.saving import Text
from semantic_cache.stores.base import Alias, Index
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.redis import Link, RedisIndex

Vectors = NDArray[np.float32]
_DIMENSIONS, _ASKED, _SCOPE = 256, 200, b"scope"
_CLUSTER, _NOISE, _NEAR = 50, 0.7, 0.3
_AT_ONCE_FROM = 200_000  # texts in memory that come as from a file, not one by one
COLUMNS = ("us CPU to add", "us CPU to search", "p50 us to search", "recall of 48", "of the nearest", "MiB")


def unit(rows: Vectors) -> Vectors:
    """Give rows of length one."""
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def made(count: int, chance: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Give vectors (count, d) and what is asked of them."""
    shape = (max(1, count // _CLUSTER), _DIMENSIONS)
    centres = chance.standard_normal(shape, np.float32)
    rows = centres[chance.integers(0, len(centres), count)]
    rows += np.float32(_NOISE) * chance.standard_normal(rows.shape, np.float32)
    asked = rows[chance.integers(0, count, _ASKED)]
    asked = asked + np.float32(_NEAR) * chance.standard_normal(asked.shape, np.float32)
    return unit(rows), unit(asked)


def real(folder: Path, chance: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Give the vectors of all questions of some streams, a few of them left out to be asked."""
    texts = set[str]()
    for path in folder.glob("*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts |= {json.loads(line)["text"] for line in lines}
    embed = StaticEmbedder.load().embed
    rows = chance.permutation(np.array([embed(text) for text in sorted(texts)], np.float32))
    return rows[_ASKED:], rows[:_ASKED]


async def timed(steps: Sequence[Callable[[], Awaitable[list[Alias]]]]) -> tuple[list[list[Alias]], float]:
    """Run; gives what came out and the median of the wall time in microseconds."""
    out, took = [], []
    for step in steps:
        began_s = time.perf_counter()
        out.append(await step())
        took.append(time.perf_counter() - began_s)
    return out, statistics.median(took) * 1e6


async def measure(index: Index, vectors: Vectors, asked: Vectors, keeper: int) -> list[str]:
    """Give the cells of one row; `keeper` is the process that keeps the texts."""
    pids = {os.getpid(), keeper}
    await index.near(_SCOPE, asked[0], NEIGHBOURS, 0.0)  # as a gateway does: asked first, then kept
    before_mib, before_s = rss_mib(keeper), sum(map(cpu_s, pids))
    at_once = len(vectors) >= _AT_ONCE_FROM
    for row, vector in enumerate(vectors):
        alias = Alias(
            id=str(row), answer=f"{row:064x}", text=f"How does one do thing {row}?", vector=vector.copy(),
            owner="", worth=1.0, stored_s=0.0, expires_s=1e9,
        )  # fmt: skip
        if at_once:
            index.resume(Text.of(_SCOPE, alias, row + 1))
        else:
            await index.add(_SCOPE, alias)
    if at_once:
        index.cover()
    added_us = (sum(map(cpu_s, pids)) - before_s) / len(vectors) * 1e6
    grown_mib = rss_mib(keeper) - before_mib
    steps = [lambda one=one: index.near(_SCOPE, one, NEIGHBOURS, 0.0) for one in asked]
    await timed(steps[:20])
    before_s = sum(map(cpu_s, pids))
    found, wall_us = await timed(steps)
    near_us = (sum(map(cpu_s, pids)) - before_s) / len(asked) * 1e6
    recalls, firsts = [], []
    for one, near in zip(asked, found, strict=True):
        cosines = vectors @ one
        least = np.partition(cosines, -NEIGHBOURS)[-NEIGHBOURS]
        got = [float(cosines[int(alias.id)]) for alias in near]
        recalls.append(sum(cosine >= least - 1e-6 for cosine in got) / NEIGHBOURS)
        firsts.append(got[0] >= cosines.max() - 1e-6)
    cells = [f"{added_us:.0f}", f"{near_us:.0f}", f"{wall_us:.0f}", f"{np.mean(recalls):.3f}"]
    return [*cells, f"{np.mean(firsts):.3f}", f"{grown_mib:.0f}"]


async def row(where: str, what: str) -> str:
    """Give a row of the table: `where` is memory or redis, `what` a number of texts or a folder."""
    chance = np.random.default_rng(1)
    vectors, asked = made(int(what), chance) if what.isdigit() else real(Path(what), chance)
    name = f"{where}, {len(vectors):,}{'' if what.isdigit() else ' real questions'}"
    if where == "memory":
        cells = await measure(MemoryIndex(len(vectors)), vectors, asked, os.getpid())
    else:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder), "bench") as (port, pid):
            link = Link(f"redis://127.0.0.1:{port}/0", "bench", 60.0)
            cells = await measure(RedisIndex(link, "bench"), vectors, asked, pid)
            assert not link.errors, link.errors
            await link.close()
    if not what.isdigit():
        cells[-1] = ""  # what reading the texts had taken is used again
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.lookups", description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=["1000", "10000", "100000"])
    parser.add_argument("--redis", nargs="*", default=["1000", "100000"], help="sizes in Redis")
    parser.add_argument("--texts", help="a folder with *.jsonl.gz, each line with a text")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(asyncio.run(row(*options.row)), flush=True)
        return
    print(f"| texts | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}", flush=True)
    wanted = [("memory", one) for one in options.sizes] + [("redis", one) for one in options.redis]
    if options.texts:
        wanted.insert(len(options.sizes), ("memory", options.texts))
    for one in wanted:
        subprocess.run([sys.executable, "-m", "bench.lookups", "--row", *one], check=True)


if __name__ == "__main__":
    main()
