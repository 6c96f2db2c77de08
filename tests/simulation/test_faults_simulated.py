"""Schedules of faults through the real pipeline, in virtual time; a seed is the whole reproduction.

Each world has a few replicas with moods, and clients that ask, leave, or have a deadline. Promised of all:
one settled entry for each accepted request, which bills what was delivered; no word lost or doubled; nothing
left open; a client's mistake asked once; retries within their budget; one error where there is no answer.
"""

import asyncio
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import app
from gateway.api.exchange import WIRE
from gateway.api.inference import handlers
from gateway.config_file import parse
from gateway.tenancy.journal import Accepted, Entry, read_lines
from gateway.tenancy.keys import bootstrap
from tests.fakes.fleet import Ask, Fleet, moods
from tests.fakes.loop import run
from tests.fakes.upstream import script, text

UNTIL_S = 25.0
HEALED_S = 35.0
MOST_WORDS = 12
CONFIG = """
[server]
state_dir = "{directory}/state"
heartbeat_after_s = {heartbeat_s}
[database]
url = "sqlite:///{directory}/db"
[cache]
exact_ttl_s = 0
[[models]]
name = "small"
price = {{ input = 1.0, output = 2.0 }}
first_byte_timeout_s = 3
stall_timeout_s = 2
queue_timeout_s = 20
max_attempts = {attempts}
{hedge}
{replicas}
[[keys]]
name = "test"
key_env = "KEY"
"""


class Client:
    """One client: what it asks, when it leaves, and what it got. A ``gateway.api.exchange.Wire``."""

    def __init__(self, draw: random.Random, number: int) -> None:
        self.tag, self.n = f"t{number}", draw.randrange(1, MOST_WORDS + 1)
        self.chat = draw.random() < 0.7
        self.stream = draw.random() < 0.8
        self.bad = draw.random() < 0.1
        self.most = draw.choice((None, None, draw.randrange(1, 14))) if self.stream else None
        self.at_s = draw.uniform(0.0, UNTIL_S)
        self.leaves_s = draw.uniform(0.0, 6.0) if draw.random() < 0.15 else None
        self.deadline_ms = draw.randrange(200, 8000) if draw.random() < 0.15 else None
        self.fields: dict[str, Any] = draw.choice(
            (
                {},
                {"temperature": 0},
                {"temperature": 0, "response_format": {"type": "json_object"}},
                {"temperature": 1, "response_format": {"type": "json_object"}},
                {"seed": 7, "presence_penalty": 1.0},
                {"return_token_ids": True},
            )
        )
        self.lags = draw.random() < 0.2
        self.status, self.head, self.body, self.ended = 0, b"", b"", False
        self._leave: Callable[[], None] = lambda: None
        self.task: asyncio.Task[None]

    def sent(self) -> bytes:
        plan = "400" if self.bad else "ok"
        prompt = script(plan, tag=self.tag, n=self.n)
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        more = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        most = {} if self.most is None else {"max_tokens": self.most}
        if not self.chat and self.most is None:
            most = {"max_tokens": 100}
        return json.dumps({"model": "small", **asked, **more, **most, **self.fields}).encode()

    async def come(self, infer: dict[bool, Any]) -> None:
        """Ask; leave when it is time."""
        await asyncio.sleep(self.at_s)
        headers = [(b"authorization", b"Bearer sk-1")]
        if self.deadline_ms is not None:
            headers.append((b"x-switchgear-timeout-ms", str(self.deadline_ms).encode()))
        self.headers = dict(headers)
        scope = {"method": "POST", "headers": headers, "extensions": {WIRE: lambda: self}}
        self.task = asyncio.create_task(infer[self.chat](scope, None, None))
        if self.leaves_s is not None:
            await asyncio.wait([self.task], timeout=self.leaves_s)
            if not self.ended:
                self._leave()
        await self.task

    # What the gateway sees
    async def read(self, limit_bytes: int) -> bytes:
        return self.sent()

    def on_leave(self, call: Callable[[], None]) -> None:
        self._leave = call

    async def answer(self, status: int, head: bytes, body: bytes) -> None:
        assert not self.status, "a second answer"
        self.status, self.head, self.body, self.ended = status, head, body, True

    async def begin(self, head: bytes) -> None:
        assert not self.status, "a second answer"
        self.status, self.head = 200, head

    async def piece(self, data: bytes) -> None:
        assert not self.ended
        self.spoken = True
        self.body += data
        await asyncio.sleep(0)

    spoken = held = False

    @property
    def clear(self) -> bool:
        return not self.held and (not self.lags or len(self.body) % 3 > 0)

    def at_once(self, data: bytes) -> None:
        assert self.clear, "more than the client takes"
        assert not self.ended
        self.spoken = True
        self.body += data

    async def end(self) -> None:
        self.ended = True

    # What it makes of it
    def request_id(self, asks: list[Ask]) -> str:
        """Give its name: where it heard nothing, as its replicas heard it."""
        named = self.head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
        return named or (asks[0].request_id if asks else "")

    def told(self) -> "Told":
        if self.status != 200:
            return Told(error=json.loads(self.body)["error"] if self.ended else None)
        if not self.stream:
            (choice,) = json.loads(self.body)["choices"]
            said = choice["message"]["content"] if self.chat else choice["text"]
            return Told(text=said, done=True, reasons=["stop"], usage=json.loads(self.body)["usage"])
        told = Told()
        for event in self.body.split(b"\n\n"):
            if event.startswith(b"data: "):
                told.take(event[6:])
        return told


