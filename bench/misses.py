"""python -m bench.misses --texts FOLDER: what looking a question up in vain adds to a request.

Two gateways before an upstream that answers at once, each question with an answer of its own (60 words): one
keeps exact answers only, the other has the semantic tier with the static embedding too, and so many real
questions kept in it at the start. Both are asked the same real questions, each once, in turn, round by round.
CPU is that of the gateway, all that it does beside the request included (learning from what it was answered);
time is what one client waits for. Medians of the rounds; the third figure is what the semantic tier adds.
"""

import argparse
import asyncio
import gzip
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import uvloop

from bench import load
from bench.hits import MODEL, counts
from bench.house import gateway, request
from bench.processes import cpu_s, free_port, started, wait_for
from bench.upstream import Upstream
from gateway.embeddings import reader
from gateway.likeness import Compared
from routing.embedding import WEIGHTS
from semantic_cache import saving
from semantic_cache.cache import Asked, SemanticCache
from semantic_cache.ledger import Bounds
from semantic_cache.policy import exact_key
from semantic_cache.stores.base import Entry
from semantic_cache.stores.index import MemoryIndex
from semantic_cache.stores.memory import MemoryStore

EXACT = "exact_ttl_s = 3600"
BOTH = f"{EXACT}\nsemantic = {{ error_bound = 0.01 }}"
_CLIENTS = (1, 32)
_LIVES_S = 86_400.0
_ANSWER_WORDS = 60


@cache
def vocabulary() -> list[str]:
    """Give common words, as answers are made of them."""
    pieces = (WEIGHTS / "vocabulary.txt").read_text(encoding="utf-8").split()
    return [piece for piece in pieces if piece.isalpha() and len(piece) > 2][:4_000]


def answer(asked: bytes) -> bytes:
    """Give the answer to a question: words that hang on it."""
    words = random.Random(zlib.crc32(asked)).choices(vocabulary(), k=_ANSWER_WORDS)
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 80, "total_tokens": 92}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps({**body, "usage": usage}).encode()


class Answering(Upstream):
    """Gives every question an answer of its own."""

    def data_received(self, data: bytes) -> None:
        """Answer a request; those of the bench are small and come whole."""
        said = b"{}" if data.startswith(b"GET") else answer(data.partition(b"\r\n\r\n")[2])
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
        self._transport.write(head.encode() + said)


