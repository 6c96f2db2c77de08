"""Going on with a stream that broke off, on a replica that has been chosen for it.

The pure part (``openai.ways``, ``openai.continuation``) knows the ways; here the replica is asked what a way
needs to know, how its tokens read and how many fit, and then for the rest. A way that a replica cannot go is
left for the next one.
"""

from typing import Any, Protocol

import msgspec

from backends.clients.base import Reply
from gateway.errors import UpstreamRefused
from gateway.openai import ways
from gateway.openai.continuation import ByIds, Onward, Replay, Rest, cut_short
from gateway.openai.trail import Said, Trail
from gateway.openai.ways import AGAIN, IDS, MESSAGE, Able, CannotContinue

BODY_LIMIT_BYTES = 64 * 1024 * 1024
MOST_BACK_TOKENS = 64
"""So far the tokens may run ahead of the text: a stop string that was not one, a character in the making."""
PROMPT_TAIL_TOKENS = 4
UNFINISHED = "\ufffd"

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Ask(Protocol):
    """Sends a request to the replica that was chosen; ``root``: beside its API, not below it."""

    async def __call__(self, path: str, body: bytes, *, root: bool = False) -> Reply:
        """Give the reply, its status 200, or of the root any. Raises what an attempt raises."""


class Missing(Exception):
    """The replica lacks what a way needs."""


class Leg:
    """One more run of a stream: opened on a replica, then fed with what it says."""

    def __init__(self, path: str, body: bytes, trail: Trail, able: Able) -> None:
        """Plan it. Raises CannotContinue."""
        self._path, self._body, self._trail = path, body, trail
        self._fields = _decode(body)
        self._ways = ways.ways(self._fields, trail, able)
        self.way = self._ways[0]
        self._rest: Rest

    def cut_short(self) -> bytes:
        """Give the ends of choices that have all the tokens they may have: nobody needs to be asked."""
        limit = ways.limit_of(self._fields)
        if limit is None or self.way == AGAIN:
            return b""
        full = [
            index
            for index in range(self._trail.expected)
            if (said := self._trail.said(index)).tokens >= limit and not said.finished
        ]
        return b"".join(cut_short(self._trail, index) for index in full)

    async def open(self, ask: Ask) -> Reply:
        """Ask for the rest, by the first way that the replica can go."""
        for way in self._ways:
            self.way = way
            try:
                reply = await self._open(way, ask)
            except (Missing, UpstreamRefused):
                continue
            return reply
        raise CannotContinue("no server takes it up in the middle")

    def feed(self, data: bytes) -> bytes:
        """Take what the replica says, give events; see ``Rest.feed``."""
        return self._rest.feed(data)

    def end(self) -> bytes:
        """Take the end of what it says; see ``Rest.end``."""
        return self._rest.end()

    async def _open(self, way: str, ask: Ask) -> Reply:
        if way == AGAIN:
            self._rest = Replay(self._trail, self._fields)
            return await ask(self._path, self._body)
        if way == MESSAGE:
            self._rest = Onward(self._trail)
            return await ask(self._path, ways.message_body(self._fields, self._trail))
        assert way == IDS
        return await self._by_ids(ask)

    async def _by_ids(self, ask: Ask) -> Reply:
        trail, index = self._trail, self._trail.unfinished
        said, prompt = trail.said(index), ways.prompt_of(trail)
        kept, skipped = await self._kept(ask, said, prompt)
        limit = ways.limit_of(self._fields)
        if limit is None:
            limit = await self._context_tokens(ask) - len(prompt)
        told = ways.told(self._fields, trail, said)
        body = ways.ids_body(self._fields, prompt, list(said.ids[:kept]), limit - kept)
        self._rest = ByIds(trail, index, kept, skipped, told=told)
        return await ask("/completions", body)

    async def _kept(self, ask: Ask, said: Said, prompt: list[int]) -> tuple[int, str]:
        """Give how many of the ids read as the text begins, whole characters only, and the text behind them.

        They are read behind the prompt's last ones: some tokenizers leave out a leading space.
        """
        text = said.text("content") or said.text("text")
        tail = prompt[-PROMPT_TAIL_TOKENS:]
        lead = await self._read(ask, tail) if tail else ""
        for kept in range(len(said.ids), max(-1, len(said.ids) - MOST_BACK_TOKENS - 1), -1):
            read = await self._read(ask, [*tail, *said.ids[:kept]]) if kept else lead
            if not read.startswith(lead):
                break
            read = read[len(lead) :]
            if text.startswith(read) and not read.endswith(UNFINISHED):
                return kept, text[len(read) :]
        raise Missing

    async def _read(self, ask: Ask, ids: list[int]) -> str:
        return str(await self._tell(ask, "/detokenize", {"tokens": ids}, "prompt"))

    async def _context_tokens(self, ask: Ask) -> int:
        return int(await self._tell(ask, "/tokenize", {"prompt": ""}, "max_model_len"))

    async def _tell(self, ask: Ask, path: str, question: dict[str, Any], wanted: str) -> Any:
        """Ask the replica something small. Raises Missing where it does not know."""
        body = _encode({"model": self._fields.get("model"), **question})
        reply = await ask(path, body, root=True)
        try:
            said = await reply.read_all(BODY_LIMIT_BYTES)
            if reply.status != 200:
                raise Missing
            return _decode(said)[wanted]
        except (msgspec.DecodeError, KeyError):
            raise Missing from None
        finally:
            reply.close()
