"""``serve`` with several workers: a parent that binds once, starts N processes and sees to it that they run.

All workers accept from the one listening socket that the parent holds. With a socket each (SO_REUSEPORT) the
kernel hands a connection to one worker before that one accepts it, and a worker that dies takes those with
it; from a shared socket nobody has the connection until a live worker takes it.

The parent does nothing else: no requests, no threads, no database. A worker that ends by itself is started
again, at once if it had run for a while, else after a growing pause. SIGTERM and SIGINT are passed on, as are
SIGHUP and SIGUSR1, and the parent ends after its last worker. Workers end (drained, as by SIGTERM) when the
parent is gone: they hold the reading end of a pipe that only the parent can write to.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable

import msgspec

log = logging.getLogger("switchgear.workers")

PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 10.0
KILL_AFTER_S = 15.0  # beyond the time in which a worker should have drained
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class Worker(msgspec.Struct, frozen=True):
    """What a worker knows of itself; ``parent_fd`` is at its end when the parent is gone."""

    place: int
    parent_fd: int
    ready_fd: int

    def ready(self) -> None:
        """Tell the parent that this worker serves."""
        with contextlib.suppress(OSError):
            os.write(self.ready_fd, b".")


class _Place(msgspec.Struct):
    """One of the N places: who is in it, since when, or when it is to be filled again."""

    pid: int = 0
    since_s: float = 0.0
    due_s: float = 0.0
    pause_s: float = 0.0


def supervise(
    count: int, *, drain_s: float, when_ready: Callable[[], None], hung_up: Callable[[], bool]
) -> Worker | int:
    """Start workers: returns a Worker in each of them, and in the parent, at its end, the exit status.

    ``when_ready`` is called in the parent once all workers serve; a worker that ends before that ends all,
    with status 1. ``hung_up`` tells whether SIGHUP came because the terminal is gone.
    """
    return _Parent(count, drain_s, when_ready, hung_up).run()


class _Parent:
    def __init__(
        self, count: int, drain_s: float, when_ready: Callable[[], None], hung_up: Callable[[], bool]
    ) -> None:
        self._places = [_Place() for _ in range(count)]
        self._kill_after_s = drain_s + KILL_AFTER_S
        self._when_ready = when_ready
        self._hung_up = hung_up
        self._parent_pipe = os.pipe()
        self._ready_pipe = os.pipe()
        self._signal_pipe = os.pipe()
        for fd in (*self._signal_pipe, self._ready_pipe[0]):
            os.set_blocking(fd, False)
        self._ready = 0
        self._status = 0
        self._stop_by_s: float | None = None

    def run(self) -> Worker | int:
        """Fork, then wait for signals, for ever; see ``supervise``."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # what counts is the byte in the pipe
        signal.set_wakeup_fd(self._signal_pipe[1], warn_on_full_buffer=False)
        while True:
            worker = self._fill()
            if worker is not None:
                return worker
            pipes = [self._signal_pipe[0], self._ready_pipe[0]]
            readable = select.select(pipes, [], [], self._patience_s())[0]
            if self._ready_pipe[0] in readable:
                self._count_ready()
            if self._signal_pipe[0] in readable:
                for byte in _drained(self._signal_pipe[0]):
                    self._handle(byte)
            self._reap()
            if self._stop_by_s is not None:
                if not any(place.pid for place in self._places):
                    return self._status
                if time.monotonic() >= self._stop_by_s:
                    self._pass_on(signal.SIGKILL)

    def _fill(self) -> Worker | None:
        """Fork into every place that is due; gives a Worker in the child."""
        now_s = time.monotonic()
        for number, place in enumerate(self._places):
            if place.pid or self._stop_by_s is not None or now_s < place.due_s:
                continue
            place.since_s = now_s
            place.pid = os.fork()
            if place.pid == 0:
                return self._become(number)
        return None

    def _become(self, number: int) -> Worker:
        """Be a worker: away from the terminal's signals, which come through the parent."""
        signal.set_wakeup_fd(-1)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until it is handled, it must not end anybody
        os.setpgid(0, 0)
        for fd in (self._parent_pipe[1], self._ready_pipe[0], *self._signal_pipe):
            os.close(fd)
        return Worker(number, self._parent_pipe[0], self._ready_pipe[1])

    def _patience_s(self) -> float | None:
        """Give the time until something is due; None where only a signal can bring anything."""
        due = [place.due_s for place in self._places if not place.pid and self._stop_by_s is None]
        if self._stop_by_s is not None:
            due.append(self._stop_by_s)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _count_ready(self) -> None:
        before = self._ready
        self._ready += len(_drained(self._ready_pipe[0]))
        if before < len(self._places) <= self._ready:
            self._when_ready()

    def _handle(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and self._hung_up()):
            self._stop()
        elif number in (signal.SIGHUP, signal.SIGUSR1):
            self._pass_on(number)

    def _stop(self) -> None:
        """Let everybody drain; asked again, they do not wait."""
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + self._kill_after_s
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for place in self._places:
            if place.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(place.pid, number)

    def _reap(self) -> None:
        """Note who has ended, and when its place is to be filled again."""
        for number, place in enumerate(self._places):
            if not place.pid or os.waitpid(place.pid, os.WNOHANG)[0] == 0:
                continue
            self._bury(number, place)

    def _bury(self, number: int, place: _Place) -> None:
        now_s = time.monotonic()
        pid, place.pid = place.pid, 0
        if self._stop_by_s is not None:
            return
        if self._ready < len(self._places):
            self._status = 1
            self._stop()
            return
        steady = now_s - place.since_s >= STEADY_S
        place.pause_s = 0.0 if steady else min(LONGEST_PAUSE_S, max(PAUSE_S, 2 * place.pause_s))
        place.due_s = now_s + place.pause_s
        log.error("worker %d (process %d) ended; started again in %.1f s", number, pid, place.pause_s)


def _drained(fd: int) -> bytes:
    """Read what has come."""
    try:
        return os.read(fd, 4096)
    except BlockingIOError:
        return b""
