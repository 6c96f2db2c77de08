"""Answers that outlive their connection: for an ``Idempotency-Key``, and for streams that can be resumed.

A recorded request runs in a task of its own and fills a log with what its client is to get; the client reads
that log, and so does whoever asks again with the same key or comes back for the rest. An idempotent request
runs to its end whoever leaves; a resumable one is given up when nobody has come back within ``orphan_s``.

A key counts within its project. The log stands for it while the request runs and a moment longer, its row
in SQL until the retention time is over: an answer is kept, a failure frees the key. Where a process dies, the
row's lease runs out and the next one to ask runs the request again.
"""

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from gateway.calls import Incoming
from gateway.database import DatabaseError
from gateway.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    ShuttingDown,
    UpstreamFailed,
    described,
    from_description,
    translate,
)
from gateway.loops import ended
from gateway.openai import schemas
from gateway.outlet import Outlet
from gateway.pipeline import EVENT_STREAM, Pipeline
from gateway.recorder import ACCEPT, BEGIN, FAILURE, OWNER, PIECE, STREAM_ID, WHOLE, Recorder
from gateway.settings import IdempotencySettings, StreamSettings
from gateway.state.broadcast import Overrun, Reader
from gateway.state.logs import Log, Logs, Lost
from gateway.tenancy import idempotency
from gateway.tenancy.idempotency import Busy, Conflict, Kept
from gateway.tenancy.keys import Key

log = logging.getLogger("switchgear.recordings")

LEASE_S = 5.0
SWEEPS_S = 60.0
BUSY_POLL_S = 0.25
LINGER_S = 5.0  # a log of an idempotent answer, while its row is written
MAX_KEY_CHARACTERS = 255
REPLAYED = b"x-switchgear-replayed: true\r\n"

_encode = msgspec.msgpack.Encoder().encode
_pair = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_frames = msgspec.msgpack.Decoder(list[bytes]).decode


class Owner(msgspec.Struct, frozen=True):
    """Whose recording it is, of which body, and whether its events are numbered."""

    key_id: str
    fingerprint: str
    resumable: bool


_owner = msgspec.msgpack.Decoder(Owner).decode


class Opened(Protocol):
    """Gives the database; raises DatabaseError while it has not been opened."""

    def __call__(self) -> sa.Engine:
        """See above."""


class _Wish(msgspec.Struct, frozen=True):
    """What a request wants of its recording; ``record_id`` is empty without an idempotency key."""

    key: Key
    resumable: bool
    record_id: str
    fingerprint: str

    def name(self, request_id: str) -> str:
        """Name the stream."""
        return f"idem_{self.record_id}" if self.record_id else request_id


