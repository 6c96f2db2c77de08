"""A meeting in Redis; see ``gateway.state.meeting``.

A pot is a number under its name, shared out by a script in one step; the news are one stream, whose numbers
are times of Redis' clock. Beside each pot stands what each process was left by it last, and by which number:
an answer that was lost is given again. A Redis that comes back empty has lost the pots: at most half
the slack of a share, once.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from gateway.state.meeting import LATELY_S, MOST_HEARD, MOST_TOLD
from routing.objectives import POT, part_of

POTS = "switchgear:routing:pot:"
SETTLED = "switchgear:routing:settled:"
STREAM = "switchgear:routing:news"
KEPT_S = 3600
_AT_ONCE = 200

# As objectives.settle. KEYS: the pot, what it left to this process last.
# ARGV: owed, the most that this process may owe, the pot's most, processes, seconds, the number.
SETTLE = """
local before, was_left = string.match(redis.call('GET', KEYS[2]) or '', '^(%S+) (%S+)$')
if before and tonumber(before) >= tonumber(ARGV[6]) then return was_left end
local owed, most, pot = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local total = (tonumber(redis.call('GET', KEYS[1])) or 0) + owed
local kept = math.min(most, math.max(-most, total / tonumber(ARGV[4])))
local left = math.min(pot, math.max(-pot, total - kept))
redis.call('SET', KEYS[1], string.format('%.9f', left), 'EX', ARGV[5])
local answer = string.format('%.9f', total - left)
redis.call('SET', KEYS[2], ARGV[6] .. ' ' .. answer, 'EX', ARGV[5])
return answer
"""


class RedisMeeting:
    """One process's way there."""

    def __init__(self, url: str, password: str | None, timeout_s: float) -> None:
        self._redis = Redis.from_url(
            url, password=password, socket_connect_timeout=timeout_s, socket_timeout=max(1.0, timeout_s)
        )
        self._origin = secrets.token_bytes(8)
        self._read: bytes | None = None
        self._settle = self._redis.register_script(SETTLE)

    async def share_out(self, number: int, owed: Mapping[str, float], processes: int) -> dict[str, float]:
        """See ``Meeting.share_out``."""
        if not owed:
            return {}
        most = part_of(processes)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for name, much in owed.items():
                bounds: list[str | float] = [repr(much), repr(most), POT, processes, KEPT_S, number]
                keys = [POTS + name, f"{SETTLED}{name}:{self._origin.hex()}"]
                await self._settle(keys=keys, args=bounds, client=pipeline)
            found: list[Any] = await pipeline.execute()
        return dict(zip(owed, map(float, found), strict=True))

    async def exchange(self, told: bytes) -> list[bytes]:
        """See ``Meeting.exchange``."""
        if told:
            fields: dict[Any, Any] = {b"o": self._origin, b"n": told}
            await self._redis.xadd(STREAM, fields, maxlen=MOST_TOLD, approximate=True)
        heard: list[bytes] = []
        read = self._read or await self._lately()
        for _ in range(MOST_HEARD // _AT_ONCE):
            found: Any = await self._redis.xread({STREAM: read}, count=_AT_ONCE)
            if not found:
                break
            for at, entry in found[0][1]:
                read = at
                if entry.get(b"o") != self._origin:
                    heard.append(entry.get(b"n", b""))
        # Where Redis has forgotten the stream, its numbers may run behind ours; until here all is read again.
        self._read = read if await self._redis.exists(STREAM) else None
        return heard

    async def _lately(self) -> bytes:
        """Give the number in the stream from which on there is what was told lately."""
        s, us = await self._redis.time()
        return b"%d-0" % (s * 1000 + us // 1000 - round(LATELY_S * 1000))

    async def close(self) -> None:
        """See ``Meeting.close``."""
        await self._redis.aclose()
