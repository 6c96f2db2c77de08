"""One request to a model: what is sent, what receives the answer, and what became of it so far."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, Self

import msgspec

from backends.clients.base import ClientError, Taker
from backends.replica import Event
from gateway.errors import UpstreamRefused
from gateway.openai.events import StreamBroken
from gateway.openai.trail import Trail
from gateway.openai.ways import Able
from gateway.settings import HedgeSettings
from gateway.tracecontext import Trace
from routing.decision import Query


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

Feed = Callable[[bytes], bytes]
"""What makes bytes for the client of bytes of the upstream; raises StreamBroken."""

Direct = Callable[[Feed, "Trail | None"], Taker | None]
"""Gives what takes the middle of a stream as it comes, past ``Deliver``, where it can be."""


class Try(msgspec.Struct, eq=False):
    """One attempt; times on the monotonic clock, 0 where the moment has not come.

    ``way`` is how it goes on with a stream (``openai.continuation``), ``hedge`` for a second one beside the
    first, empty for all else.
    """

    asked_s: float
    replica: str = ""
    url: str = ""
    way: str = ""
    sent_s: float = 0.0
    first_byte_s: float = 0.0
    ended_s: float = 0.0
    outcome: str = ""


class Trip(msgspec.Struct, eq=False):
    """What became of a call so far; it outlives the call and holds none of its bytes.

    ``tried`` are the replicas in order, the one that serves last. ``barren`` attempts in a row gave nothing;
    under ``deaths`` of them a connection broke.
    """

    tried: list[str] = []
    spot: bool = False  # whether the last one is
    version: str = ""  # of the last one
    tries: list[Try] = []
    delivered: bool = False
    barren: int = 0
    breaks: int = 0
    deaths: int = 0
    queue_s: float = 0.0
    upstream_s: float = 0.0
    held: list[tuple[str, Event, str]] = []
    """What replicas did wrong that may be the request's own fault."""

    def on(self) -> Self:
        """Begin with another model; what was tried before still counts as tried."""
        self.barren = self.deaths = 0
        return self


class Call(msgspec.Struct, kw_only=True, eq=False):
    """One request to a model; ``trip`` is written while it runs.

    A stream has a ``trail``, and what its servers are ``able`` to do to go on with it. ``spare`` gives the
    call of another model, where this one fails before the first byte.
    """

    model: str
    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]]
    receiver: Receiver
    query: Query
    band: int
    deadline_s: float
    connect_s: float = 5.0
    first_byte_s: float
    idle_s: float
    max_attempts: int
    hedge: HedgeSettings | None = None
    trail: Trail | None = None
    able: Able = Able()
    trip: Trip = msgspec.field(default_factory=Trip)
    trace: Trace | None = None
    direct: Direct | None = None


class UpstreamError(Exception):
    """A replica answered with a status that another replica may not answer with."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.refusal = UpstreamRefused(status, body, headers)


ANOTHER_MAY_SUCCEED = (ClientError, StreamBroken, UpstreamError)
