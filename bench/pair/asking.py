"""Asks a gateway every task in every way, and keeps what came back.

Ways take turns in rounds over a part of the tasks, so that other work on the machine falls on all alike.
Each way has a key of its own tenant: no engine's prefix cache helps the second one to ask.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from bench.pair.tasks import Task

AT_ONCE = 8
ROUNDS = 8
TIER = "x-switchgear-tier"


class Way(msgspec.Struct, frozen=True):
    """A way of asking: the model that is named, and the tier that is wished for, by task, where one is."""

    name: str
    model: str
    tiers: Mapping[str, str] = {}
    logprobs: bool = False


class Asked(msgspec.Struct, frozen=True):
    """One answer; ``logprob`` is the mean of its tokens', where it was asked for."""

    text: str
    model: str
    reason: str
    score: float | None
    cost_usd: float
    latency_s: float
    tokens: int
    logprob: float | None = None


def ways(tasks: Sequence[Task], share: float, seed: int) -> list[Way]:
    """Give the ways; at random exactly ``share`` of the tasks are for the large model."""
    chosen = set(random.Random(seed).sample([one.id for one in tasks], round(share * len(tasks))))
    return [
        Way("small", "small", logprobs=True),
        Way("large", "large"),
        Way("routed", "auto"),
        Way("random", "auto", {one.id: "large" if one.id in chosen else "small" for one in tasks}),
        Way("cascade", "cascade"),
    ]


async def ask_all(
    url: str, keys: Mapping[str, str], ways: list[Way], order: Sequence[Task]
) -> AsyncIterator[dict[str, dict[str, Asked]]]:
    """Give after each round the answers so far, by way and task; ``keys`` are those of the ways.

    Ends the program at a failure.
    """
    found: dict[str, dict[str, Asked]] = {way.name: {} for way in ways}
    size = math.ceil(len(order) / ROUNDS)
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(600)) as session:
        for number in range(ROUNDS):
            part = order[number * size : (number + 1) * size]
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                room = asyncio.Semaphore(AT_ONCE)
                answers = await asyncio.gather(
                    *(_ask(session, room, keys[way.name], way, one) for one in part)
                )
                found[way.name].update(zip([one.id for one in part], answers, strict=True))
                print(f"round {number + 1} of {ROUNDS}: {way.name}", flush=True)
            yield found


async def _ask(
    session: aiohttp.ClientSession, room: asyncio.Semaphore, key: str, way: Way, task: Task
) -> Asked:
    body: dict[str, Any] = {
        "model": way.model,
        "messages": [{"role": "user", "content": task.prompt}],
        "temperature": 0,
        "max_tokens": task.max_tokens,
    }
    if way.logprobs:
        body["logprobs"] = True
    headers = {"authorization": f"Bearer {key}", "x-switchgear-cache": "bypass"}
    if task.id in way.tiers:
        headers[TIER] = way.tiers[task.id]
    async with room:
        began_s = time.perf_counter()
        async with session.post("/v1/chat/completions", json=body, headers=headers) as reply:
            if reply.status != 200:
                raise SystemExit(f"bench: {way.name}, {task.id}: {reply.status} {await reply.text()}")
            said = await reply.json()
            return _asked(said, reply.headers, time.perf_counter() - began_s)


def _asked(said: dict[str, Any], headers: Mapping[str, str], latency_s: float) -> Asked:
    choice = said["choices"][0]
    told = [one["logprob"] for one in (choice.get("logprobs") or {}).get("content") or ()]
    score = headers.get("x-switchgear-score")
    return Asked(
        text=choice["message"]["content"] or "",
        model=headers["x-switchgear-model"],
        reason=headers.get("x-switchgear-reason", ""),
        score=float(score) if score else None,
        cost_usd=float(headers["x-switchgear-cost-usd"]),
        latency_s=latency_s,
        tokens=said["usage"]["completion_tokens"],
        logprob=sum(told) / len(told) if told else None,
    )
