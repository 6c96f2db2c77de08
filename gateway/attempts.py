"""From a call to its bytes: retry and fail over before the first byte, one error after it.

A failure of a replica is tried again on another one, up to the model's ``max_attempts`` and within the
deadline; a client's own mistake (4xx) is never retried. Once a byte is delivered nothing is started again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec

from backends.clients.base import (
    ClientError,
    ConnectFailed,
    InferenceClient,
    Outgoing,
    Reply,
    ReplyTimeout,
)
from backends.replica import Replica
from gateway.dispatcher import Dispatcher
from gateway.errors import (
    ApiError,
    ModelLoading,
    Overloaded,
    RateLimited,
    UpstreamFailed,
    UpstreamRefused,
    translate,
)
from gateway.openai.events import StreamBroken
from gateway.telemetry import REQUEST_SECONDS, Telemetry
from gateway.tracecontext import Trace
from routing.decision import Query

ERROR_BODY_LIMIT_BYTES = 256 * 1024
BACKOFF_S = 0.05
END_GRACE_S = 0.2


class Receiver(Protocol):
    """Takes the upstream's body, gives what the client gets; see StreamReceiver and WholeReceiver.

    ``done``: the upstream has said that nothing more comes.
    """

    done: bool

    def begin(self) -> None:
        """Reset for an attempt."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, give bytes; raises StreamBroken."""

    def finish(self) -> bytes:
        """Take the end; raises StreamBroken where it came early."""


Deliver = Callable[[bytes], Awaitable[bool]]
"""Takes a piece of the answer; False says that nobody wants more."""


class Try(msgspec.Struct, eq=False):
    """One attempt; times on the monotonic clock, 0 where the moment has not come."""

    asked_s: float
    replica: str = ""
    url: str = ""
    sent_s: float = 0.0
    first_byte_s: float = 0.0
    ended_s: float = 0.0
    outcome: str = ""


class Trip(msgspec.Struct, eq=False):
    """What became of a call so far; it outlives the call and holds none of its bytes."""

    tried: list[str] = []
    spot: bool = False  # whether the last one is
    tries: list[Try] = []
    delivered: bool = False
    queue_s: float = 0.0
    upstream_s: float = 0.0


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One request to a model; ``trip`` is written while it runs."""

    model: str
    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]]
    receiver: Receiver
    query: Query
    band: int
    deadline_s: float
    first_byte_s: float
    idle_s: float
    max_attempts: int
    trip: Trip = msgspec.field(default_factory=Trip)
    trace: Trace | None = None


class UpstreamError(Exception):
    """A replica answered with a status that another replica may not answer with."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.refusal = UpstreamRefused(status, body, headers)


ANOTHER_MAY_SUCCEED = (ClientError, StreamBroken, UpstreamError)


class Report(Protocol):
    """Hears how an attempt on a replica went."""

    def __call__(self, replica_id: str, ok: bool, reason: str = "", *, refused: bool = False) -> None:
        """``refused``: nobody listens there."""


