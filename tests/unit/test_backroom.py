"""What is made of finished requests: each once, in order, never more than there is room for."""

import threading
from collections.abc import Sequence

import pytest

from gateway.backroom import AT_ONCE, CARRIED, Backroom, Batch
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


def passage(name: str) -> Passage:
    return Passage(name, "chat", 0.0)


def test_whole_batches_are_made_at_once_and_the_rest_by_the_thread() -> None:
    carrier = Carrier()
    room = Backroom("thread", carrier.make, carrier.carry, limit=1000)
    names = [f"{number}" for number in range(2 * AT_ONCE + 3)]
    assert all(room.offer(passage(name)) for name in names)
    assert list(carrier.threads) == names[: 2 * AT_ONCE]
    assert room.offer(passage("dear"), dear=True)
    carrier.let.set()
    room.start()
    room.close()
    assert carrier.carried == [*names, "dear"]
    made_by_thread = [name for name, thread in carrier.threads.items() if thread == "thread"]
    assert made_by_thread == [*names[2 * AT_ONCE :], "dear"]


def test_no_more_is_taken_than_there_is_room_for_until_it_is_carried_away() -> None:
    carrier = Carrier()
    room = Backroom("thread", carrier.make, carrier.carry, limit=5)
    assert [room.offer(passage("one"), dear=number % 2 == 0) for number in range(7)] == [True] * 5 + [
        False
    ] * 2
    carrier.let.set()
    room.start()
    room.close()
    assert carrier.carried == ["one"] * 5
    assert room.offer(passage("two"))


def test_who_asks_has_what_is_left_made() -> None:
    carrier = Carrier()
    room = Backroom("thread", carrier.make, carrier.carry, limit=1000)
    room.offer(passage("one"))
    assert not carrier.threads
    with room.at_rest():
        for _ in range(AT_ONCE):
            room.offer(passage("later"))
        assert list(carrier.threads) == ["one"]
    room.offer(passage("later"))
    assert list(carrier.threads) == ["one", "later"]


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

    room = Backroom("thread", make, carry, limit=AT_ONCE)
    for name in ("spoiled", "good"):
        assert all(room.offer(passage(name)) for _ in range(AT_ONCE))
    assert not room.offer(passage("more"))  # the spoiled ones take no room any more, the good ones do
    room.start()
    until(lambda: room.offer(passage("later"), dear=True))
    room.close()
    assert carried == [AT_ONCE, 1]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"thread: nothing could be made of {AT_ONCE} requests", "thread: what was made is lost"]


def test_whole_batches_leave_before_their_time_and_the_rest_at_its_end() -> None:
    carrier = Carrier()
    carrier.let.set()
    room = Backroom("thread", carrier.make, carrier.carry, limit=10_000, period_s=3600.0)
    room.start()
    names = [f"{number}" for number in range(AT_ONCE * CARRIED + 1)]
    assert all(room.offer(passage(name)) for name in names)
    until(lambda: carrier.carried == names[:-1])
    room.close()
    assert carrier.carried == names
