"""The seam towards the client: what takes an answer, from whatever gives one."""

from typing import Protocol


class Lane(Protocol):
    """The short way for pieces of a stream that has begun."""

    @property
    def clear(self) -> bool:
        """Whether ``at_once`` may be called now."""

    def at_once(self, data: bytes) -> None:
        """Take a piece without waiting."""


class Outlet(Protocol):
    """Takes an answer: ``whole``, or ``accept``, ``begin`` and ``piece`` again and again.

    Heads are lines that end in CRLF; the status is 200.
    """

    async def whole(self, head: bytes, body: bytes) -> None:
        """Take a complete answer."""

    def accept(self, head: bytes) -> None:
        """Take note that a stream is admitted: from now on it may be kept alive by heartbeats."""

    async def begin(self, head: bytes) -> None:
        """Take the head of a stream, as far as it is known when the body begins."""

    async def piece(self, data: bytes) -> None:
        """Take a piece of a stream."""

    @property
    def lane(self) -> Lane | None:
        """The short way, where there is one."""
