"""Identical requests in flight share one upstream call.

- The call runs in a task of its own and fills a log with what the upstream says; who asked first and who
  joined read that log, each into its own form of the answer, at its own pace, billed by what it got.
- Who leaves leaves the others alone; when the last one is gone, in every process, the call is aborted.
- One pays the full price: who asked first, or, where that one leaves, who joined next in its process.
- Where the call fails before a joiner has got anything the joiner asks once more, and again where the process
  that makes it dies: one of those leads, the others join it. A stream goes on behind what was delivered.
"""

import asyncio
from contextlib import suppress
from typing import Protocol

import msgspec

from gateway.batching import Batching
from gateway.errors import ApiError, UpstreamFailed, described, from_description, translate
from gateway.loops import ended
from gateway.openai.answers import to_stream
from gateway.openai.continuation import Replay
from gateway.openai.events import StreamBroken
from gateway.openai.forms import Form
from gateway.openai.trail import Trail
from gateway.state.broadcast import Buffer, Overrun, Reader
from gateway.state.logs import Log, Logs, Lost
from gateway.trip import Call, Deliver, Trip

HEAD, DATA, FAILURE = b"h", b"d", b"e"
AGAIN = frozenset({"upstream_error", "upstream_timeout", "internal_error", "shutting_down"})
MAX_DEATHS = 3  # of processes that one request survives
DESERTED_POLL_S = 0.5

_encode = msgspec.json.Encoder().encode


class Head(msgspec.Struct, frozen=True):
    """What everybody must know of a shared call: the model that answers, why, and in which form."""

    model: str
    score: float | None
    reason: str
    streamed: bool
    threshold: float | None = None


_head = msgspec.json.Decoder(Head).decode


class Member(Protocol):
    """One request among those that share a call."""

    def lead(self) -> tuple[Head, Call]:
        """Say what is to be called; its receiver lets everything through. Raises what ``translate`` knows."""

    def spare(self, call: Call, error: Exception) -> tuple[Head, Call] | None:
        """Say what is to be called instead after a failure, if anything is."""

    def follow(self, head: Head, trip: Trip | None) -> tuple[Form, Deliver]:
        """Give where the answer goes; the trip is None for who joined."""

    def pay(self, trip: Trip) -> None:
        """Take over the full price."""


class Flight(msgspec.Struct, eq=False):
    """A shared call of this process, and who reads it here, in the order of their coming."""

    log: Log
    call: Call
    members: list[Member] = []
    task: asyncio.Task[None] | None = None
    abandoning: asyncio.Task[None] | None = None
    error: Exception | None = None


