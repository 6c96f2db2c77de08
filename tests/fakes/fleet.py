"""Replicas at the seam of the client, in virtual time: each has its moods, which a seed draws.

What they answer is what ``tests.fakes.upstream`` answers: token k of every answer is word k.
"""

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from backends.clients.base import ConnectFailed, ConnectionBroken, Outgoing, ReplyTimeout, Taker
from tests.fakes.upstream import Answer, Seen, Upstream

MOODS = ("refuse", "hang", "fail", "busy", "shed", "weak")
"""Besides ``well``. Who begins to refuse has died, with all that it was saying; who hangs answers probes."""
BREAKS = ("fin", "stall")
FAULTS = (*BREAKS, "malformed", "error", "early-done", "early-end")
STALL = b"stall"
STATUSES = {"fail": 500, "busy": 429, "shed": 503, "hang": 504}
PATHS = ("/chat/completions", "/completions")


class Mood(msgspec.Struct, frozen=True):
    """From when on a replica is how."""

    from_s: float
    name: str


def moods(draw: random.Random, until_s: float) -> list[Mood]:
    """Draw what a replica goes through; it ends well."""
    found, at_s = [Mood(0.0, "well")], draw.expovariate(1 / 6)
    while at_s < until_s:
        found.append(Mood(at_s, draw.choice(MOODS)))
        at_s += draw.expovariate(1 / 5)
        found.append(Mood(min(at_s, until_s), "well"))
        at_s += draw.expovariate(1 / 6)
    return found


class Ask(msgspec.Struct):
    """One attempt as it came: of which request, to whom, and what became of it.

    ``first``: its client had nothing yet of an answer.
    """

    request_id: str
    replica: str
    tag: str = ""
    first: bool = True
    status: int = 0
    events: int = 0
    closed: int = 0


