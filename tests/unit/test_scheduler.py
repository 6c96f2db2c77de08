"""The queue before a model: bands, fairness, ageing, limits, deadlines, estimates."""

import pytest

from routing.decision import Query
from routing.scheduler import AGED_EVERY, QueueFull, Scheduler, Ticket, WaitTooLong

INF = float("inf")


def enqueue(
    queue: Scheduler,
    band: int = 1,
    tenant: str = "t",
    *,
    tokens: int = 10,
    now_s: float = 0.0,
    deadline_s: float = 100.0,
    patience_s: float = INF,
    slots: int = 1,
) -> Ticket:
    query = Query(model="m", tenant=tenant, prompt_tokens=tokens)
    ticket, _ = queue.enqueue(
        query, band=band, now_s=now_s, deadline_s=deadline_s, patience_s=patience_s, slots=slots
    )
    return ticket


def order(queue: Scheduler, now_s: float = 0.0) -> list[Ticket]:
    """Grant everything."""
    granted = []
    while (ticket := queue.grant(now_s)) is not None:
        granted.append(ticket)
    return granted


def test_a_lower_band_goes_first_and_a_tenant_keeps_its_order() -> None:
    queue = Scheduler("m", 10)
    tickets = [enqueue(queue, band) for band in (2, 1, 0, 1, 0, 2)]
    assert order(queue) == [tickets[index] for index in (2, 4, 1, 3, 0, 5)]
    assert queue.grant(0.0) is None


def test_tenants_of_a_band_get_equal_tokens_not_equal_requests() -> None:
    queue = Scheduler("m", 100)
    for _ in range(40):
        enqueue(queue, tenant="long", tokens=400)
    for _ in range(40):
        enqueue(queue, tenant="short", tokens=100)
    first = [queue.grant(0.0) for _ in range(25)]
    tokens = dict.fromkeys(("long", "short"), 0)
    for ticket in first:
        assert ticket is not None
        tokens[ticket.query.tenant] += ticket.query.prompt_tokens
    assert tokens == {"long": 2000, "short": 2000}


def test_output_weighs_twice() -> None:
    queue = Scheduler("m", 10)
    heavy = Query(model="m", tenant="a", prompt_tokens=0, output_tokens=100)
    for query in (heavy, heavy):
        queue.enqueue(query, band=1, now_s=0.0, deadline_s=9.0, patience_s=INF, slots=1)
    others = [enqueue(queue, tenant="b", tokens=99) for _ in range(3)]
    granted = order(queue)
    assert [one.query.tenant for one in granted] == ["a", "b", "b", "b", "a"]
    assert granted[1:4] == others


def test_who_was_away_gets_no_credit_for_it() -> None:
    queue = Scheduler("m", 100)
    for _ in range(30):
        enqueue(queue, tenant="busy")
    for _ in range(20):
        queue.grant(0.0)
    for _ in range(10):
        enqueue(queue, tenant="late")
    names = [ticket.query.tenant for ticket in order(queue)]
    assert names[:10].count("busy") in (4, 5, 6)


def test_the_oldest_gets_a_share_once_it_has_aged() -> None:
    queue = Scheduler("m", 1000, age_s=5.0)
    old = [enqueue(queue, band=2, deadline_s=1e9) for _ in range(10)]
    for _ in range(200):
        enqueue(queue, band=0, now_s=4.0, deadline_s=1e9)
    granted = [queue.grant(6.0) for _ in range(3 * AGED_EVERY)]
    assert [index for index, ticket in enumerate(granted, 1) if ticket in old] == [8, 16, 24]


def test_a_full_queue_says_when_to_come_again() -> None:
    queue = Scheduler("m", 2)
    enqueue(queue)
    second = enqueue(queue)
    with pytest.raises(QueueFull, match=r"'m' is full \(2 requests wait\)") as caught:
        enqueue(queue)
    assert caught.value.retry_after_s > 0
    assert queue.withdraw(second)
    enqueue(queue)
    for held_s, slots, expected_s in ((4.0, 1, 12.0), (4.0, 8, 1.5)):
        queue.observe_service(held_s)
        with pytest.raises(QueueFull) as caught:
            enqueue(queue, slots=slots)
        assert caught.value.retry_after_s == pytest.approx(expected_s)


