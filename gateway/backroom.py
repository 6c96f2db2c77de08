"""What is made of finished requests behind their backs, and carried away: log lines, spans.

The event loop makes it, a small batch at a time, as soon as a batch is whole: what its requests hold is still
in the processor's cache and soon free, and no other thread is woken, which would have to fight for the
interpreter. A thread carries it away now and then, whatever that takes, and makes what is left. Nothing waits
for the thread: more than so many requests are not taken.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from gateway.passage import Passage

log = logging.getLogger("switchgear.backroom")

AT_ONCE = 32  # requests: half a millisecond
CARRIED = 16  # batches: what is carried at once is held several times over

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
        self._waiting: deque[Passage] = deque()
        self._dear: deque[Passage] = deque()  # to make which takes long
        self._made: deque[Batch[T]] = deque()
        # One writer each: the event loop, the thread, who makes.
        self._taken = self._gone = self._spoiled = 0
        self._lock = threading.Lock()  # on making; the event loop never waits for it
        self._wake, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def offer(self, passage: Passage, *, dear: bool = False) -> bool:
        """Take a request; False where there is no room. A dear one is left to the thread."""
        if self._taken - self._gone - self._spoiled >= self._limit:
            return False
        self._taken += 1
        if dear:
            self._dear.append(passage)
            return True
        self._waiting.append(passage)
        if len(self._waiting) >= AT_ONCE and self._lock.acquire(blocking=False):
            try:
                self._make_of(self._waiting)
            finally:
                self._lock.release()
            if len(self._made) >= CARRIED or self._crowded:
                self._wake.set()
        return True

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have what is left made, and nothing more within the block; waits for who is making."""
        with self._lock:
            self._make_of(self._waiting)
            self._make_of(self._dear)
            yield

    def start(self) -> None:
        """Start carrying away."""
        self._thread.start()

    def close(self, within_s: float | None = None) -> None:
        """Have what is left carried away; blocks, no longer than ``within_s``."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    @property
    def _crowded(self) -> bool:
        return self._taken - self._gone - self._spoiled > self._limit // 2

    def _make_of(self, passages: deque[Passage]) -> None:
        while passages:
            some = [passages.popleft() for _ in range(min(AT_ONCE, len(passages)))]
            try:
                self._made.append((len(some), self._make(some)))
            except Exception:
                self._spoiled += len(some)
                log.exception("%s: nothing could be made of %d requests", self._thread.name, len(some))

    def _run(self) -> None:
        closed, due_s = False, time.monotonic() + self._period_s
        while not closed:
            self._wake.wait(max(0.0, due_s - time.monotonic()))
            self._wake.clear()
            closed = self._closed
            all_of_it = closed or self._crowded or time.monotonic() >= due_s
            if all_of_it:
                with self.at_rest():
                    due_s = time.monotonic() + self._period_s
            while len(self._made) >= CARRIED or (all_of_it and self._made):
                self._carry_some([self._made.popleft() for _ in range(min(CARRIED, len(self._made)))])

    def _carry_some(self, batches: Sequence[Batch[T]]) -> None:
        try:
            self._carry(batches)
        except Exception:
            log.exception("%s: what was made is lost", self._thread.name)
        self._gone += sum(count for count, _ in batches)
