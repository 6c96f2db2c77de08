"""What the processes that part the traffic of a route do together: hold its shares, know its conversations.

A loop, never a request, goes to the meeting (``gateway.state.meeting``). Between its steps each process
decides by what it has heard, and its part of the slack bounds what the others do not know yet. A user's word
on an answer reaches the process that gave it, which alone knows what the classifier read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec
import numpy as np

from gateway.grading import Grading
from gateway.state.meeting import Meeting
from routing.conversations import Conversations
from routing.objectives import Shares

PERIOD_S = 0.25
_MOST_WORDS = 1_000
_encode = msgspec.msgpack.Encoder().encode


class Word(msgspec.Struct, frozen=True):
    """What a user thinks of an answer, from 0 to 1."""

    org: str
    project: str
    tenant: str
    request_id: str
    score: float


class Told(msgspec.Struct, frozen=True):
    """News of a process: scores by the name of what holds a share (float32 bytes), tiers of turns, words."""

    scores: dict[str, bytes] = {}
    turns: list[tuple[bytes, int]] = []
    words: list[Word] = []


async def _nobody(_word: Word) -> None:
    """Hear nothing."""


_decode = msgspec.msgpack.Decoder(Told).decode


class Together:
    """One for the process; ``processes`` tells how many there are now, ``grading`` once there is one."""

    def __init__(
        self,
        meeting: Meeting,
        grading: Callable[[], Grading | None],
        conversations: Conversations,
        processes: Callable[[], int],
    ) -> None:
        self._meeting = meeting
        self._grading = grading
        self._conversations = conversations
        self.processes = processes
        self._words: deque[Word] = deque(maxlen=_MOST_WORDS)
        self.hear_word: Callable[[Word], Awaitable[None]] = _nobody
        """Takes a word on what may be an answer of this process."""
        self._untold = b""
        self._settlement = 0
        self._unsettled: list[tuple[str, Shares, list[float]]] = []
        """What was owed at a settlement of which no answer has come."""
        conversations.parted = True

    async def step(self) -> None:
        """Go there once. Raises RedisError or OSError; what was to be told is told at the next step."""
        grading = self._grading()
        held = grading.parted(self.processes()) if grading is not None else {}
        named = {_name(key): one for key, one in held.items()}
        if not self._untold:
            self._untold = self._news(named)
        heard = await self._meeting.exchange(self._untold)
        self._untold = b""
        for one in heard:
            await self._hear(named, one)
            await asyncio.sleep(0)  # requests go first: much may have been told
        await self._share_out(named)

    def pass_on(self, word: Word) -> None:
        """Have the others hear a word on an answer that is not this process's."""
        self._words.append(word)

    async def close(self) -> None:
        """Leave."""
        await self._meeting.close()

    def _news(self, named: dict[str, Shares]) -> bytes:
        fresh = {name: one.tell() for name, one in named.items()}
        scores = {name: np.array(one, np.float32).tobytes() for name, one in fresh.items() if one}
        turns, words = self._conversations.tell(), list(self._words)
        self._words.clear()
        return _encode(Told(scores, turns, words)) if scores or turns or words else b""

    async def _hear(self, named: dict[str, Shares], news: bytes) -> None:
        try:
            told = _decode(news)
        except msgspec.DecodeError:
            return  # of another version
        for name, scores in told.scores.items():
            if name in named:
                named[name].hear(np.frombuffer(scores, np.float32).tolist())
        for turn, tier in told.turns:
            self._conversations.hear(turn, tier)
        for word in told.words:
            await self.hear_word(word)

    async def _share_out(self, named: dict[str, Shares]) -> None:
        """Each boundary has its pot; what is decided meanwhile stays owed. Asks again till answered."""
        if not self._unsettled:
            self._unsettled = [(name, one, one.owed) for name, one in named.items()]
            self._settlement += 1
        owed = {
            f"{name}:{place}": much for name, _, all_ in self._unsettled for place, much in enumerate(all_)
        }
        kept = await self._meeting.share_out(self._settlement, owed, self.processes())
        for name, one, before in self._unsettled:
            one.paid([much - kept[f"{name}:{place}"] for place, much in enumerate(before)])
        self._unsettled = []


def _name(key: object) -> str:
    return blake2b(repr(key).encode(), digest_size=12).hexdigest()
