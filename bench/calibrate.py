"""Measures a real vLLM server for the simulator: ``python -m bench.calibrate --url URL --model NAME``.

Prefill time over prompt lengths (cold), time to first token with a warm prefix, and the time of one decode
step over batch sizes; prints the constants of ``routing.simulator.Engine`` fitted to them. The least of
several runs counts, because other work on the machine only ever adds time. Prompts are random token ids, so
that nothing of them is cached.
"""

import argparse
import asyncio
import datetime
import itertools
import json
import platform
import random
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np

PROMPTS_TOKENS = (32, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8, 16)
DECODED_TOKENS = 40


class Server:
    """The server under test."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self._session, self._url, self._model = session, url, model
        self._draw = random.Random(time.time_ns())

    def prompt(self, tokens: int) -> list[int]:
        """Random token ids."""
        return [self._draw.randrange(100, 20_000) for _ in range(tokens)]

    async def chunks(self, prompt: list[int], max_tokens: int) -> AsyncIterator[float]:
        """Give the time of each chunk that bears a token."""
        body: dict[str, Any] = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens}
        body |= {"stream": True, "ignore_eos": True, "temperature": 0.0}
        async with self._session.post(f"{self._url}/v1/completions", json=body) as reply:
            reply.raise_for_status()
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    yield time.perf_counter()

    async def first_s(self, prompt: list[int]) -> float:
        """Seconds to the first token."""
        began_s = time.perf_counter()
        times = [at_s async for at_s in self.chunks(prompt, 1)]
        return times[0] - began_s

    async def step_s(self, batch: int) -> float:
        """Median seconds between two tokens of a stream, with so many streams at once."""

        async def one() -> list[float]:
            times = [at_s async for at_s in self.chunks(self.prompt(16), DECODED_TOKENS)]
            return [later - earlier for earlier, later in itertools.pairwise(times)]

        gaps = await asyncio.gather(*(one() for _ in range(batch)))
        return statistics.median(gap for stream in gaps for gap in stream[5:-5])


async def measure(url: str, model: str, rounds: int) -> dict[str, Any]:
    """Measure everything ``rounds`` times; seconds."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
        server = Server(session, url, model)
        await server.first_s(server.prompt(64))
        prefill, warm, decode = {}, {}, {}
        for tokens in PROMPTS_TOKENS:
            prompts = [server.prompt(tokens) for _ in range(rounds)]
            prefill[tokens] = min([await server.first_s(prompt) for prompt in prompts])
            warm[tokens] = min([await server.first_s(prompt) for prompt in prompts])
        for batch in BATCHES:
            decode[batch] = min([await server.step_s(batch) for _ in range(rounds)])
    return {"prefill_s": prefill, "warm_s": warm, "decode_step_s": decode}


def fitted(found: dict[str, Any]) -> dict[str, float]:
    """Least squares: a prefill is linear in its tokens and their square, a decode step in its batch."""
    tokens = np.array(list(found["prefill_s"]), float)
    times = np.array(list(found["prefill_s"].values()))
    design = np.stack([np.ones_like(tokens), tokens, tokens**2], axis=1) / times[:, None]
    overhead_s, per_token_s, per_square_s = np.linalg.lstsq(design, np.ones_like(times), rcond=None)[0]
    sizes = np.array(list(found["decode_step_s"]), float)
    steps = np.array(list(found["decode_step_s"].values()))
    decode = np.stack([np.ones_like(sizes), sizes], axis=1) / steps[:, None]
    step_s, per_stream_s = np.linalg.lstsq(decode, np.ones_like(steps), rcond=None)[0]
    return {
        "prefill_overhead_s": overhead_s,
        "prefill_token_s": per_token_s,
        "prefill_square_s": per_square_s,
        "step_s": step_s,
        "decode_stream_s": per_stream_s,
    }


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the server's root")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = asyncio.run(measure(options.url, options.model, options.rounds))
    where = {"date": datetime.date.today().isoformat(), "machine": platform.processor() or platform.machine()}
    print(json.dumps({**where, **found, "fitted": fitted(found)}, indent=2))


if __name__ == "__main__":
    main()