class FleetReply:
    """An answer in pieces; a pause before each. After the last one it ends, or never does."""

    ended = False

    def __init__(
        self,
        fleet: "Fleet",
        ask: Ask,
        request: Outgoing,
        pieces: Iterable[bytes | Exception],
        status: int = 200,
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self.ask = ask
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fleet, self._request = fleet, request
        self._pieces = list(pieces)
        self._taker: Taker | None = None

    async def read(self) -> bytes:
        while (piece := await self._next()) and self._taker is not None and self._taker(piece):
            pass
        return piece

    def offer(self, taker: Taker) -> None:
        self._taker = taker

    async def _next(self) -> bytes:
        if self._request.method == "GET":
            return b""
        loop = asyncio.get_running_loop()
        quiet_s = self._request.idle_s if self.ask.events else self._request.first_byte_s
        until_s = min(loop.time() + quiet_s, self._request.deadline_s)
        here_s = loop.time() + self._fleet.pause_s()
        if self._fleet.mood(self.ask.replica) == "hang" or (self._pieces and self._pieces[0] is STALL):
            here_s = math.inf
        try:
            async with asyncio.timeout_at(min(here_s, until_s)):
                await asyncio.shield(self.broken)
            raise ConnectionBroken("its server died")
        except TimeoutError:
            if until_s <= here_s:
                raise ReplyTimeout("silent") from None
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        self.ask.events += 1
        return piece

    async def read_all(self, limit_bytes: int) -> bytes:
        found = []
        while piece := await self.read():
            found.append(piece)
        return b"".join(found)

    def close(self) -> None:
        self.ask.closed += 1
        self._fleet.open.discard(self)


class Fleet:
    """All replicas, by the host of their urls; ``asks`` are the attempts in order."""

    def __init__(
        self,
        draw: random.Random,
        plans: Mapping[str, list[Mood]],
        has_words: Callable[[str], bool],
        *,
        ids: bool,
    ) -> None:
        """``has_words`` tells of a request, by its tag, whether its client has anything of an answer."""
        self.draw = draw
        self.plans = plans
        self._has_words = has_words
        self.asks: list[Ask] = []
        self.open: set[FleetReply] = set()
        self._said = Upstream()
        self._said.ids = ids
        self._began_s = asyncio.get_running_loop().time()

    def mood(self, replica: str) -> str:
        """How a replica is now."""
        now_s = asyncio.get_running_loop().time() - self._began_s
        return next(one.name for one in reversed(self.plans[replica]) if one.from_s <= now_s)

    def pause_s(self) -> float:
        return self.draw.choice((0.0, 0.01, 0.1, 0.4))

    async def die(self) -> None:
        """Break what a replica says in the moment in which it begins to refuse."""
        deaths = [
            (one.from_s, name) for name, plan in self.plans.items() for one in plan if one.name == "refuse"
        ]
        for at_s, name in sorted(deaths):
            await asyncio.sleep(max(0.0, self._began_s + at_s - asyncio.get_running_loop().time()))
            for reply in [one for one in self.open if one.ask.replica == name and not one.broken.done()]:
                reply.broken.set_result(None)

    async def send(self, request: Outgoing) -> FleetReply:
        """See ``InferenceClient.send``."""
        parts = urlsplit(request.url)
        headers = {name.decode(): value.decode() for name, value in request.headers}
        path = parts.path.removeprefix("/v1")
        ask = Ask(headers.get("x-request-id", ""), str(parts.hostname))
        mood = self.mood(ask.replica)
        if path not in PATHS:
            if mood == "refuse":
                raise ConnectFailed("refused")
            return self._told(ask, request, path)
        seen = Seen(0, path, headers, json.loads(request.body))
        fault = self._said.choose(seen)
        ask.tag = seen.script["tag"]
        ask.first = not self._has_words(ask.tag)
        self.asks.append(ask)
        if mood == "refuse":
            raise ConnectFailed("refused")
        ask.status = STATUSES.get(mood, 400 if fault == "400" else 200)
        await asyncio.sleep(self.pause_s())
        if mood == "hang":
            await self._silence(request)
        reply = FleetReply(self, ask, request, self._said_by(seen, ask.status, mood), ask.status)
        if ask.status in (429, 503) and self.draw.random() < 0.6:
            reply.headers = {"retry-after": str(self.draw.choice((1, 3, 20)))}
        return self._opened(reply)

    def withdraw(self, url: str) -> None:
        """See ``InferenceClient.withdraw``."""

    async def close(self) -> None:
        """See ``InferenceClient.close``."""

    async def _silence(self, request: Outgoing) -> None:
        now_s = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(request.first_byte_s, request.deadline_s - now_s)))
        raise ReplyTimeout("silent")

    def _told(self, ask: Ask, request: Outgoing, path: str) -> FleetReply:
        """Answer a probe, or what going on by token ids asks."""
        if request.method == "GET":
            return FleetReply(self, ask, request, [])
        script = self._said.scripts.get(ask.request_id, {})
        status, body = self._said.spelt(path, json.loads(request.body), script)
        return self._opened(FleetReply(self, ask, request, [json.dumps(body).encode()], status))

    def _opened(self, reply: FleetReply) -> FleetReply:
        self.open.add(reply)
        return reply

    def _said_by(self, seen: Seen, status: int, mood: str) -> list[bytes | Exception]:
        """Give an answer in pieces, event by event or cut anywhere, broken where a weak replica breaks it."""
        if status != 200:
            return [json.dumps({"error": {"message": "no", "type": "no", "code": status}}).encode()]
        fault = self.draw.choice(FAULTS) if mood == "weak" and self.draw.random() < 0.8 else "ok"
        whole = Answer(self._said, seen, "ok")
        count = self.draw.randrange(whole.end - whole.start + (3 if fault in BREAKS else 1))
        answer = Answer(self._said, seen, f"{fault}:{count}")
        events = list(answer.events()) if answer.streamed else [json.dumps(answer.answer()).encode()]
        after: list[bytes | Exception] = []
        if fault in BREAKS:
            events = events[:count] if answer.streamed else [events[0][:count]]
            after = [ConnectionBroken("cut") if fault == "fin" else STALL]
        if self.draw.random() < 0.5:
            return [*events, *after]
        data, found = b"".join(events), list[bytes | Exception]()
        while data:
            size = self.draw.choice((1, 40, 200, 1000, 5000))
            found.append(data[:size])
            data = data[size:]
        return [*found, *after]
