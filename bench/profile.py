"""Where the CPU goes: a flame graph of the gateway under load, and the share of each step of the pipeline."""

import asyncio
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench import load
from bench.contenders import Contender
from bench.measure import Bench, Row
from bench.processes import cpu_s

# The frames that begin a step, innermost first: the first that a stack holds is whom its sample counts for.
STEPS = (
    ("traces (thread)", "_export (gateway/tracing.py"),
    ("traces (loop)", "(gateway/tracing.py"),
    ("journal to SQL (thread)", "(gateway/tenancy/ledger.py"),
    ("metrics", "observe (gateway/passage.py"),
    ("response headers", "_headers (gateway/pipeline.py"),
    ("authenticate", "authenticate (gateway/pipeline.py"),
    ("parse", "parse (gateway/openai/schemas.py"),
    ("admit", "admit (gateway/tenancy/billing.py"),
    ("settle", "settle (gateway/tenancy/billing.py"),
    ("exact cache", "_look_up (gateway/pipeline.py"),
    ("keep the answer", "_offer (gateway/pipeline.py"),
    ("classify", "choose (gateway/choosing.py"),
    ("queue and choice of replica", "(gateway/dispatcher.py"),
    ("upstream's answer read", "(gateway/openai/"),
    ("upstream client", "(backends/clients/"),
    ("attempts", "(gateway/attempts.py"),
    ("pipeline itself", "(gateway/pipeline.py"),
    ("exchange", "(gateway/api/"),
    ("HTTP server", "(gateway/wire.py"),
    ("HTTP server", "(uvicorn/"),
)
# Threads that wait, which py-spy takes for busy now and then.
IDLE = ("_worker (", "Condition.wait (")


def run(contender: Contender, seconds: float, out: Path) -> str:
    """Profile a contender under load; writes a flame graph (SVG) and gives a table of steps."""
    with ExitStack() as stack:
        row = Bench(stack).start(contender)
        assert row.pid is not None
        uvloop.run(row.warm())
        uvloop.run(_recorded(row, seconds, ["--format", "flamegraph", "--output", str(out)]))
        stacks = out.with_suffix(".txt")
        before_s = cpu_s(row.pid)
        requests = uvloop.run(
            _recorded(row, seconds, ["--format", "raw", "--full-filenames", "--output", str(stacks)])
        )
        us = (cpu_s(row.pid) - before_s) * 1e6 / max(1, requests)
        counts = shares(stacks.read_text())
        stacks.unlink()
    total = sum(counts.values()) or 1
    lines = [
        f"| step | share | CPU us / request of {us:.0f} (py-spy's own stops included) |",
        "|---|---|---|",
    ]
    lines += [f"| {step} | {n / total:.0%} | {us * n / total:.0f} |" for step, n in counts.most_common()]
    return "\n".join(lines)


async def _recorded(row: Row, seconds: float, options: list[str]) -> int:
    """Let py-spy watch while the load runs; gives the number of requests."""
    spy = [str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(row.pid), "--rate", "250"]
    spy += ["--duration", str(max(1, round(seconds)))]
    recorder = await asyncio.create_subprocess_exec(
        *spy, *options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    tally = await load.run(row.port, row.next_request(stream=False), 64, seconds + 1)
    _, said = await recorder.communicate()
    if recorder.returncode:
        raise SystemExit(f"bench: py-spy failed: {said.decode(errors='replace').strip()}")
    return len(tally.latencies_s)


def shares(stacks: str) -> Counter[str]:
    """Count collapsed stacks (``frame;frame count`` lines) by step."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if frames.rpartition(";")[2].startswith(IDLE):
            continue
        # /somewhere/gateway/x.py and /somewhere/site-packages/uvicorn/x.py: a part's name opens the bracket
        for part in ("gateway/", "backends/", "uvicorn/"):
            frames = _shortened(frames, part)
        step = next((name for name, mark in STEPS if mark in frames), "the loop and all else")
        found[step] += int(count)
    return found


def _shortened(frames: str, part: str) -> str:
    pieces = frames.split(";")
    return ";".join(
        f"{piece.partition(' (')[0]} ({part}{piece.rpartition('/' + part)[2]}"
        if f"/{part}" in piece
        else piece
        for piece in pieces
    )