class Told(msgspec.Struct):
    """An answer, or the one error in its place or behind its beginning."""

    text: str = ""
    ids: list[int] = []
    reasons: list[str] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    done: bool = False

    def take(self, payload: bytes) -> None:
        assert not self.done, "something behind the end"
        assert self.error is None, "something behind the error"
        if payload == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(payload)
        self.error = chunk.get("error")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices", ()):
            assert not self.reasons, "a choice goes on behind its end"
            delta = choice.get("delta", choice)
            self.text += delta.get("content") or delta.get("text") or ""
            self.ids += choice.get("token_ids") or []
            self.reasons += [choice["finish_reason"]] if choice.get("finish_reason") else []


class World:
    """One seed: a gateway, its replicas and its clients."""

    def __init__(self, seed: int, directory: Path) -> None:
        draw = self.draw = random.Random(seed)
        self.directory = directory
        self.names = [f"r{number}" for number in range(draw.choice((1, 2, 3, 3)))]
        self.plans = {name: moods(draw, UNTIL_S) for name in self.names}
        self.attempts = draw.choice((1, 2, 3, 3, 5))
        self.hedge_share = draw.choice((0.0, 0.0, 0.2))
        self.concurrency = draw.choice((1, 2, 8))
        self.heartbeat_s = draw.choice((1.0, 10.0))
        self.ids = draw.random() < 0.8
        self.clients = [Client(draw, number) for number in range(draw.choice((3, 4, 6, 25)))]

    def config(self) -> str:
        rows = [
            f'[[models.replicas]]\nurl = "http://{name}/v1"\nmax_concurrency = {self.concurrency}'
            for name in self.names
        ]
        hedge = f"hedge = {{ after_ms = 300, budget = {self.hedge_share} }}" if self.hedge_share else ""
        return CONFIG.format(
            directory=self.directory,
            heartbeat_s=self.heartbeat_s,
            attempts=self.attempts,
            hedge=hedge,
            replicas="\n".join(rows),
        )

    async def live(self) -> None:
        """Have everything happen, and all heal."""
        now = asyncio.get_running_loop().time
        words = {one.tag: one for one in self.clients}
        self.fleet = Fleet(self.draw, self.plans, lambda tag: b"data: {" in words[tag].body, ids=self.ids)
        edges = app.Edges(
            now=now, wall=now, draw=self.draw.random, environ={"KEY": "sk-1"}, clients=lambda: self.fleet
        )
        settings = parse(self.config(), "test")
        self.house = app.House(settings, edges)
        self.house.control.directory.start(bootstrap(settings.keys, edges.environ))
        await self.house.supervisor.reconcile_once()
        await self.house.supervisor.probe_once()
        chat, text_, _ = handlers(self.house.process)
        beside = [asyncio.create_task(self._watch()), asyncio.create_task(self.fleet.die())]
        await asyncio.gather(*(one.come({True: chat.fn, False: text_.fn}) for one in self.clients))
        await asyncio.sleep(HEALED_S)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        self.left = self.house.dispatcher.running(), self.house.dispatcher.depth()
        self.phases = {str(one.phase) for one in self.house.supervisor.replicas.values()}
        await self.house.supervisor.stop()
        self.house.billing.journal.close(settled=False)
        self.house.books.engine.dispose()

    async def _watch(self) -> None:
        while True:
            await self.house.supervisor.probe_once()
            await asyncio.sleep(1.0)

    def check(self) -> None:
        """Hold what happened against what is promised."""
        lines = [
            line for path in (self.directory / "state" / "journal").iterdir() for line, _ in read_lines(path)
        ]
        accepted = [line.request_id for line in lines if isinstance(line, Accepted)]
        settled = {line.request_id: line for line in lines if isinstance(line, Entry)}
        assert sorted(accepted) == sorted(settled), "one entry for each request"
        assert len(settled) == sum(isinstance(line, Entry) for line in lines)
        assert self.left == ({"small": 0}, {"small": 0}), "a slot or a place is not given back"
        assert not self.fleet.open
        assert all(ask.closed <= 1 for ask in self.fleet.asks), "closed twice"
        assert self.phases == {"ready"}, "what is well again serves again"
        for client in self.clients:
            self._check_client(client, settled)
        self._check_budget()

    def _check_client(self, client: Client, settled: dict[str, Entry]) -> None:
        told, left = client.told(), client.leaves_s is not None and not client.ended
        assert text(client.n).startswith(told.text), "the words, in their order, once"
        assert left or client.ended
        assert told.error is None or told.error["code"] != "internal_error", "a fault of our own"
        asks = [ask for ask in self.fleet.asks if ask.tag == client.tag]
        entry = settled.get(client.request_id(asks))
        if entry is None:
            assert left
            assert not asks
            return
        assert entry.amount_nanousd == 1000 * entry.prompt_tokens + 2000 * entry.completion_tokens
        if told.error is None and not left:
            self._check_whole(client, told, entry)
        else:
            words = len(told.text.split())
            assert not told.done
            assert entry.status in (("cancelled",) if left else ("error", "refused"))
            assert entry.completion_tokens in ((words, words + 1) if left else (words,))
        hedged = bool(self.hedge_share)
        assert sum(ask.status == 400 for ask in asks) <= 1 + hedged, "a client's mistake is asked once"
        assert sum(ask.first and ask.status > 0 for ask in asks) <= self.attempts * (1 + hedged)

    def _check_whole(self, client: Client, told: Told, entry: Entry) -> None:
        count = client.n if client.most is None else min(client.n, client.most)
        assert told.done
        assert told.text == text(count)
        (reason,) = told.reasons
        assert reason == ("length" if count < client.n else "stop") or client.most == client.n
        assert told.usage is not None
        assert told.usage["completion_tokens"] == entry.completion_tokens == count
        assert told.usage["prompt_tokens"] == entry.prompt_tokens
        assert entry.status == "ok"
        wants_ids = client.stream and "return_token_ids" in client.fields
        assert told.ids == ([100 + k for k in range(count)] if wants_ids else [])

    def _check_budget(self) -> None:
        """Second attempts before a first byte: a tenth of the requests and ten more; hedges likewise."""
        asked = [ask for ask in self.fleet.asks if ask.first and ask.status]
        again = len(asked) - len({ask.tag for ask in asked})
        hedges = 10 + self.hedge_share * len(self.clients) if self.hedge_share else 0
        assert again <= 10 + 0.1 * len(self.clients) + hedges


def hold(seeds: range, directory: Path) -> None:
    """Run worlds, one after another."""
    for seed in seeds:
        own = directory / str(seed)
        own.mkdir()
        world = World(seed, own)
        run(world.live())
        try:
            world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shutil.rmtree(own)


@pytest.mark.parametrize("block", range(4))
def test_the_promises_hold_whatever_fails(block: int, tmp_path: Path) -> None:
    hold(range(50 * block, 50 * block + 50), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(1, 11))
def test_the_promises_hold_whatever_fails_in_thousands_of_schedules(block: int, tmp_path: Path) -> None:
    hold(range(500 * block, 500 * block + 500), tmp_path)
