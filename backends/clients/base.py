"""The seam towards replicas: what a client sends, gets and raises.

Order of events: ``send`` returns once status line and headers are in; then ``read`` gives the body as it
comes, in pieces, and ``b""`` at its end; ``close`` is called exactly once, whatever happened, and aborts
the exchange where the body is not complete, so that an inference server stops computing.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec


class ClientError(Exception):
    """An exchange with a replica failed.

    ClientError
    +-- ConnectFailed     nothing was sent
    +-- ConnectionBroken  closed, reset or garbled
    +-- ReplyTimeout      silent for too long, before or within the answer
    +-- ReplyTooLarge     over the size cap
    +-- Withdrawn         taken back by ourselves: its machine is about to go
    """


class ConnectFailed(ClientError):
    """No connection could be made: refused, unreachable, unknown host, or the connect time ran out."""


class ConnectionBroken(ClientError):
    """The connection ended, or what came over it is not HTTP."""


class ReplyTimeout(ClientError):
    """No byte of the body for longer than ``first_byte_s``, or then ``idle_s``; or the deadline passed."""


class ReplyTooLarge(ClientError):
    """A body or header block over the cap."""


class Withdrawn(ClientError):
    """We took the exchange back, whole as its server is: it goes on elsewhere."""


class Outgoing(msgspec.Struct, frozen=True):
    """One request to a replica.

    ``headers`` are sent as they are, beside host, content-type and content-length. ``deadline_s`` is a time
    of the event loop's clock after which the exchange counts as silent, however much came. Of server-sent
    ``events``, comments are silence: a server that computes nothing any more may still send them.
    """

    url: str
    body: bytes = b""
    headers: Sequence[tuple[bytes, bytes]] = ()
    method: str = "POST"
    connect_s: float = 5.0
    first_byte_s: float = 120.0
    idle_s: float = 60.0
    deadline_s: float = math.inf
    events: bool = False


class Pulse:
    """Tells the pieces of an event stream that are signs of life from comments and blank lines."""

    in_comment = False

    def beats(self, piece: bytes) -> bool:
        """Take a piece, not empty; True where there is anything but comments in it, however it is cut."""
        if not self.in_comment and piece[0] not in b":\r\n":
            if piece[-1] != 10:
                self.in_comment = piece[piece.rfind(b"\n") + 1] == 58
            return True
        lines = piece.split(b"\n")
        told = lines[1:] if self.in_comment else lines
        if told:
            self.in_comment = told[-1].startswith(b":")
        return any(line.strip() and not line.startswith(b":") for line in told)


Taker = Callable[[bytes], bool]
"""Takes bytes of a body as they come, without waiting; False where it took nothing."""


class Reply(Protocol):
    """An answer whose head is in."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, names in lower case."""

    @property
    def ended(self) -> bool:
        """Whether all of the body has come, and was read."""

    async def read(self) -> bytes:
        """Wait for the next bytes of the body; ``b""`` at its end.

        Raises ConnectionBroken where the body ends early, ReplyTimeout where it stalls.
        """

    def offer(self, taker: Taker) -> None:
        """Offer it what comes while ``read`` waits: the short way of a stream, no task is woken.

        ``read`` gives only what it did not take, and raises what it raises. A client may never offer.
        """

    async def read_all(self, limit_bytes: int) -> bytes:
        """Give the whole body; raises ReplyTooLarge over the limit, else as ``read``."""

    def close(self) -> None:
        """Give the connection back, or abort it where the body is not complete."""


class InferenceClient(Protocol):
    """Speaks HTTP to inference servers; keeps connections open between requests."""

    def send(self, request: Outgoing) -> Awaitable[Reply]:
        """Send and wait for the head of the answer.

        Raises ConnectFailed before anything was sent, ConnectionBroken or ReplyTimeout after.
        """

    def withdraw(self, url: str) -> None:
        """End every exchange with the server of the url, with ``Withdrawn`` where the client can."""

    async def close(self) -> None:
        """Close every connection."""
