"""What becomes of finished requests: each is counted at once, and told of once, together with others."""

import asyncio
import io
from collections.abc import Callable, Sequence

from gateway.aftermath import TOGETHER, Aftermath
from gateway.loops import running
from gateway.passage import Passage
from gateway.request_log import RequestLog
from gateway.telemetry import Telemetry
from tests.fakes import loop as virtual


class Told:
    """Stands for the log and for the traces."""

    waiting: Callable[[], Sequence[Passage]]

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def offer(self, passages: Sequence[Passage]) -> Sequence[Passage]:
        self.batches.append([one.request_id for one in passages])
        return ()


def ended(aftermath: Aftermath, count: int, name: str) -> None:
    for number in range(count):
        aftermath.take(Passage(f"{name}{number}", "chat", 0.0, status=200))


def counted(telemetry: Telemetry) -> float:
    samples = [one for family in telemetry.collect() for one in family.samples]
    return sum(one.value for one in samples if one.name == "switchgear_requests_total")


async def turn() -> None:
    for _ in range(2):
        await asyncio.sleep(0)


def test_requests_are_counted_at_once_and_told_of_together() -> None:
    async def life() -> None:
        telemetry, log, traces = Telemetry(), Told(), Told()
        aftermath = Aftermath(telemetry, traces, log)  # type: ignore[arg-type]
        ended(aftermath, 3, "few")
        await turn()
        assert counted(telemetry) == 3
        assert log.batches == []
        ended(aftermath, TOGETHER, "many")
        await turn()
        assert counted(telemetry) == 3 + TOGETHER
        assert [len(one) for one in log.batches] == [3 + TOGETHER]
        async with running([aftermath.loop], lambda _: None):
            ended(aftermath, 1, "one")
            await asyncio.sleep(1.1)
            assert log.batches[1:] == [["one0"]]  # waits for no other longer than a second
            await asyncio.sleep(3.0)
            assert len(log.batches) == 2
        ended(aftermath, 1, "last")
        await turn()
        await aftermath.tell()
        assert log.batches[2:] == [["last0"]]
        assert traces.batches == log.batches

    with asyncio.Runner(loop_factory=virtual.VirtualTimeLoop) as runner:
        runner.run(life())


def test_the_log_finds_at_once_what_waits_and_says_it_once() -> None:
    out = io.BytesIO()

    async def life() -> None:
        log = RequestLog(Telemetry(), (lambda: 0.0, lambda: 1.7e9), out)
        aftermath = Aftermath(Telemetry(), None, log)
        for name in ("first", "second"):
            ended(aftermath, TOGETHER, name)
            await turn()
        ended(aftermath, 2, "third")
        await turn()
        assert [one.request_id for one in log.latest(lambda _: True, 4)] == [
            "third1", "third0", f"second{TOGETHER - 1}", f"second{TOGETHER - 2}",
        ]  # fmt: skip
        for name in ("third0", "second0", "first0"):
            assert (found := log.find(name)) is not None
            assert found.request_id == name
        log.waiting = lambda: [Passage("second0", "chat", 0.0)]  # while it is handed in
        assert len(log.latest(lambda _: True, 1000)) == 2 * TOGETHER
        log.start()
        await aftermath.tell()
        log.close()

    asyncio.run(life())
    assert out.getvalue().count(b"\n") == 2 * TOGETHER + 2
