"""Faults under load: ``python -m bench.faults``. Three replicas behind a gateway; what its clients see of it.

- Deaths: every ``PERIOD_S`` one of the three, in turn, refuses connections, breaks all that it was saying,
  and returns after ``DEAD_S``. Half of the clients stream; goodput is of answers that came whole.
- Hedging: one of the three begins each of its answers half a second late.

The replicas are the scripted ones of the tests, with ``TOKENS`` tokens of ``PACE_S`` each.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import load
from bench.house import gateway, request
from bench.processes import started
from tests.fakes.upstream import script

PERIOD_S, DEAD_S = 4.0, 2.0
TOKENS, PACE_S = 20, 0.02
CLIENTS = 12  # of each kind
DEATHS = {"as it is": "", "without second attempts": "max_attempts = 1"}
TURNS, HEDGE = 'policy = "round_robin"\n', "hedge = {{ after_ms = 100, budget = {} }}"
HEDGES = {
    "`round_robin`": TURNS,
    "`round_robin`, hedged, `budget = 0.1`": TURNS + HEDGE.format(0.1),
    "`round_robin`, hedged, `budget = 0.4`": TURNS + HEDGE.format(0.4),
    "`adaptive`": "",
    "`adaptive`, hedged, `budget = 0.1`": HEDGE.format(0.1),
}


class Replicas:
    """The scripted replicas and their control."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "output.txt").read_text())
        self.ports: list[int] = told["ports"]
        self._root = f"http://127.0.0.1:{told['control']}"

    def control(self, **wish: Any) -> None:
        """Make them do something."""
        request = urllib.request.Request(f"{self._root}/control", json.dumps(wish).encode())
        urllib.request.urlopen(request, timeout=10).close()

    def asked(self) -> int:
        """How many requests came since they were told to forget."""
        with urllib.request.urlopen(f"{self._root}/seen?tag=none", timeout=10) as reply:
            return int(json.load(reply)["total"])

    async def die_in_turn(self, until_s: float) -> None:
        """One dies and returns, then the next, as long as there is time."""
        for port in itertools.cycle(self.ports):
            if time.monotonic() + PERIOD_S > until_s:
                return
            await asyncio.sleep(PERIOD_S - DEAD_S)
            await asyncio.to_thread(self.control, refuse=port)
            await asyncio.sleep(DEAD_S)
            await asyncio.to_thread(self.control, listen=port)


def requests(port: int, *, streamed: bool) -> Callable[[], bytes]:
    """Give requests that differ."""
    marks = itertools.count()
    gap_s = PACE_S if streamed else PACE_S * TOKENS

    def make() -> bytes:
        prompt = script("ok", n=TOKENS, gap_s=gap_s, tag=f"{streamed}{next(marks)}")
        message = {"role": "user", "content": prompt}
        return request(port, {"model": "bench", "messages": [message], "stream": streamed})

    return make


@contextmanager
def replicas(folder: Path, core: int) -> Iterator[Replicas]:
    """Run the replicas."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.fakes.upstream", "--ports", "3"]
    with started(command, core, {}, folder):
        while not (folder / "output.txt").read_text().endswith("\n"):
            time.sleep(0.02)
        yield Replicas(folder)


def models(more: str, ports: list[int]) -> str:
    """Give the model of these replicas."""
    rows = "\n".join(f'[[models.replicas]]\nurl = "http://127.0.0.1:{one}/v1"' for one in ports)
    return f'[[models]]\nname = "bench"\nprice = {{ input = 0.05, output = 0.20 }}\n{more}\n{rows}'


async def deaths(port: int, behind: Replicas, seconds: float, *, dying: bool) -> list[str]:
    """Give goodput a second, the share that failed, p50 and p99 in ms, of streams and buffered answers."""
    until_s = time.monotonic() + (seconds if dying else 0.0)
    kinds = [load.run(port, requests(port, streamed=kind), CLIENTS, seconds) for kind in (True, False)]
    *found, _ = await asyncio.gather(*kinds, behind.die_in_turn(until_s))
    cells = []
    for tally in found:
        assert isinstance(tally, load.Tally)
        good, cuts = len(tally.latencies_s), statistics.quantiles(tally.latencies_s, n=100)
        failed = tally.failures / (good + tally.failures)
        cells += [f"{good / seconds:.1f}", f"{failed:.2%}", f"{cuts[49] * 1e3:.0f} / {cuts[98] * 1e3:.0f}"]
    return cells


async def hedged(port: int, behind: Replicas, seconds: float) -> list[str]:
    """Give p50, p90 and p99 of the time to the first byte in ms, and upstream requests for each one."""
    behind.control(forget=True)
    before = behind.asked()
    found = await load.run(port, requests(port, streamed=True), CLIENTS, seconds)
    cuts = statistics.quantiles(found.first_s, n=100)
    extra = (behind.asked() - before) / (len(found.first_s) + found.failures)
    return [*(f"{cuts[at] * 1e3:.0f}" for at in (49, 89, 98)), f"{extra:.2f}"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each row")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        behind = stack.enter_context(replicas(Path(home) / "replicas", cores[0]))
        print(
            "| | streams/s | failed | p50 / p99 ms | buffered/s | failed | p50 / p99 ms |\n"
            + "|---" * 7
            + "|"
        )
        for number, (name, more) in enumerate(DEATHS.items()):
            with gateway(Path(home) / f"deaths{number}", cores[-1], models(more, behind.ports)) as (port, _):
                for dying in (False, True) if not number else (True,):
                    cells = asyncio.run(deaths(port, behind, options.seconds, dying=dying))
                    title = f"one of three dies, {name}" if dying else "all well"
                    print(f"| {title} | {' | '.join(cells)} |", flush=True)
        behind.control(mood={"port": behind.ports[0], "fault": "late"})
        print("\n| | p50 | p90 | p99 of the first byte, ms | upstream requests each |\n" + "|---" * 5 + "|")
        for number, (name, more) in enumerate(HEDGES.items()):
            with gateway(Path(home) / f"hedges{number}", cores[-1], models(more, behind.ports)) as (port, _):
                cells = asyncio.run(hedged(port, behind, options.seconds / 2))
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