def questions(folder: Path) -> list[str]:
    """Give all different questions of the streams of a folder, shuffled."""
    texts = set[str]()
    for path in folder.glob("*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts |= {json.loads(line)["text"] for line in lines}
    found = sorted(texts)
    random.Random(1).shuffle(found)
    return found


def asked(port: int, texts: Sequence[str]) -> Callable[[], bytes]:
    """Give requests with one question after the other; from the second time on each is another one."""
    turns = (
        text if not turn else f"{text} {'again ' * turn}" for turn in itertools.count() for text in texts
    )
    return lambda: request(port, {"model": "m", "messages": [{"role": "user", "content": next(turns)}]})


async def measure(
    port: int, pid: int, next_request: Callable[[], bytes], clients: int, seconds: float
) -> Any:
    """Give CPU us a request, p50 us, and the share of hits by likeness."""
    before, before_s = counts(port), cpu_s(pid)
    found = await load.run(port, next_request, clients, seconds)
    spent_s, after = cpu_s(pid) - before_s, counts(port)
    if found.failures:
        raise SystemExit(f"bench: {found.failures} requests failed")
    near = after.get("hit-semantic", 0.0) - before.get("hit-semantic", 0.0)
    count = len(found.latencies_s)
    return spent_s * 1e6 / count, statistics.median(found.latencies_s) * 1e6, near / count


async def taught(scope: bytes, route: str, texts: Sequence[str]) -> list[bytes]:
    """Give the frames of a semantic tier that has been asked these texts, each with an answer of its own."""
    tier = SemanticCache(MemoryStore(1 << 40), MemoryIndex(1 << 40), reader(), lambda: 0.99, Compared())
    tier.adopt(Bounds(error=0.01))
    now_s = time.time()
    for text in texts:
        found = await tier.look_up(Asked(route, scope, text, "", _LIVES_S), now_s)
        if found.entry is None:
            key = exact_key("", "", scope + text.encode())
            entry = Entry(
                id=key.hex()[:24], tenant="", model="m", body=answer(text.encode()), prompt_tokens=12,
                cached_tokens=0, completion_tokens=80, stored_s=now_s, expires_s=now_s + _LIVES_S,
            )  # fmt: skip
            tier.offer(found, key, entry, 1.0)
            await tier.settle()
    return [frame async for frame in tier.frames()]


def prepare(folder: Path, models: str, core: int, texts: Sequence[str]) -> None:
    """Leave a gateway's state in a folder, with so many texts kept."""
    with gateway(folder, core, models, cache=BOTH) as (port, _):
        uvloop.run(load.run(port, asked(port, texts[:1]), 1, 0.0))
        time.sleep(1.0)  # it learns every quarter of a second
    (first,) = [frame for frame in saving.read(folder / "semantic.cache") if isinstance(frame, saving.Text)]
    (route,) = [
        frame.route for frame in saving.read(folder / "semantic.cache") if isinstance(frame, saving.Learned)
    ]
    saving.write(folder / "semantic.cache", asyncio.run(taught(first.scope, route, texts)))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.misses", description=__doc__)
    parser.add_argument(
        "--texts", type=Path, required=True, help="a folder with *.jsonl.gz, each line with a text"
    )
    parser.add_argument("--kept", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores, texts = sorted(os.sched_getaffinity(0)), questions(options.texts)
    os.sched_setaffinity(0, {cores[0]})
    print(
        "| kept | clients | CPU us/request: exact tier, both, more | p50 us: exact, both, more | hits |\n"
        + "|---" * 5
        + "|"
    )
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder, upstream = Path(root) / "upstream", free_port()
        folder.mkdir()
        command = [sys.executable, "-m", "bench.misses", "--texts", ".", "--upstream", str(upstream)]
        stack.enter_context(started(command, cores[0], {}, folder))
        wait_for(f"http://127.0.0.1:{upstream}/health", folder)
        models = MODEL.format(upstream=upstream)
        for count in options.kept:
            home = Path(root) / f"both-{count}"
            prepare(home, models, cores[-1], texts[-count:])
            with (
                gateway(Path(root) / f"exact-{count}", cores[-1], models, cache=EXACT) as exact,
                gateway(home, cores[-1], models, cache=BOTH) as both,
            ):
                for line in measured((exact, both), texts[:-count], options.rounds, options.seconds):
                    print(f"| {count:,} {line} |", flush=True)


def measured(
    gateways: Sequence[tuple[int, int]], texts: Sequence[str], rounds: int, seconds: float
) -> Iterator[str]:
    """Give the lines of the table."""
    feeds = [asked(port, texts) for port, _ in gateways]
    for clients in _CLIENTS:
        runs = [
            [
                uvloop.run(measure(*one, feed, clients, seconds))
                for one, feed in zip(gateways, feeds, strict=True)
            ]
            for _ in range(rounds)
        ]
        cells = []
        for column in (0, 1):
            exact, both = (statistics.median(run[n][column] for run in runs) for n in (0, 1))
            cells.append(f"{exact:.0f}, {both:.0f}, {both - exact:.0f}")
        near = statistics.median(run[1][2] for run in runs)
        yield f"| {clients} | {' | '.join(cells)} | {near:.1%}"


async def serve(port: int) -> None:
    """Be the upstream until killed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    if "--upstream" in sys.argv:
        uvloop.run(serve(int(sys.argv[-1])))
    else:
        main()