class Attempts:
    """Runs calls on replicas."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        client: InferenceClient,
        report: Report,
        telemetry: Telemetry,
        credentials: Mapping[str, bytes],
    ) -> None:
        self._dispatcher = dispatcher
        self.now = dispatcher.now
        self.reads_prefix = dispatcher.reads_prefix
        self._client = client
        self._report = report
        self._telemetry = telemetry
        self._credentials = credentials

    async def run(self, call: Call, deliver: Deliver) -> None:
        """Deliver the answer as it comes. Raises ApiError or an exception that ``translate`` knows."""
        failure: Exception | None = None
        while True:
            try:
                await self._attempt(call, deliver)
                return
            except ModelLoading:
                if failure is None:
                    raise
                raise _final(failure) from failure
            except ANOTHER_MAY_SUCCEED as error:
                failure = error
                trip = call.trip
                if trip.delivered or len(trip.tried) >= call.max_attempts or self.now() >= call.deadline_s:
                    raise _final(error) from error
            await asyncio.sleep(BACKOFF_S * 2 ** (len(call.trip.tried) - 1))

    async def _attempt(self, call: Call, deliver: Deliver) -> None:
        """Try one replica: take a slot, send, hand on what comes, check that it is whole."""
        now, trip, receiver = self.now, call.trip, call.receiver
        this = Try(now())
        trip.tries.append(this)
        query = call.query
        if trip.tried:
            query = msgspec.structs.replace(query, exclude=frozenset(trip.tried))
        async with self._dispatcher.slot(query, band=call.band, deadline_s=call.deadline_s) as slot:
            this.sent_s = now()
            this.replica, this.url = slot.replica.id, slot.replica.url
            trip.queue_s += this.sent_s - this.asked_s
            trip.tried.append(slot.replica.id)
            trip.spot = slot.replica.spot
            receiver.begin()
            try:
                reply = await self._send(call, slot.replica)
                try:
                    while not receiver.done and (data := await reply.read()):
                        if out := receiver.feed(data):
                            if not this.first_byte_s:
                                this.first_byte_s = now()
                                slot.began()
                                trip.upstream_s += this.first_byte_s - this.sent_s
                            trip.delivered = True
                            if not await deliver(out):
                                return
                    if receiver.done:
                        await _reach_end(reply)
                finally:
                    reply.close()
                    this.ended_s = now()
                out = receiver.finish()
                if not this.first_byte_s:
                    trip.upstream_s += now() - this.sent_s
            except ANOTHER_MAY_SUCCEED as error:
                this.outcome = self._failed(call, slot.replica, error)
                raise
            finally:
                this.ended_s = this.ended_s or now()
            if out:
                trip.delivered = True
                await deliver(out)
            this.outcome = self._served(call, slot.replica, "ok")

    async def _send(self, call: Call, replica: Replica) -> Reply:
        """Send; gives a reply with status 200. Raises UpstreamRefused or UpstreamError for any other."""
        headers = call.headers
        if call.trace is not None:
            headers = [*headers, *call.trace.headers(len(call.trip.tries))]
        credential = self._credentials.get(replica.id)
        if credential is not None:
            headers = [*headers, (b"authorization", credential)]
        reply = await self._client.send(
            Outgoing(
                replica.url + call.path,
                call.body,
                headers,
                first_byte_s=call.first_byte_s,
                idle_s=call.idle_s,
                deadline_s=call.deadline_s,
            )
        )
        if reply.status == 200:
            return reply
        try:
            body = await reply.read_all(ERROR_BODY_LIMIT_BYTES)
        finally:
            reply.close()
        error = UpstreamError(reply.status, body, reply.headers)
        if reply.status in (400, 409, 413, 422):
            self._served(call, replica, "refused")
            raise error.refusal
        raise error

    def _failed(self, call: Call, replica: Replica, error: Exception) -> str:
        match error:
            case ConnectFailed():
                outcome = "unreachable"
            case ReplyTimeout():
                outcome = "timeout"
            case UpstreamError(status=status):
                outcome = f"status_{status}"
            case _:
                outcome = "broken"
        self._count(call, replica, outcome)
        clients_fault = isinstance(error, UpstreamError) and error.status < 500
        clients_hurry = self.now() >= call.deadline_s
        if not clients_fault and not clients_hurry:
            self._report(replica.id, False, str(error), refused=isinstance(error, ConnectFailed))
        return outcome

    def _served(self, call: Call, replica: Replica, outcome: str) -> str:
        self._count(call, replica, outcome)
        self._report(replica.id, True)
        return outcome

    def _count(self, call: Call, replica: Replica, outcome: str) -> None:
        """Count an attempt by its outcome, and how long it took."""
        telemetry, kind = self._telemetry, (call.model, replica.id, outcome)
        row = telemetry.rows.get(kind)
        if row is None:
            error = "" if outcome == "ok" else outcome
            row = telemetry.rows[kind] = (
                telemetry.at("switchgear_upstream_attempts_total", (call.model, outcome)),
                telemetry.at("gen_ai_client_operation_duration_seconds", (call.model, replica.id, error)),
            )
        telemetry.values[row[0]] += 1.0
        telemetry.note(row[1], REQUEST_SECONDS, self.now() - call.trip.tries[-1].sent_s)


async def _reach_end(reply: Reply) -> None:
    """Wait a moment for the end behind ``[DONE]``, so that the connection can be used again.

    The answer is whole already: nothing that goes wrong here matters, and the client's own ``[DONE]`` comes
    after this, so that a client which leaves upon it finds nothing left to abort.
    """
    with suppress(ClientError, TimeoutError):
        async with asyncio.timeout(END_GRACE_S):
            while await reply.read():
                pass


def _final(error: Exception) -> ApiError:
    """Give the client's view of the last failure, once own retries are used up."""
    if isinstance(error, UpstreamError):
        refusal = error.refusal
        if error.status == 429:
            return RateLimited(refusal.message, retry_after_s=refusal.retry_after_s)
        if error.status == 503:
            return Overloaded(refusal.message, retry_after_s=refusal.retry_after_s)
        if error.status in (401, 403, 404):
            return UpstreamFailed(
                f"The model's server does not serve this gateway (status {error.status}); "
                "check the replica's url, upstream_model and api_key_env."
            )
        return UpstreamFailed(f"The model's server failed with status {error.status}.")
    if isinstance(error, StreamBroken):
        return UpstreamFailed(f"The model's server failed: {error}.")
    return translate(error)
