"""What is made of finished requests: each once, in order, never more than there is room for."""

import threading
from collections.abc import Sequence

import pytest

from gateway.backroom import CARRIED, Backroom, Batch
from gateway.passage import Passage
from tests.fakes.processes import until


class Carrier:
    """Takes away when it is let; ``threads`` says who made what."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.threads: dict[str, str] = {}
        self.let = threading.Event()

    def make(self, passages: Sequence[Passage]) -> list[str]:
        names = [one.request_id for one in passages]
        self.threads |= dict.fromkeys(names, threading.current_thread().name)
        return names

    def carry(self, batches: Sequence[Batch[list[str]]]) -> None:
        self.let.wait()
        for count, names in batches:
            assert count == len(names)
            self.carried += names


def passages(*names: str) -> list[Passage]:
    return [Passage(name, "chat", 0.0) for name in names]


def test_it_is_made_at_once_and_what_takes_long_by_the_thread() -> None:
    carrier = Carrier()
    room = Backroom("thread", carrier.make, carrier.carry, limit=1000)
    assert not room.offer(passages("one", "two"))
    assert list(carrier.threads) == ["one", "two"]
    assert not room.leave(passages("long"))
    assert not room.offer(passages("three"))
    carrier.let.set()
    room.start()
    room.close()
    assert carrier.carried == ["one", "two", "three", "long"]
    assert [name for name, thread in carrier.threads.items() if thread == "thread"] == ["long"]


def test_no_more_is_taken_than_there_is_room_for_until_it_is_carried_away() -> None:
    carrier = Carrier()
    room = Backroom("thread", carrier.make, carrier.carry, limit=5)
    assert [len(room.offer(passages("one", "one"))), len(room.leave(passages("one", "one")))] == [0, 0]
    assert [len(room.offer(passages("one", "no"))), len(room.leave(passages("no")))] == [1, 1]
    carrier.let.set()
    room.start()
    room.close()
    assert carrier.carried == ["one"] * 5
    assert not room.offer(passages("two"))


def test_what_raises_is_logged_and_the_next_batch_is_made_and_carried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    carried: list[int] = []

    def make(passages: Sequence[Passage]) -> int:
        if passages[0].request_id == "spoiled":
            raise ValueError("no line of this")
        return len(passages)

    def carry(batches: Sequence[Batch[int]]) -> None:
        carried.extend(made for _, made in batches)
        if len(carried) == 1:
            raise OSError("not this time")

    room = Backroom("thread", make, carry, limit=2)
    for name in ("spoiled", "good"):
        assert not room.offer(passages(name, name))
    assert room.offer(passages("more"))  # the spoiled ones take no room any more, the good ones do
    room.start()
    until(lambda: not room.leave(passages("later")))
    room.close()
    assert carried == [2, 1]
    said = [record.getMessage() for record in caplog.records]
    assert said == ["thread: nothing could be made of 2 requests", "thread: what was made is lost"]


def test_enough_leaves_before_its_time_and_the_rest_at_its_end() -> None:
    carrier = Carrier()
    carrier.let.set()
    room = Backroom("thread", carrier.make, carrier.carry, limit=10 * CARRIED, period_s=3600.0)
    room.start()
    names = [f"{number}" for number in range(CARRIED + 1)]
    for name in names[:-1]:
        assert not room.offer(passages(name))
    until(lambda: carrier.carried == names[:-1])
    assert not room.offer(passages(names[-1]))
    room.close()
    assert carrier.carried == names


def test_what_waits_is_carried_in_portions() -> None:
    portions: list[int] = []
    room = Backroom(
        "thread", len, lambda some: portions.append(sum(count for count, _ in some)), 10 * CARRIED
    )
    for _ in range(5):
        assert not room.offer(passages(*["one"] * (CARRIED // 2)))
    room.start()
    room.close()
    assert portions == [CARRIED, CARRIED, CARRIED // 2]


def test_what_comes_while_something_is_carried_waits_for_its_own_time() -> None:
    portions: list[int] = []

    def carry(some: Sequence[Batch[int]]) -> None:
        portions.append(sum(count for count, _ in some))
        if len(portions) < 4:
            room.offer(passages("meanwhile"))

    room = Backroom("thread", len, carry, 10 * CARRIED, period_s=3600.0)
    room.start()
    room.offer(passages(*["one"] * CARRIED))
    until(lambda: portions == [CARRIED])
    room.close()
    assert portions == [CARRIED, 1]