class _Reading:
    """One request's way through a shared answer, over the death of the process that makes it."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._form: Form | None = None
        self._deliver: Deliver | None = None
        self._head: Head | None = None
        self._trail: Trail | None = None  # of what was delivered before a call died
        self._rest: Replay | None = None
        self._whole: list[bytes] = []
        self.delivered = False

    def begin(self, head: Head, trip: Trip | None) -> None:
        """A call has begun. Raises StreamBroken where it cannot go on with what was delivered."""
        if self._rest is None:
            self._form, self._deliver = self._member.follow(head, trip)
        elif self._head is None or head.model != self._head.model:
            raise StreamBroken("another model answers now")
        elif trip is not None:
            self._member.pay(trip)
        self._head = head

    async def take(self, data: bytes) -> bool:
        """Take what the upstream said; False where nobody wants more."""
        form, head = self._parts()
        if self._rest is not None:
            if not head.streamed:
                self._whole.append(data)
                return True
            data = self._rest.feed(data)
        return await self._hand_on(form.feed(data))

    async def finish(self) -> None:
        """The call has ended well."""
        form, _ = self._parts()
        if self._rest is not None and self._whole:
            stream = to_stream(b"".join(self._whole), include_usage=True, cost_usd=lambda _usage: 0.0)
            if not await self._hand_on(form.feed(self._rest.feed(stream))):
                return
        await self._hand_on(form.finish())

    def interrupted(self, buffer: Buffer, at: int) -> bool:
        """Nobody goes on with this call; tells whether another one can be made use of."""
        self._whole.clear()
        if not self.delivered:
            return True
        if self._trail is None and buffer.whole and self._head is not None and self._head.streamed:
            self._trail = Trail(1)
            with suppress(StreamBroken):
                for frame in buffer.since(0)[:at]:
                    if frame[:1] == DATA:
                        self._trail.feed(frame[1:])
            self._trail.read()
        self._rest = Replay(self._trail, {}) if self._trail is not None else None
        return self._rest is not None

    def _parts(self) -> tuple[Form, Head]:
        assert self._form is not None
        assert self._head is not None
        return self._form, self._head

    async def _hand_on(self, out: bytes) -> bool:
        assert self._deliver is not None
        if not out:
            return True
        self.delivered = True
        return await self._deliver(out)


class _Again(Exception):
    """The call failed, and this request has got nothing yet."""

    def __init__(self, failure: ApiError, *, died: bool = False) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.died = died


class Coalescing:
    """The shared calls of one process."""

    def __init__(self, logs: Logs, attempts: Batching) -> None:
        self._logs = logs
        self._attempts = attempts
        self.limit_bytes = 8 * 1024 * 1024
        self.flights: dict[str, Flight] = {}
        self.readers = 0

    async def run(self, name: str, member: Member) -> None:
        """Answer a request by a call of its own or by another's. Raises what ``translate`` knows."""
        reading = _Reading(member)
        failures = deaths = 0
        while True:
            claim = await self._logs.claim(name, self.limit_bytes)
            if claim.mine:
                self._lift(claim.log, member)
            flight = self.flights.get(claim.log.token)
            reader = claim.log.buffer.join()
            self.readers += 1
            if flight is not None:
                flight.members.append(member)
            try:
                await self._follow(claim.log, reader, reading, flight if claim.mine else None)
                return
            except _Again as again:
                failures += not again.died
                deaths += again.died
                if failures > 1 or deaths > MAX_DEATHS:
                    raise again.failure from None
            finally:
                self._leave(flight, reader, member)

    async def close(self) -> None:
        """Abort everything."""
        await ended([one.task for one in self.flights.values() if one.task is not None])

    # ------------------------------------------------------------ the call
    def _lift(self, log: Log, member: Member) -> None:
        try:
            head, call = member.lead()
        except BaseException as error:
            log.append(FAILURE + described(translate(error)))
            self._logs.end(log)
            raise
        log.append(HEAD + _encode(head))
        flight = self.flights[log.token] = Flight(log, call, members=[])
        log.buffer.on_deserted = lambda: self._deserted(flight)
        flight.task = asyncio.create_task(self._fly(flight, member), name="shared call")

    async def _fly(self, flight: Flight, member: Member) -> None:
        log = flight.log

        async def deliver(piece: bytes) -> bool:
            log.append(DATA + piece)
            await log.room()
            return True

        try:
            while True:
                try:
                    await self._attempts.run(flight.call, deliver)
                    break
                except Exception as error:
                    spare = member.spare(flight.call, error)
                    if spare is None:
                        raise
                    head, flight.call = spare
                    log.append(HEAD + _encode(head))
        except asyncio.CancelledError:
            flight.error = UpstreamFailed("The shared call was ended.")
            raise
        except Exception as error:
            flight.error = error
        finally:
            if not log.buffer.ended:
                if flight.error is not None:
                    log.append(FAILURE + described(translate(flight.error)))
                self._logs.end(log)
            del self.flights[log.token]

    def _deserted(self, flight: Flight) -> None:
        if flight.abandoning is None or flight.abandoning.done():
            flight.abandoning = asyncio.create_task(self._abandon(flight))

    async def _abandon(self, flight: Flight) -> None:
        """End a call when nobody reads it in any process."""
        log = flight.log
        while await self._logs.listened(log):
            if log.buffer.readers or log.buffer.ended:
                return
            await asyncio.sleep(DESERTED_POLL_S)
        if not log.buffer.readers and not log.buffer.ended and flight.task is not None:
            flight.error = UpstreamFailed("Nobody waited for the shared call any more.")
            log.append(FAILURE + described(translate(flight.error)))
            self._logs.end(log)  # at once, so that nobody joins it any more
            flight.task.cancel()

    # ------------------------------------------------------------ its readers
    async def _follow(self, log: Log, reader: Reader, reading: _Reading, led: Flight | None) -> None:
        """Hand a log on to its end. Raises _Again where the request is to be asked once more."""
        trip = led.call.trip if led is not None else None
        try:
            while frames := await log.read(reader):
                for frame in frames:
                    kind, data = frame[:1], frame[1:]
                    if kind == DATA:
                        if not await reading.take(data):
                            return
                    elif kind == HEAD:
                        reading.begin(_head(data), trip)
                    else:
                        raise self._failure(data, led, reading.delivered)
            await reading.finish()
        except StreamBroken as error:
            raise UpstreamFailed(f"The model's server failed: {error}.") from error
        except Overrun:
            failure = UpstreamFailed("The client read too slowly: what it had not read is not kept.")
            raise failure if reading.delivered else _Again(failure, died=True) from None
        except Lost:
            failure = UpstreamFailed("The gateway process that made the shared call is gone.")
            if not reading.interrupted(log.buffer, reader.at):
                raise failure from None
            raise _Again(failure, died=True) from None

    def _failure(self, data: bytes, led: Flight | None, delivered: bool) -> Exception:
        if led is not None and led.error is not None:
            return led.error
        failure = from_description(data)
        return failure if delivered or failure.code not in AGAIN else _Again(failure)

    def _leave(self, flight: Flight | None, reader: Reader, member: Member) -> None:
        if flight is not None:
            paid = flight.members[0] is member
            flight.members.remove(member)
            if paid and flight.members and not flight.log.buffer.ended:
                flight.members[0].pay(flight.call.trip)
        reader.leave()
        self.readers -= 1
