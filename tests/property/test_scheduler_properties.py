"""A ticket leaves exactly once, nobody starves, tenants are served alike, whatever happens."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from routing.decision import Query
from routing.scheduler import AGED_EVERY, QueueFull, Scheduler, Ticket, WaitTooLong

LIMIT = 6
AGE_S = 3.0
INF = float("inf")


class Queueing(RuleBasedStateMachine):
    """Holds a plain list beside the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Scheduler("m", LIMIT, AGE_S)
        self.waiting: list[Ticket] = []
        self.left: list[Ticket] = []
        self.now_s = 0.0

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(held_s=st.floats(0, 3))
    def observe(self, held_s: float) -> None:
        self.queue.observe_service(held_s)

    @rule(
        band=st.integers(0, 2),
        tenant=st.sampled_from("abc"),
        tokens=st.integers(0, 1000),
        patience_s=st.floats(0, 10),
    )
    def enqueue(self, band: int, tenant: str, tokens: int, patience_s: float) -> None:
        query = Query(model="m", tenant=tenant, prompt_tokens=tokens)
        expected_s = self.queue.expected_wait_s(band, query, 2)
        worse = [one for one in self.waiting if one.band > band]
        try:
            ticket, displaced = self.queue.enqueue(
                query,
                band=band,
                now_s=self.now_s,
                deadline_s=self.now_s + patience_s,
                patience_s=patience_s,
                slots=2,
            )
        except WaitTooLong:
            assert expected_s > patience_s
        except QueueFull:
            assert len(self.waiting) == LIMIT
            assert not worse
        else:
            assert expected_s <= patience_s
            assert (displaced is not None) == (len(self.waiting) == LIMIT)
            if displaced is not None:
                assert displaced.band >= band
                assert not worse or displaced in worse
                self._leave(displaced)
            self.waiting.append(ticket)

    @rule()
    def grant(self) -> None:
        """Somebody in time gets it, if there is anyone; of a better band unless somebody has aged."""
        granted = self.queue.grant(self.now_s)
        in_time = [one for one in self.waiting if one.deadline_s >= self.now_s]
        if granted is None:
            assert not in_time
            for ticket in list(self.waiting):
                self._leave(ticket)
            return
        assert granted in in_time
        better = [one for one in in_time if one.band < granted.band]
        assert not better or self.now_s - granted.enqueued_s > AGE_S
        mine = [
            one for one in in_time if (one.band, one.query.tenant) == (granted.band, granted.query.tenant)
        ]
        assert granted is mine[0]
        self._leave(granted)
        for ticket in [one for one in self.waiting if not self._known(one)]:
            assert ticket.deadline_s < self.now_s
            self._leave(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        assert self.queue.withdraw(ticket)
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        self.left.append(ticket)

    def _known(self, ticket: Ticket) -> bool:
        return ticket.number in self.queue._arrivals

    @invariant()
    def what_left_does_not_leave_again(self) -> None:
        assert not any(self.queue.withdraw(ticket) for ticket in self.left)
        assert len({ticket.number for ticket in self.left}) == len(self.left)
        assert len(self.queue) == len(self.waiting) <= LIMIT


Queueing.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase

sizes = st.lists(st.integers(1, 500), min_size=30, max_size=60)


def put(queue: Scheduler, tenant: str, tokens: int, band: int = 1, now_s: float = 0.0) -> Ticket:
    query = Query(model="m", tenant=tenant, prompt_tokens=tokens)
    return queue.enqueue(query, band=band, now_s=now_s, deadline_s=INF, patience_s=INF, slots=1)[0]


@given(st.lists(sizes, min_size=2, max_size=5))
def test_tenants_that_wait_together_are_served_alike(tenants: list[list[int]]) -> None:
    """While all of them have work waiting, their tokens differ by two of the dearest requests at most."""
    queue = Scheduler("m", 1000)
    for number, requests in enumerate(tenants):
        for tokens in requests:
            put(queue, str(number), tokens)
    dearest = max(max(requests) for requests in tenants) + 1
    served = {str(number): 0.0 for number in range(len(tenants))}
    left = Counter({str(number): len(requests) for number, requests in enumerate(tenants)})
    while min(left.values()):
        ticket = queue.grant(0.0)
        assert ticket is not None
        served[ticket.query.tenant] += ticket.cost
        left[ticket.query.tenant] -= 1
        assert max(served.values()) - min(served.values()) <= 2 * dearest


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=3), st.data())
def test_groups_share_by_weight_however_many_are_in_them(
    groups: list[list[int]], data: st.DataObject
) -> None:
    """Of two neighbours in the tree, each that waits all along gets what its weight says, and no more."""
    weights = data.draw(st.lists(st.integers(1, 4), min_size=len(groups), max_size=len(groups)))
    queue = Scheduler("m", 10_000)
    for group, (weight, members) in enumerate(zip(weights, groups, strict=True)):
        for member, own in enumerate(members):
            query = Query(
                model="m", tenant=f"{group}/{member}", weight=own, within=((str(group), weight),),
                prompt_tokens=9,
            )  # fmt: skip
            for _ in range(60):
                queue.enqueue(query, band=1, now_s=0.0, deadline_s=INF, patience_s=INF, slots=1)
    granted = [queue.grant(0.0) for _ in range(60)]
    names = [one.query.tenant for one in granted if one is not None]
    by_group = Counter(name.partition("/")[0] for name in names)
    shares = [by_group[str(group)] / weight for group, weight in enumerate(weights)]
    assert max(shares) - min(shares) <= 1
    for group, members in enumerate(groups):
        inner = [names.count(f"{group}/{member}") / own for member, own in enumerate(members)]
        assert max(inner) - min(inner) <= 1


@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=12))
def test_nothing_starves(rate: int, before: list[tuple[int, str]]) -> None:
    """However much better work keeps coming, a ticket is granted within a bound."""
    queue = Scheduler("m", 10_000, AGE_S)
    for band, tenant in before:
        put(queue, tenant, 10, band)
    ticket = put(queue, "poor", 500, band=2)
    bound = (len(before) + 1) * AGED_EVERY
    for step in itertools.count(1):
        now_s = AGE_S + 1 + step
        for _ in range(rate):
            put(queue, "rich", 1, band=0, now_s=now_s)
        if queue.grant(now_s) is ticket:
            break
        assert step <= bound


@given(st.lists(st.tuples(st.integers(0, 2), st.text("ab", max_size=3), st.integers(0, 9)), max_size=40))
def test_counts_of_tenants_do_not_pile_up(tickets: list[tuple[int, str, int]]) -> None:
    queue = Scheduler("m", 1000)
    for band, tenant, tokens in tickets:
        put(queue, tenant, tokens, band)
    while queue.grant(0.0) is not None:
        pass
    assert not any(band._served for band in queue._bands)
