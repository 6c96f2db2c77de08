"""The queue before a model: bands, order, limits, deadlines."""

import pytest

from routing.scheduler import QueueFull, Scheduler, Ticket


def enqueue(queue: Scheduler, band: int = 1, now_s: float = 0.0, deadline_s: float = 100.0) -> Ticket:
    return queue.enqueue(band=band, now_s=now_s, deadline_s=deadline_s)


def test_a_lower_band_goes_first_and_a_band_keeps_its_order() -> None:
    queue = Scheduler("m", 10)
    tickets = [enqueue(queue, band) for band in (2, 1, 0, 1, 0, 2)]
    order = [queue.grant(0.0) for _ in tickets]
    assert order == [tickets[index] for index in (2, 4, 1, 3, 0, 5)]
    assert queue.grant(0.0) is None


def test_a_full_queue_says_when_to_come_again() -> None:
    queue = Scheduler("m", 2)
    enqueue(queue)
    second = enqueue(queue)
    with pytest.raises(QueueFull, match=r"'m' is full \(2 requests wait\)") as caught:
        enqueue(queue, band=0)
    assert caught.value.retry_after_s > 0
    assert queue.withdraw(second)
    enqueue(queue)
    with pytest.raises(QueueFull):
        enqueue(queue)


def test_a_limit_of_nothing_never_queues() -> None:
    with pytest.raises(QueueFull):
        enqueue(Scheduler("m", 0))


def test_who_waited_too_long_is_passed_over() -> None:
    queue = Scheduler("m", 10)
    enqueue(queue, deadline_s=1.0)
    second = enqueue(queue, deadline_s=3.0)
    assert queue.grant(3.0) is second
    assert len(queue) == 0


def test_a_queue_that_is_never_granted_from_does_not_grow() -> None:
    queue = Scheduler("m", 10)
    stays = enqueue(queue, band=0)
    for _ in range(10_000):
        assert queue.withdraw(enqueue(queue))
    assert len(queue._heap) < 100
    assert queue.grant(0.0) is stays


def test_the_wait_is_estimated_from_how_long_slots_are_held() -> None:
    queue = Scheduler("m", 10)
    before_s = queue.expected_wait_s()
    for _ in range(100):
        queue.observe_service(4.0)
    assert queue.expected_wait_s() == pytest.approx(4.0, rel=0.01)
    assert queue.expected_wait_s() > before_s
    enqueue(queue)
    assert queue.expected_wait_s(slots=2) == pytest.approx(4.0, rel=0.01)