def test_a_limit_of_nothing_never_queues() -> None:
    with pytest.raises(QueueFull):
        enqueue(Scheduler("m", 0))


def test_a_full_queue_makes_room_for_a_better_band() -> None:
    queue = Scheduler("m", 3)
    batch = [enqueue(queue, band=2, tenant=name) for name in ("a", "b", "b")]
    ticket, displaced = queue.enqueue(
        Query(model="m", tenant="c"), band=0, now_s=0.0, deadline_s=9.0, patience_s=INF, slots=1
    )
    assert displaced is batch[2]
    assert not queue.withdraw(batch[2])
    with pytest.raises(QueueFull):
        enqueue(queue, band=2, tenant="b")
    assert order(queue) == [ticket, batch[0], batch[1]]


def test_a_full_queue_makes_room_for_a_tenant_with_fewer_places() -> None:
    queue = Scheduler("m", 4)
    greedy = [enqueue(queue, tenant="greedy") for _ in range(4)]
    for _ in range(2):
        enqueue(queue, tenant="modest")
    with pytest.raises(QueueFull):
        enqueue(queue, tenant="modest")
    with pytest.raises(QueueFull):
        enqueue(queue, tenant="greedy")
    assert [queue.withdraw(ticket) for ticket in greedy] == [True, True, False, False]


def grouped(queue: Scheduler, group: str, tenant: str) -> Ticket:
    query = Query(model="m", tenant=tenant, within=((group, 1.0),))
    return queue.enqueue(query, band=1, now_s=0.0, deadline_s=9.0, patience_s=INF, slots=1)[0]


def test_a_group_gets_no_more_places_and_turns_by_having_more_members() -> None:
    queue = Scheduler("m", 6)
    many = [grouped(queue, "many", name) for name in "abcabc"]
    few = [grouped(queue, "few", "x") for _ in range(3)]
    with pytest.raises(QueueFull):
        grouped(queue, "few", "x")
    with pytest.raises(QueueFull):
        grouped(queue, "many", "d")
    assert sum(queue.withdraw(ticket) for ticket in many) == 3
    assert sum(queue.withdraw(ticket) for ticket in few) == 3
    for name in "aaaab":
        grouped(queue, "many", name)
    grouped(queue, "few", "x")
    grouped(queue, "many", "c")
    assert [one.query.tenant for one in order(queue)] == ["a", "x", "b", "c", "a", "a"]


def test_who_waited_too_long_is_passed_over() -> None:
    queue = Scheduler("m", 10)
    enqueue(queue, deadline_s=1.0)
    second = enqueue(queue, deadline_s=3.0)
    assert queue.grant(3.0) is second
    assert len(queue) == 0


def test_the_wait_is_estimated_from_the_service_the_slots_and_who_is_ahead() -> None:
    queue = Scheduler("m", 100)
    assert queue.expected_wait_s(0, Query(model="m", tenant="t"), 1) == 0.0
    queue.observe_service(4.0)
    for _ in range(100):
        queue.observe_service(8.0)
    turn_s = queue.expected_wait_s(0, Query(model="m", tenant="t"), 4)
    assert turn_s == pytest.approx(2.0, rel=0.01)
    for _ in range(9):
        enqueue(queue, band=1, tenant="greedy")
    enqueue(queue, band=0)
    ahead = {("greedy", 1): 10, ("modest", 1): 2, ("greedy", 0): 1, ("modest", 2): 10}
    for (tenant, band), count in ahead.items():
        assert queue.expected_wait_s(band, Query(model="m", tenant=tenant), 4) == pytest.approx(
            (count + 1) * turn_s
        )


def test_who_would_wait_longer_than_it_may_is_refused_at_once() -> None:
    queue = Scheduler("m", 100)
    queue.observe_service(2.0)
    for _ in range(4):
        enqueue(queue, patience_s=20.0)
    with pytest.raises(WaitTooLong, match=r"about 10\.0 s") as caught:
        enqueue(queue, patience_s=3.0)
    assert caught.value.retry_after_s == pytest.approx(7.0)
    assert len(queue) == 4
    enqueue(queue, band=0, patience_s=3.0)
    with pytest.raises(WaitTooLong) as caught:
        enqueue(queue, band=0, patience_s=3.9)
    assert caught.value.retry_after_s == pytest.approx(2.0)
