"""Logs that several gateway processes share in Redis; see ``gateway.state.logs``.

A name is held by a lease (``SET NX PX``) whose value is the log's token; its frames are a Redis stream under
that token, so that a new log never meets the frames of the one before. Who writes renews the lease at a
third of its time; who reads in another process copies the stream into a log of its own, from which any number
of its clients read, and puts a mark there that says so. Where the lease is over before the end has come the
copy is lost, and whoever read it may claim the name.

One task does everything, in batches over one connection. A Redis that is away or slow stops nothing: logs
that are written go on for this process alone, copies are lost, a claim is this process's own.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.loops import ended
from gateway.state.logs import Claim, Log, MemoryLogs

log = logging.getLogger("switchgear.logs")

PREFIX = "switchgear:logs:"
COPY_BYTES = 64 * 1024 * 1024
POLL_S = 0.01  # how often copies look for new frames
READ_FRAMES = 500
END_S = 30.0  # an ended log stays so long for the copies under way
CROWDED_S = 1.0  # one that goes before its time, for the same
AWAY_S = 1.0  # after a failure Redis is left alone for so long

OURS = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call(%s) end return 0"
RENEW = OURS % "'PEXPIRE', KEYS[1], ARGV[2]"
RELEASE = OURS % "'DEL', KEYS[1]"


def _lease(name: str) -> str:
    return f"{PREFIX}lease:{name}"


def _frames(token: str) -> str:
    return f"{PREFIX}frames:{token}"


def _first(token: str) -> str:
    return f"{PREFIX}first:{token}"


def _mark(token: str) -> str:
    return f"{PREFIX}read:{token}"


class _Own:
    """A log that this process writes, and what Redis has of it."""

    def __init__(self, into: Log) -> None:
        self.log = into
        self.sent = 0
        self.renewed_s = time.monotonic()
        self.keep_s = 0.0


class _Copy:
    """A log that another process writes under its own token."""

    def __init__(self, into: Log, token: str) -> None:
        self.log = into
        self.token = token
        self.last = b"0"
        self.checked_s = 0.0


class RedisLogs:
    """The logs of all gateway processes on one Redis."""

    def __init__(
        self, url: str, *, password: str | None, timeout_s: float, lease_s: float, kept_bytes: int
    ) -> None:
        self._redis: Any = Redis.from_url(
            url, password=password, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, protocol=2
        )
        self._lease_s, self._lease_ms = lease_s, int(lease_s * 1000)
        self._local = MemoryLogs(kept_bytes)
        self._local.on_crowded = self._crowded
        self._own: dict[str, _Own] = {}
        self._copies: dict[str, _Copy] = {}
        self._dropped: list[Log] = []
        self._away_until_s = 0.0
        self._wake = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ see ``Logs``
    async def claim(self, name: str, limit_bytes: int) -> Claim:
        """See ``Logs.claim``: one round trip, where this process has no such log."""
        claim = await self._local.claim(name, limit_bytes)
        found = claim.log
        if not claim.mine or await self._local.find(name) is not found or self._away:
            return claim
        try:
            token = await self._redis.set(_lease(name), found.token, nx=True, get=True, px=self._lease_ms)
        except (RedisError, OSError) as error:
            self._leave(error)
            return claim
        except BaseException:
            self._local.lose(found)  # whoever joined meanwhile claims it again
            raise
        if token is not None:
            self._copy(found, token.decode())
            return Claim(found, False)
        self._own[found.token] = _Own(found)
        found.on_append = self._stir
        self._stir()
        return claim

    async def find(self, name: str) -> Log | None:
        """See ``Logs.find``."""
        found = await self._local.find(name)
        if found is not None or self._away:
            return found
        try:
            token = await self._redis.get(_lease(name))
        except (RedisError, OSError) as error:
            self._leave(error)
            return None
        if token is None:
            return None
        claim = await self._local.claim(name, COPY_BYTES)
        if claim.mine:
            self._copy(claim.log, token.decode())
        return claim.log

    async def listened(self, log: Log) -> bool:
        """See ``Logs.listened``."""
        if log.buffer.readers:
            return True
        if log.token not in self._own or self._away:
            return False
        try:
            return bool(await self._redis.exists(_mark(log.token)))
        except (RedisError, OSError) as error:
            self._leave(error)
            return False

    def end(self, log: Log, *, keep_s: float = 0.0) -> None:
        """See ``Logs.end``."""
        self._local.end(log, keep_s=keep_s)
        own = self._own.get(log.token)
        if own is not None:
            own.keep_s = keep_s
            self._stir()

    async def close(self) -> None:
        """See ``Logs.close``: what has ended is told, what has not is free when its lease is over."""
        if self._pump is not None:
            await ended([self._pump])
            if not self._away:
                with contextlib.suppress(RedisError, OSError):
                    await self._exchange()
        await self._local.close()
        await self._redis.aclose()

    # ------------------------------------------------------------ the exchange with Redis
    @property
    def _away(self) -> bool:
        return time.monotonic() < self._away_until_s

    def _stir(self) -> None:
        self._wake.set()
        if self._pump is None:
            self._pump = asyncio.create_task(self._run(), name="shared logs")

    def _copy(self, into: Log, token: str) -> None:
        copy = self._copies[into.token] = _Copy(into, token)

        def deserted() -> None:
            self._copies.pop(into.token, None)
            self._local.lose(into)

        copy.log.buffer.on_deserted = deserted
        self._stir()

    def _crowded(self, log: Log) -> None:
        self._dropped.append(log)
        self._stir()

    def _leave(self, error: Exception) -> None:
        """Go on alone for a moment."""
        log.warning("logs are kept by each process, Redis is away: %s", str(error) or type(error).__name__)
        self._away_until_s = time.monotonic() + AWAY_S
        self._own.clear()
        for copy in list(self._copies.values()):
            self._local.lose(copy.log)
        self._copies.clear()

    async def _run(self) -> None:
        """Send and fetch for ever."""
        while True:
            pause_s = POLL_S if self._copies else self._lease_s / 3 if self._own else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._exchange()
            except (RedisError, OSError) as error:
                self._leave(error)

    async def _exchange(self) -> None:
        """Send what is new of our logs, fetch what is new of the others'."""
        now_s = time.monotonic()
        pipe = self._redis.pipeline(transaction=False)
        for own in list(self._own.values()):
            self._send(pipe, own, now_s)
        for one in self._dropped:
            pipe.eval(RELEASE, 1, _lease(one.name), one.token)
            pipe.pexpire(_frames(one.token), int(CROWDED_S * 1000))
            pipe.pexpire(_first(one.token), int(CROWDED_S * 1000))
        self._dropped.clear()
        copies = list(self._copies.values())
        checked = [copy for copy in copies if now_s - copy.checked_s >= self._lease_s / 6]
        for copy in checked:
            copy.checked_s = now_s
            pipe.set(_mark(copy.token), b"1", px=self._lease_ms)
            pipe.get(_first(copy.token))
            pipe.get(_lease(copy.log.name))
        if copies:
            pipe.xread({_frames(copy.token): copy.last for copy in copies}, count=READ_FRAMES)
        if not pipe.command_stack:
            return
        answers = await pipe.execute()
        if copies:
            found = {key.decode(): entries for key, entries in answers[-1] or ()}
            facts = answers[len(answers) - 1 - 3 * len(checked) : -1]
            for number, copy in enumerate(checked):
                first, lease = facts[3 * number + 1 : 3 * number + 3]
                more = _frames(copy.token) in found
                self._note(copy, first, alive=more or (lease or b"").decode() == copy.token)
            for copy in copies:
                self._fill(copy, found.get(_frames(copy.token), ()))

    def _send(self, pipe: Any, own: _Own, now_s: float) -> None:
        """Add the commands for one log of ours."""
        buffer, token = own.log.buffer, own.log.token
        key, lease = _frames(token), _lease(own.log.name)
        if not own.sent and buffer.first is not None:
            pipe.set(_first(token), buffer.first, px=self._lease_ms)
        own.sent = max(own.sent, buffer.base)
        frames = buffer.since(own.sent)
        for number, frame in enumerate(frames, own.sent + 1):
            pipe.xadd(key, {b"f": frame}, id=f"{number}-0")
        own.sent += len(frames)
        if buffer.base and frames:
            pipe.xtrim(key, minid=f"{buffer.base + 1}-0", approximate=False)
        if buffer.ended:
            pipe.xadd(key, {b"end": b""}, id=f"{own.sent + 1}-0")
            kept_ms = int(max(END_S, own.keep_s) * 1000)
            pipe.pexpire(key, kept_ms)
            pipe.pexpire(_first(token), kept_ms)
            if own.keep_s:
                pipe.eval(RENEW, 1, lease, token, int(own.keep_s * 1000))
            else:
                pipe.eval(RELEASE, 1, lease, token)
            del self._own[token]
        elif frames or now_s - own.renewed_s >= self._lease_s / 3:
            own.renewed_s = now_s
            pipe.eval(RENEW, 1, lease, token, self._lease_ms)
            pipe.pexpire(key, self._lease_ms + int(END_S * 1000))
            pipe.pexpire(_first(token), self._lease_ms + int(END_S * 1000))

    def _note(self, copy: _Copy, first: bytes | None, *, alive: bool) -> None:
        if first is not None and copy.log.buffer.first is None:
            copy.log.buffer.first = first
        if not alive and copy.log.token in self._copies:
            del self._copies[copy.log.token]
            self._local.lose(copy.log)

    def _fill(self, copy: _Copy, entries: Any) -> None:
        """Take what has come of another's log."""
        buffer = copy.log.buffer
        for number, fields in entries:
            if copy.log.token not in self._copies:
                return
            copy.last = number
            if b"end" in fields:
                del self._copies[copy.log.token]
                self._local.end(copy.log)
                return
            at = int(number.partition(b"-")[0])
            if at > buffer.length + 1:
                buffer.skip(at - 1)
            copy.log.append(fields[b"f"])