class Recordings:
    """The recorded requests of one process; ``wall`` gives seconds since the epoch."""

    def __init__(self, logs: Logs, pipeline: Pipeline, opened: Opened, wall: Callable[[], float]) -> None:
        self._logs = logs
        self._pipeline = pipeline
        self._opened = opened
        self._wall = wall
        self._me = secrets.token_hex(12)
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._errors: dict[str, Exception] = {}
        self._leased = 0
        self._swept_s = 0.0
        self._idempotency = IdempotencySettings()
        self._streams = StreamSettings()

    def adopt(self, kept: IdempotencySettings, streams: StreamSettings) -> None:
        """Put settings in force."""
        self._idempotency, self._streams = kept, streams

    def wanted(self, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether a request may have to be recorded; cheap, for every request is asked."""
        return (
            b"idempotency-key" in headers
            or b"x-switchgear-resumable" in headers
            or self._pipeline.any_resumable
        )

    async def serve(self, incoming: Incoming, out: Outlet) -> None:
        """Answer a request, recorded if it wants that. Raises what ``translate`` knows."""
        wish = self._wish(incoming)
        if wish.record_id:
            await self._idempotent(incoming, out, wish)
        elif wish.resumable:
            claim = await self._logs.claim(f"rec:{incoming.request_id}", self._streams.max_bytes)
            reader = claim.log.buffer.join()
            self._start(claim.log, incoming, wish)
            await self._play(claim.log, reader, out, numbered=True)
        else:
            await self._pipeline.infer(incoming, out)

    async def resume(self, stream_id: str, headers: Mapping[bytes, bytes], out: Outlet) -> None:
        """Give the rest of a stream, and what is still to come. Raises NotFound, InvalidRequest."""
        key = self._pipeline.authenticate(headers)
        after = headers.get(b"last-event-id", b"0")
        if not after.isdigit() or len(after) > 15:
            raise InvalidRequest("Last-Event-ID must be the id of an event.", param="last-event-id")
        missing = NotFound(f"There is no stream {stream_id!r} that this key may read, or not any more.")
        found = await self._logs.find(f"rec:{stream_id}")
        if found is None:
            raise missing
        held = found.buffer.join(found.buffer.base)
        try:
            owner = await self._owner_of(found)
            if owner is None or owner.key_id != key.id or not owner.resumable:
                raise missing
            if found.buffer.base > max(1, int(after)):
                raise NotFound("The events behind this Last-Event-ID are not kept any more.")
            if found.buffer.ended and int(after) > found.buffer.length:
                raise InvalidRequest(
                    "The stream has ended before this Last-Event-ID; it is not one of its events.",
                    param="last-event-id",
                )
            reader = found.buffer.join(max(found.buffer.base, min(int(after), found.buffer.length)))
        finally:
            held.leave()
        head = b"%bx-request-id: %b\r\n%b: %b\r\n" % (
            EVENT_STREAM, stream_id.encode(), STREAM_ID, stream_id.encode(),
        )  # fmt: skip
        out.accept(head)
        await out.begin(head)
        await self._play(found, reader, out, numbered=True, behind=int(after))

    def due(self) -> bool:
        """Whether there is anything to do in a step."""
        return self._leased > 0 or self._wall() - self._swept_s > SWEEPS_S

    async def step(self) -> None:
        """Renew the leases of what runs here, now and then sweep; repeat it well within LEASE_S."""
        now_s = self._wall()
        if self._leased:
            await asyncio.to_thread(idempotency.renew, self._opened(), self._me, now_s + LEASE_S)
        if now_s - self._swept_s > SWEEPS_S:
            self._swept_s = now_s
            await asyncio.to_thread(idempotency.sweep, self._opened(), now_s)

    async def close(self) -> None:
        """End what still runs."""
        await ended(list(self._runs.values()))

    # ------------------------------------------------------------ what is wanted
    def _wish(self, incoming: Incoming) -> _Wish:
        headers = incoming.headers
        key = self._pipeline.authenticate(headers)
        asked = headers.get(b"x-switchgear-resumable", b"").lower()
        resumable = asked in (b"1", b"true", b"on") or (
            key.resumable and asked not in (b"0", b"false", b"off")
        )
        text = headers.get(b"idempotency-key")
        if text is None:
            return _Wish(key, resumable and b'"stream"' in incoming.body, "", "")
        if not text or len(text) > MAX_KEY_CHARACTERS:
            raise InvalidRequest(
                f"The header Idempotency-Key must have 1 to {MAX_KEY_CHARACTERS} characters.",
                param="idempotency-key",
            )
        scope = f"{key.org}/{key.project}".encode()
        record_id = hashlib.sha256(len(scope).to_bytes(4, "big") + scope + text).hexdigest()
        return _Wish(key, resumable, record_id, schemas.fingerprint(incoming.endpoint, incoming.body))

    # ------------------------------------------------------------ an idempotency key
    async def _idempotent(self, incoming: Incoming, out: Outlet, wish: _Wish) -> None:
        name = f"rec:{wish.name(incoming.request_id)}"
        while True:
            claim = await self._logs.claim(name, self._idempotency.max_bytes)
            found = claim.log
            reader = found.buffer.join()
            try:
                if not claim.mine:
                    if await self._joined(found, reader, out, wish):
                        return
                elif await self._begun(found, incoming, wish):
                    await self._play(found, reader, out, numbered=wish.resumable)
                    return
                else:
                    known = found.buffer.length > 0
                    if known:
                        await self._play(found, reader, out, numbered=wish.resumable, replayed=True)
                        return
            except Lost:
                pass
            finally:
                reader.leave()
            await asyncio.sleep(BUSY_POLL_S)

    async def _joined(self, found: Log, reader: Reader, out: Outlet, wish: _Wish) -> bool:
        """Answer from a recording that is under way; False where there is none after all."""
        owner = await self._owner_of(found)
        if owner is None:
            return False
        if owner.fingerprint != wish.fingerprint:
            raise _conflict()
        await self._play(found, reader, out, numbered=wish.resumable, replayed=True)
        return True

    async def _begun(self, found: Log, incoming: Incoming, wish: _Wish) -> bool:
        """Begin to run under a key, or fill the log with the kept answer; neither where another runs it."""
        now_s = self._wall()
        try:
            state = await asyncio.to_thread(
                idempotency.begin,
                self._opened(),
                idempotency.Claimed(
                    wish.record_id, wish.fingerprint, self._me, now_s + LEASE_S,
                    now_s + min(self._idempotency.retention_s, wish.key.retention_s or math.inf),
                ),
                now_s,
            )  # fmt: skip
        except BaseException as error:
            self._logs.end(found)
            if isinstance(error, SQLAlchemyError | DatabaseError):
                raise DatabaseUnavailable(
                    "The database is away, and with it the idempotency keys.", retry_after_s=2.0
                ) from None
            raise
        match state:
            case Conflict():
                self._logs.end(found)
                raise _conflict()
            case Kept(answer):
                for frame in _frames(answer):
                    found.append(frame)
                self._logs.end(found)
                return False
            case Busy():
                self._logs.end(found)
                return False
        self._start(found, incoming, wish)
        return True

    # ------------------------------------------------------------ the run
    def _start(self, into: Log, incoming: Incoming, wish: _Wish) -> None:
        into.append(OWNER + _encode(Owner(wish.key.id, wish.fingerprint, wish.resumable)))
        if not wish.record_id:
            into.buffer.on_deserted = lambda: self._orphaned(into)
        self._leased += bool(wish.record_id)
        task = asyncio.create_task(self._run(into, incoming, wish), name="recorded request")
        self._runs[into.token] = task

    async def _run(self, into: Log, incoming: Incoming, wish: _Wish) -> None:
        stream_id = wish.name(incoming.request_id).encode() if wish.resumable else b""
        failure: Exception | None = None
        try:
            await self._pipeline.infer(incoming, Recorder(into, stream_id))
        except asyncio.CancelledError:
            failure = ShuttingDown("The request was ended before its answer was whole.", retry_after_s=1.0)
        except Exception as error:
            failure = error
            known = translate(error)
            if known is not error and known.status == 500:
                log.error("request %s failed", incoming.request_id, exc_info=error)
        try:
            if wish.record_id and failure is not None:
                await self._settled(wish, None)  # before its client hears of it, and comes again
        finally:
            if failure is not None:
                into.append(FAILURE + described(translate(failure)))
            linger_s = min(LINGER_S, self._idempotency.retention_s, wish.key.retention_s)
            if wish.resumable:
                linger_s = self._streams.keep_s
            self._logs.end(into, keep_s=linger_s if failure is None or not wish.record_id else 0.0)
            if wish.record_id and failure is None:
                await self._settled(wish, into)
            self._leased -= bool(wish.record_id)
            del self._runs[into.token]

    async def _settled(self, wish: _Wish, into: Log | None) -> None:
        """Keep the answer in SQL, or free its key; where SQL is away the lease runs out.

        Of a tenant whose content is not kept, the key counts only while its request runs.
        """
        answer = None
        if into is not None and into.buffer.whole and wish.key.retention_s:
            answer = _encode(into.buffer.since(0))
        try:
            await asyncio.to_thread(idempotency.finish, self._opened(), wish.record_id, self._me, answer)
        except (SQLAlchemyError, DatabaseError) as error:
            log.error("the answer of an idempotency key is not kept: %s", error)

    def _orphaned(self, into: Log) -> None:
        task = self._runs.get(into.token)
        if task is None:
            return

        async def give_up() -> None:
            await asyncio.sleep(self._streams.orphan_s)
            if not into.buffer.readers and not await self._logs.listened(into):
                task.cancel()

        waiting = asyncio.create_task(give_up())
        task.add_done_callback(lambda _done: waiting.cancel())

    # ------------------------------------------------------------ the reading
    async def _owner_of(self, found: Log) -> Owner | None:
        """Wait for a recording's first frame; None where it is none, or is lost before."""
        first = found.buffer.first
        if first is None:
            reader = found.buffer.join()
            try:
                await found.next(reader)
            except Lost:
                return None
            finally:
                reader.leave()
            first = found.buffer.first
        return _owner(first[1:]) if first is not None and first[:1] == OWNER else None

    async def _play(
        self,
        found: Log,
        reader: Reader,
        out: Outlet,
        *,
        numbered: bool,
        replayed: bool = False,
        behind: int | None = None,
    ) -> None:
        """Hand a recording on; ``behind`` the number of an event, the head having been sent already.

        Raises Lost where nothing was handed on yet and it may be asked for again.
        """
        more, given = REPLAYED if replayed else b"", behind is not None
        try:
            while frames := await found.read(reader):
                number = reader.at - len(frames)
                for frame in frames:
                    number += 1
                    if behind is not None and number <= behind:
                        continue
                    kind, data = frame[:1], frame[1:]
                    given = given or kind in (BEGIN, WHOLE)
                    if kind == PIECE:
                        await out.piece(b"id: %d\n%b" % (number, data) if numbered else data)
                    elif kind == WHOLE:
                        head, body = _pair(data)
                        await out.whole(head + more, body)
                    elif kind == FAILURE:
                        raise from_description(data)
                    elif kind == ACCEPT and behind is None:
                        out.accept(data + more)
                    elif kind == BEGIN and behind is None:
                        await out.begin(data + more)
        except Overrun:
            raise UpstreamFailed("The client read too slowly: what it had not read is not kept.") from None
        except Lost:
            if given:
                raise UpstreamFailed("The gateway process that recorded the answer is gone.") from None
            raise
        finally:
            reader.leave()


def _conflict() -> IdempotencyConflict:
    return IdempotencyConflict(
        "This Idempotency-Key was used with another request; use a new key for a new request.",
        param="idempotency-key",
    )
