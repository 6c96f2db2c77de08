"""The buffer, under any interleaving of joins, leaves, frames and reads."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.state.broadcast import Buffer, Overrun, Reader

FRAMES = st.binary(min_size=1, max_size=30)


class Broadcast(RuleBasedStateMachine):
    """A model of the buffer: everything that was ever said, and what each reader got."""

    @initialize(limit=st.integers(1, 120))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.buffer = Buffer(limit)
        self.said: list[bytes] = []
        self.readers: list[tuple[Reader, int, list[bytes]]] = []
        self.deserted = 0
        self.told: set[int] = set()
        self.waiting: set[int] = set()
        self.furthest = 0  # where the fastest reader ever was, also one that has left

        def left() -> None:
            self.deserted += 1

        self.buffer.on_deserted = left

    @precondition(lambda self: not self.buffer.ended)
    @rule(frame=FRAMES)
    def say(self, frame: bytes) -> None:
        self.buffer.append(frame)
        self.said.append(frame)
        assert self.waiting <= self.told, "who waits is told"
        taken = [at + len(got) for _, at, got in self.readers]
        unread = sum(map(len, self.said[max(taken) :])) if taken else 0
        assert self.buffer.size_bytes <= max(self.limit, len(frame), unread), "bounded as far as may be"

    @rule(after=st.integers(0, 12))
    def join(self, after: int) -> None:
        try:
            reader = self.buffer.join(after)
        except Overrun:
            assert after < self.buffer.base
            return
        at = min(after, len(self.said))
        assert reader.at == at >= self.buffer.base
        self.readers.append((reader, at, []))
        self.furthest = max(self.furthest, at)

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 9))
    def read(self, which: int) -> None:
        reader, begun, got = self.readers[which % len(self.readers)]
        try:
            frames = reader.take()
        except Overrun:
            assert begun + len(got) < self.buffer.base
            assert begun + len(got) < self.furthest, "never the fastest one"
            return
        got += frames
        self.furthest = max(self.furthest, begun + len(got))
        assert got == self.said[begun : begun + len(got)]
        assert begun + len(got) == len(self.said), "everything that is there"
        if not frames and not self.buffer.ended:
            self.waiting.add(id(reader))
            self.told.discard(id(reader))
            reader.notify = partial(self.told.add, id(reader))

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        reader, _, _ = self.readers.pop(which % len(self.readers))
        before = self.deserted
        reader.leave()
        reader.leave()
        self.waiting.discard(id(reader))
        assert self.deserted - before == (not self.readers and not self.buffer.ended), "told once"

    @precondition(lambda self: not self.buffer.ended)
    @rule()
    def end(self) -> None:
        self.buffer.end()
        assert self.waiting <= self.told

    @invariant()
    def bounded(self) -> None:
        if not hasattr(self, "buffer"):
            return
        kept = self.said[self.buffer.base :]
        assert self.buffer.size_bytes == sum(map(len, kept))
        assert self.buffer.length == len(self.said)
        assert self.buffer.first == (self.said[0] if self.said else None)
        taken = [at + len(got) for _, at, got in self.readers]
        unread = self.said[max(taken) :] if taken else []
        assert self.buffer.ahead_bytes == sum(map(len, unread))

    @invariant()
    def done_is_done(self) -> None:
        for reader, at, got in getattr(self, "readers", []):
            assert reader.done == (self.buffer.ended and at + len(got) >= len(self.said))


TestBroadcast = Broadcast.TestCase


@given(st.lists(FRAMES), st.integers(0, 50), st.integers(0, 50))
def test_a_late_joiner_gets_what_the_first_one_got(frames: list[bytes], joined: int, split: int) -> None:
    buffer = Buffer(10_000)
    first = buffer.join()
    late = first
    for number, frame in enumerate(frames):
        if number == min(joined, len(frames) - 1):
            late = buffer.join()
        buffer.append(frame)
    early = first.take()
    buffer.end()
    got = late.take() if late is not first else early
    assert early + first.take() == got == frames
    assert first.done
