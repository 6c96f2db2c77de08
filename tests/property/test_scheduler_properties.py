"""A ticket leaves exactly once, and the order is that of the bands, whatever happens."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from routing.scheduler import QueueFull, Scheduler, Ticket

LIMIT = 6


class Queueing(RuleBasedStateMachine):
    """Holds a plain list beside the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Scheduler("m", LIMIT)
        self.waiting: list[Ticket] = []
        self.left: list[Ticket] = []
        self.now_s = 0.0

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(band=st.integers(0, 2), patience_s=st.floats(0, 10))
    def enqueue(self, band: int, patience_s: float) -> None:
        try:
            ticket = self.queue.enqueue(band=band, now_s=self.now_s, deadline_s=self.now_s + patience_s)
        except QueueFull:
            assert len(self.waiting) == LIMIT
        else:
            assert len(self.waiting) < LIMIT
            self.waiting.append(ticket)

    @rule()
    def grant(self) -> None:
        granted = self.queue.grant(self.now_s)
        order = sorted(self.waiting, key=lambda one: (one.band, one.number))
        for ticket in order:
            self.waiting.remove(ticket)
            self.left.append(ticket)
            if ticket.deadline_s >= self.now_s:
                assert granted is ticket
                return
        assert granted is None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.left.append(ticket)
        assert self.queue.withdraw(ticket)

    @invariant()
    def what_left_does_not_leave_again(self) -> None:
        assert not any(self.queue.withdraw(ticket) for ticket in self.left)
        assert len({ticket.number for ticket in self.left}) == len(self.left)
        assert len(self.queue) == len(self.waiting)


Queueing.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase
