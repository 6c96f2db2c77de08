"""python -m bench.lookups --sizes 1000 100000: what a look-up among many texts costs, and what it misses.

Texts in one scope are made of clusters, ten to each, as questions are; asked are texts near them. Figures are
CPU of this process: to take a text in, to search, to search all rows, and how many of the 48 nearest, and of
the very nearest, the search gives; memory is what the process grew by.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semantic_cache.judge import NEIGHBOURS
from semantic_cache.stores.base import Alias
from semantic_cache.stores.index import MemoryIndex

Vectors = NDArray[np.float32]
_DIMENSIONS, _ASKED, _SCOPE = 256, 200, b"scope"


def made(count: int, chance: np.random.Generator) -> Vectors:
    """Give unit vectors (count, d)."""
    centres = chance.normal(size=(max(1, count // 10), _DIMENSIONS)).astype(np.float32)
    rows = centres[chance.integers(0, len(centres), count)]
    rows += 0.7 * chance.normal(size=rows.shape).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def resident_bytes() -> int:
    """Give the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def spent_us(steps: Sequence[Callable[[], Awaitable[object]]]) -> tuple[float, list[object]]:
    """Run; gives CPU microseconds of each, and what came out."""
    began_s = time.process_time()
    out = [await step() for step in steps]
    return (time.process_time() - began_s) / len(steps) * 1e6, out


async def measure(count: int) -> str:
    """Give one row of the table."""
    chance = np.random.default_rng(count)
    vectors, before = made(count, chance), resident_bytes()
    index = MemoryIndex(count)
    began_s = time.process_time()
    for row, vector in enumerate(vectors):
        alias = Alias(
            id=str(row), answer=str(row // 3), text=f"text {row}", vector=vector.copy(), owner="", worth=1.0,
            stored_s=0.0, expires_s=1e12,
        )  # fmt: skip
        await index.add(_SCOPE, alias)
    added_us, grown = (time.process_time() - began_s) / count * 1e6, resident_bytes() - before
    asked = vectors[chance.integers(0, count, _ASKED)]
    asked = asked + 0.02 * chance.normal(size=asked.shape).astype(np.float32)
    steps = [lambda one=one: index.near(_SCOPE, one, NEIGHBOURS, 0.0) for one in asked]
    near_us, found = await spent_us(steps)
    every = [set(np.argpartition(-(vectors @ one), NEIGHBOURS)[:NEIGHBOURS].tolist()) for one in asked]
    first = [int(np.argmax(vectors @ one)) for one in asked]
    ids = [[int(one.id) for one in near] for near in found]  # type: ignore[attr-defined]  # lists of aliases
    recall = np.mean([len(truth & set(got)) / NEIGHBOURS for truth, got in zip(every, ids, strict=True)])
    top = np.mean([got[0] == truth for truth, got in zip(first, ids, strict=True)])
    cells = f"{count:,} | {added_us:.0f} | {near_us:.0f} | {recall:.3f} | {top:.3f} | {grown / 2**20:.0f}"
    return f"| {cells} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.lookups", description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 100_000])
    options = parser.parse_args()
    print("| texts | us to add | us to search | recall of 48 | recall of the nearest | MiB |")
    print("|---" * 6 + "|")
    for size in options.sizes:
        print(asyncio.run(measure(size)), flush=True)


if __name__ == "__main__":
    main()
