"""The bounded queue before each model: who waits, who is next, who waited too long. Pure: time comes in.

A lower ``band`` goes first; inside a band the order is that of arrival. A ticket leaves exactly once:
granted, expired or withdrawn.
"""

import heapq
import itertools

import msgspec


class QueueFull(Exception):
    """The queue before a model has no room; ``retry_after_s`` estimates when it will."""

    def __init__(self, model: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"The queue of model {model!r} is full ({limit} requests wait).")
        self.retry_after_s = retry_after_s


class WaitExpired(Exception):
    """A request waited for a replica up to its deadline."""

    def __init__(self, model: str, waited_s: float) -> None:
        super().__init__(f"No replica of model {model!r} became free within {waited_s:.1f} s.")


class Ticket(msgspec.Struct, eq=False):
    """One waiting request."""

    number: int
    band: int
    enqueued_s: float
    deadline_s: float
    live: bool = True


class Scheduler:
    """The waiting tickets of one model."""

    def __init__(self, model: str, limit: int) -> None:
        self._model = model
        self.limit = limit
        self._heap: list[tuple[int, int, Ticket]] = []
        self._numbers = itertools.count()
        self._live = 0
        self._service_s = 1.0  # decayed time between two grants

    def __len__(self) -> int:
        return self._live

    def enqueue(self, *, band: int, now_s: float, deadline_s: float) -> Ticket:
        """Give a ticket; raises QueueFull."""
        if self._live >= self.limit:
            raise QueueFull(self._model, self.limit, retry_after_s=self.expected_wait_s())
        ticket = Ticket(next(self._numbers), band, now_s, deadline_s)
        heapq.heappush(self._heap, (band, ticket.number, ticket))
        self._live += 1
        return ticket

    def grant(self, now_s: float) -> Ticket | None:
        """Take the next ticket that is still waiting and in time; None if there is none."""
        while self._heap:
            ticket = heapq.heappop(self._heap)[2]
            if not ticket.live:
                continue
            ticket.live = False
            self._live -= 1
            if ticket.deadline_s >= now_s:
                return ticket
        return None

    def withdraw(self, ticket: Ticket) -> bool:
        """Take back a ticket; False if it had already left."""
        if not ticket.live:
            return False
        ticket.live = False
        self._live -= 1
        if len(self._heap) > 2 * self._live + 16:  # else a queue that is never granted from would grow
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapq.heapify(self._heap)
        return True

    def observe_service(self, seconds: float) -> None:
        """Learn how long one slot of this model is held, for the wait estimate."""
        self._service_s += 0.1 * (seconds - self._service_s)

    def expected_wait_s(self, slots: int = 1) -> float:
        """Estimate the wait of a newcomer, in seconds."""
        return self._service_s * (self._live + 1) / max(1, slots)
