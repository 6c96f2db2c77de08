"""From a call to its bytes: retry, hedge and fail over before the first byte, carry a stream on after it.

- Before the first byte a failure of a replica is tried again on another one, up to ``max_attempts`` in a row,
  within the deadline and the retry budget; a client's own mistake (4xx) is never retried. Where a server said
  ``retry-after`` it is left alone so long, and asked earlier only if there is no other.
- Where the model hedges and the first byte is late, a second replica is asked; who is first serves, the other
  is cancelled.
- After the first byte a stream that breaks goes on from what was delivered (``carrying``), or ends in an
  error.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from backends.clients.base import (
    ConnectFailed,
    ConnectionBroken,
    InferenceClient,
    Pulse,
    Reply,
    Withdrawn,
)
from backends.replica import Event
from gateway.asking import Asking, final, reach_end
from gateway.carrying import Leg
from gateway.dispatcher import Dispatcher, Slot
from gateway.errors import ModelLoading
from gateway.judging import Judge
from gateway.openai.continuation import ending
from gateway.openai.events import StreamBroken
from gateway.openai.ways import CannotContinue
from gateway.restraint import Restraint
from gateway.trip import ANOTHER_MAY_SUCCEED, Call, Deliver, Try

BACKOFF_S = 0.05
MOST_PAUSE_S = 5.0
"""So long a call waits for a server that asked to be left alone, or a stream for one that is ready; then its
client is told to come again."""
MOST_DEATHS = 2
"""So many servers may break off under one request without a byte: it may be what kills them."""

T = TypeVar("T")


class Attempts:
    """Runs calls on replicas."""

    def __init__(
        self, dispatcher: Dispatcher, client: InferenceClient, judge: Judge, credentials: Mapping[str, bytes]
    ) -> None:
        self._dispatcher = dispatcher
        self.now = dispatcher.now
        self.reads_prefix = dispatcher.reads_prefix
        self._judge = judge
        self._asking = Asking(client, judge, credentials)
        self._restraints: dict[str, Restraint] = {}

    async def run(self, call: Call, deliver: Deliver) -> None:
        """Deliver the answer as it comes. Raises ApiError or an exception that ``translate`` knows."""
        restraint = self._restraints.get(call.model)
        if restraint is None:
            restraint = self._restraints[call.model] = Restraint()
        restraint.requests += 1
        failure: Exception | None = None
        while True:
            try:
                await self._attempt(call, deliver, restraint)
                return
            except ModelLoading:
                if failure is None:
                    raise
                raise final(failure) from failure
            except ANOTHER_MAY_SUCCEED as error:
                failure = error.with_traceback(None)  # it names this frame: a circle
            if call.trip.delivered:
                await self._carry_on(call, deliver, failure)
                return
            await self._pause(call, restraint, failure)

    async def _attempt(self, call: Call, deliver: Deliver, restraint: Restraint) -> None:
        """Try one replica, or two where it is late: send, hand on what comes, check that it is whole."""
        query, trip = call.query, call.trip
        if trip.tried:
            query = msgspec.structs.replace(query, exclude=frozenset(trip.tried))
        this = Try(self.now())
        trip.tries.append(this)
        slot = await self._dispatcher.slot(query, band=call.band, deadline_s=call.deadline_s)
        self._sent(call, this, slot)
        if call.hedge is None:
            try:
                reply = await self._asking.send(call, this, slot.replica)
            except BaseException as error:
                self._ended(call, this, slot, error)
                raise
            first = b""
        else:
            this, slot, reply, first = await self._hedged(call, this, slot, restraint)
        call.receiver.begin()
        if call.trail is not None:
            call.trail.begin()
        await self._take(call, deliver, this, slot, reply, first)

    async def _take(
        self, call: Call, deliver: Deliver, this: Try, slot: Slot, reply: Reply, data: bytes
    ) -> None:
        """Hand on what a first run says, and check that it is whole."""
        receiver, trail = call.receiver, call.trail
        feed = receiver.feed if trail is None else _both(trail.feed, receiver.feed)
        out = b""
        try:
            try:
                if not await self._pump(call, deliver, this, slot, reply, feed, data):
                    return
            finally:
                reply.close()
                this.ended_s = self.now()
            out = receiver.finish()
            if not this.first_byte_s:
                call.trip.upstream_s += this.ended_s - this.sent_s
            if out:
                call.trip.delivered = True
                await deliver(out)
            self._judge.served(call, this)
        except BaseException as error:
            self._blame(call, this, error)
            raise
        finally:
            slot.release()

    async def _pump(
        self,
        call: Call,
        deliver: Deliver,
        this: Try,
        slot: Slot,
        reply: Reply,
        feed: Callable[[bytes], bytes],
        data: bytes = b"",
    ) -> bool:
        """Hand on what a server says up to its end; False where nobody wants more."""
        receiver, offered = call.receiver, call.direct is None
        while not receiver.done:
            broken: StreamBroken | None = None
            try:
                if not (data := data or await reply.read()):
                    break
                out = feed(data)
            except StreamBroken as error:
                broken, out = error, error.before
            data = b""
            if out:
                if not this.first_byte_s:
                    self._began(call, this, slot)
                call.trip.delivered = True
                if not await deliver(out):
                    return False
                if not offered and call.direct is not None:
                    offered = True
                    if (taker := call.direct(feed, call.trail)) is not None:
                        reply.offer(taker)
            if broken is not None:
                raise broken
        if receiver.done:
            await reach_end(reply)
        return True

    # ------------------------------------------------------------ one attempt
    def _sent(self, call: Call, this: Try, slot: Slot) -> None:
        trip, replica = call.trip, slot.replica
        this.sent_s = self.now()
        this.replica, this.url = replica.id, replica.url
        trip.queue_s += this.sent_s - this.asked_s
        trip.tried.append(replica.id)
        trip.spot, trip.version = replica.spot, replica.version

    def _began(self, call: Call, this: Try, slot: Slot) -> None:
        this.first_byte_s = self.now()
        slot.began()
        call.trip.upstream_s += this.first_byte_s - this.sent_s
        call.trip.barren = 0
        if slot.replica.trust:
            self._judge.tell(this.replica, Event.BEGAN)

    def _ended(self, call: Call, this: Try, slot: Slot, error: BaseException) -> None:
        """An attempt ended before anything came."""
        self._blame(call, this, error)
        slot.release()

    def _blame(self, call: Call, this: Try, error: BaseException) -> None:
        this.ended_s = this.ended_s or self.now()
        if isinstance(error, ANOTHER_MAY_SUCCEED):
            if not this.first_byte_s:
                call.trip.upstream_s += this.ended_s - this.sent_s
            self._judge.failed(call, this, error)

    # ------------------------------------------------------------ a second replica beside the first
    async def _hedged(
        self, call: Call, this: Try, slot: Slot, restraint: Restraint
    ) -> tuple[Try, Slot, Reply, bytes]:
        """Give the attempt whose first bytes come first; the other one is cancelled."""
        assert call.hedge is not None
        late_s = restraint.late_s(call.hedge)
        runs = [asyncio.create_task(self._opened(call, this, slot))]
        won = None
        try:
            await asyncio.wait(runs, timeout=late_s)
            if not runs[0].done() and (beside := self._beside(call, restraint)) is not None:
                runs.append(asyncio.create_task(self._opened(call, *beside)))
            won = await _first_good(runs)
        finally:
            for run in runs:
                if run is not won and not run.cancel() and not run.cancelled() and run.exception() is None:
                    self._lost(call, *run.result())
            await asyncio.gather(*(run for run in runs if run is not won), return_exceptions=True)
        found = won.result()
        serving = found[0].replica
        call.trip.tried.remove(serving)
        call.trip.tried.append(serving)
        call.trip.spot, call.trip.version = found[1].replica.spot, found[1].replica.version
        return found

    def _beside(self, call: Call, restraint: Restraint) -> tuple[Try, Slot] | None:
        """Give a second attempt, where a replica is free and the budget allows it."""
        assert call.hedge is not None
        query = msgspec.structs.replace(call.query, exclude=frozenset(call.trip.tried))
        slot = self._dispatcher.slot_beside(query)
        if slot is None:
            return None
        if not restraint.may_hedge(call.hedge):
            slot.release()
            return None
        this = Try(self.now(), way="hedge")
        call.trip.tries.append(this)
        self._sent(call, this, slot)
        return this, slot

    async def _opened(self, call: Call, this: Try, slot: Slot) -> tuple[Try, Slot, Reply, bytes]:
        """Send and wait for the first bytes that say anything; frees all where they do not come."""
        reply: Reply | None = None
        try:
            reply = await self._asking.send(call, this, slot.replica)
            pulse, data = Pulse(), await reply.read()
            while data and call.trail is not None and not pulse.beats(data):
                data = await reply.read()  # comments are dropped: they are no answer
            self._restraints[call.model].first_bytes.note(self.now() - this.sent_s)
            return this, slot, reply, data
        except asyncio.CancelledError:
            self._lost(call, this, slot, reply)
            raise
        except BaseException as error:
            if reply is not None:
                reply.close()
            self._ended(call, this, slot, error)
            raise

    def _lost(self, call: Call, this: Try, slot: Slot, reply: Reply | None, data: bytes = b"") -> None:
        """The other one was faster, or nobody waits any more."""
        if reply is not None:
            reply.close()
        this.ended_s = self.now()
        slot.began()  # not sooner than now: so much is known of its speed
        slot.release()
        self._judge.count(call, this, "lost")

    # ------------------------------------------------------------ after a failure
    async def _pause(self, call: Call, restraint: Restraint, error: Exception) -> None:
        """Wait before the next attempt. Raises the final error where there is none."""
        trip = call.trip
        trip.barren += 1
        trip.deaths += isinstance(error, ConnectionBroken)
        hopeless = (
            trip.barren >= call.max_attempts
            or trip.deaths >= MOST_DEATHS
            or self._judge.suspected(call)
            or not (isinstance(error, ConnectFailed | Withdrawn) or restraint.may_retry())
        )
        wait_s = self._rest_s(call)
        if hopeless or self._too_long(call, wait_s):
            self._judge.given_up(call)
            raise final(error) from error
        await asyncio.sleep(wait_s)

    async def _carry_on(self, call: Call, deliver: Deliver, failure: Exception) -> None:
        """Go on with a stream that broke off. Raises the final error where that cannot be."""
        trip, trail = call.trip, call.trail
        if trail is None or call.max_attempts == 1:
            raise final(failure) from failure
        while True:
            trip.breaks += 1
            trip.barren += not trip.tries[-1].first_byte_s
            wait_s = self._rest_s(call) if trip.barren else 0.0
            if trip.breaks > call.max_attempts or self._judge.suspected(call) or self._too_long(call, wait_s):
                self._judge.given_up(call)
                raise final(failure) from failure
            await asyncio.sleep(wait_s)
            trail.read()
            try:
                if await self._rest(call, deliver):
                    return
            except (CannotContinue, ModelLoading) as error:
                self._judge.given_up(call)
                why = "" if isinstance(error, ModelLoading) else f" It cannot be carried on: {error}."
                raise final(failure, why) from failure
            except ANOTHER_MAY_SUCCEED as error:
                failure = error.with_traceback(None)

    def _rest_s(self, call: Call) -> float:
        """Give how long to wait before the next attempt, after some that gave nothing."""
        return max(BACKOFF_S * 2.0 ** (call.trip.barren - 1), self._dispatcher.rests_s(call.model))

    def _too_long(self, call: Call, wait_s: float) -> bool:
        return wait_s > MOST_PAUSE_S or self.now() + wait_s >= call.deadline_s

    async def _rest(self, call: Call, deliver: Deliver) -> bool:
        """Run the rest of a stream, a leg for each choice where need be; gives True at its end."""
        trail, receiver = call.trail, call.receiver
        assert trail is not None
        while not receiver.done:
            leg = None if trail.complete else Leg(call.path, call.body, trail, call.able)
            out = b"" if leg is None else leg.cut_short()
            if trail.complete:
                out += ending(trail)
            if out:
                call.trip.delivered = True
                if not await deliver(receiver.feed(out)):
                    return True
            elif leg is not None and not await self._leg(call, deliver, leg):
                return True
        await deliver(receiver.finish())
        return True

    async def _leg(self, call: Call, deliver: Deliver, leg: Leg) -> bool:
        """Run one leg on another replica of the version; False where nobody wants more."""
        trip = call.trip
        query = msgspec.structs.replace(call.query, exclude=frozenset(trip.tried))
        until_s = min(self.now() + MOST_PAUSE_S, call.deadline_s)
        slot = await self._dispatcher.slot_to_go_on(query, trip.version, until_s)
        this = Try(self.now())
        trip.tries.append(this)
        self._sent(call, this, slot)

        async def ask(path: str, body: bytes, *, root: bool = False) -> Reply:
            base = slot.replica.url
            reply = await self._asking.ask(
                call, slot.replica, (base.removesuffix("/v1") if root else base) + path, body
            )
            return reply if root or reply.status == 200 else await self._asking.judged(call, this, reply)

        feed = _both(leg.feed, call.receiver.feed)
        try:
            reply = await leg.open(ask)
            this.way = leg.way
            try:
                wanted = await self._pump(call, deliver, this, slot, reply, feed)
            finally:
                reply.close()
                this.ended_s = self.now()
            if wanted and not call.receiver.done and (out := leg.end()):
                wanted = await deliver(call.receiver.feed(out))
            self._judge.served(call, this)
            return wanted
        except BaseException as error:
            self._blame(call, this, error)
            raise
        finally:
            slot.release()


def _both(first: Callable[[bytes], bytes], then: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Feed one by the other, also with what was good before a break."""

    def feed(data: bytes) -> bytes:
        try:
            events = first(data)
        except StreamBroken as error:
            if error.before:
                error.before = then(error.before)
            raise
        return then(events) if events else b""

    return feed


async def _first_good(runs: "list[asyncio.Task[T]]") -> "asyncio.Task[T]":
    """Give the first run that ends well; raises what the last one raised, or what no other can mend."""
    waiting = set(runs)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for run in done:
            error = run.exception()
            if error is None:
                return run
            if not waiting or not isinstance(error, ANOTHER_MAY_SUCCEED):
                raise error
