"""What is made of finished requests behind their backs, and carried away: log lines, spans.

The event loop makes it, of a batch at a time: what its requests hold is still in the processor's cache and
soon free, and no other thread is woken, which would have to fight for the interpreter. A thread carries it
away now and then, whatever that takes, and makes what takes long. Nothing waits for the thread: more than so
many requests are not taken.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gateway.passage import Passage

log = logging.getLogger("switchgear.backroom")

CARRIED = 1024  # requests: each waking costs, but what a busy moment leaves behind is a quiet one's work

T = TypeVar("T")
Batch = tuple[int, T]
"""How many requests, and what was made of them."""


class Backroom(Generic[T]):
    """``make`` is given some requests, ``carry``, in the thread, what was made since, in order.

    What raises is logged, and what it was given is lost.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Sequence[Passage]], T],
        carry: Callable[[Sequence[Batch[T]]], None],
        limit: int,
        period_s: float = 1.0,
    ) -> None:
        """Every ``period_s`` it is carried away, and sooner where there is enough to be carried at once."""
        self._make, self._carry, self._limit, self._period_s = make, carry, limit, period_s
        self._left: deque[Passage] = deque()
        self._made: deque[Batch[T]] = deque()
        # One writer each: the event loop, the thread, and, of what was spoiled, both.
        self._taken = self._gone = self._called = 0
        self._spoiled = [0, 0]
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def offer(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """Take requests, and make something of them at once; gives those that there is no room for."""
        room = self._room()
        if some := passages[:room]:
            self._taken += len(some)
            self._spoiled[0] += self._make_of(some)
            if self._taken - self._called >= min(CARRIED, self._limit // 2):
                self._called = self._taken
                self._wake.set()
        return passages[room:]

    def leave(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        """Leave requests to the thread, since it takes long; gives those that there is no room for."""
        room = self._room()
        self._taken += len(passages[:room])
        self._left.extend(passages[:room])
        return passages[room:]

    def start(self) -> None:
        """Start carrying away."""
        self._thread.start()

    def close(self, within_s: float | None = None) -> None:
        """Have what is left carried away; blocks, no longer than ``within_s``."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def _room(self) -> int:
        return max(0, self._limit - (self._taken - self._gone - sum(self._spoiled)))

    def _make_of(self, some: Sequence[Passage]) -> int:
        """Make something of some requests; gives how many are spoiled."""
        try:
            self._made.append((len(some), self._make(some)))
        except Exception:
            log.exception("%s: nothing could be made of %d requests", self._thread.name, len(some))
            return len(some)
        return 0

    def _run(self) -> None:
        closed = False
        while not closed:
            self._wake.wait(self._period_s)
            self._wake.clear()
            closed = self._closed
            while self._left:
                self._spoiled[1] += self._make_of([self._left.popleft()])
            # What comes meanwhile waits for its own time, or small portions never end.
            waits = len(self._made)
            while waits > 0:
                some = self._some(waits)
                waits -= len(some)
                self._carry_some(some)

    def _some(self, most: int) -> list[Batch[T]]:
        """Give what was made of so many requests as are carried at once, of ``most`` batches."""
        some: list[Batch[T]] = []
        count = 0
        while len(some) < most and count < CARRIED:
            some.append(self._made.popleft())
            count += some[-1][0]
        return some

    def _carry_some(self, batches: Sequence[Batch[T]]) -> None:
        try:
            self._carry(batches)
        except Exception:
            log.exception("%s: what was made is lost", self._thread.name)
        self._gone += sum(count for count, _ in batches)
