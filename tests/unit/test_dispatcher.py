"""The dispatcher: no slot twice, none lost, whoever waits gets one or learns why not."""

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any

import pytest

from backends.load import ReplicaLoad
from backends.replica import Phase, Replica
from gateway.dispatcher import Dispatcher, Slot
from gateway.errors import ModelLoading, translate
from gateway.settings import BandSettings, ModelSettings
from routing.decision import Query
from routing.scheduler import QueueFull, WaitExpired, WaitTooLong
from tests.fakes.loop import run

QUEUE_S = 60.0


def model(**changes: Any) -> ModelSettings:
    return ModelSettings(**{"name": "small", "policy": "round_robin", "queue_timeout_s": QUEUE_S, **changes})


def house(*limits: int, **changes: Any) -> tuple[Dispatcher, dict[str, Replica]]:
    """Give a dispatcher with one ready replica per limit, in the loop's own time."""
    dispatcher = Dispatcher(
        now=asyncio.get_running_loop().time, draw=lambda: 0.5, expected_ready_s=lambda _model: None
    )
    dispatcher.configure([model(**changes)])
    replicas = {
        f"r{number}": Replica(id=f"r{number}", model="small", phase=Phase.READY, max_concurrency=limit)
        for number, limit in enumerate(limits)
    }
    dispatcher.update(replicas)
    return dispatcher, replicas


class Guest:
    """A task that takes a slot and keeps it until told to go."""

    def __init__(
        self, dispatcher: Dispatcher, *, tried: str = "", deadline_s: float = math.inf, band: int = 1
    ) -> None:
        self.replica = ""
        self.go = asyncio.Event()
        query = Query(model="small", prompt_tokens=10, exclude=frozenset([tried] if tried else []))
        self.task = asyncio.create_task(self._visit(dispatcher.slot(query, band=band, deadline_s=deadline_s)))

    async def _visit(self, given: Coroutine[Any, Any, Slot]) -> None:
        with await given as slot:
            self.replica = slot.replica.id
            try:
                await self.go.wait()
            finally:
                self.replica = ""

    async def leave(self) -> None:
        self.go.set()
        await self.task


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_slots_are_given_in_the_order_of_arrival() -> None:
    async def main() -> None:
        dispatcher, _ = house(1)
        guests = [Guest(dispatcher) for _ in range(4)]
        for served in guests:
            await settle()
            assert [guest for guest in guests if guest.replica] == [served]
            await served.leave()
        assert (dispatcher.depth(), dispatcher.running()) == ({"small": 0}, {"small": 0})

    run(main())


def test_one_that_leaves_the_queue_gets_no_slot() -> None:
    async def main() -> None:
        dispatcher, _ = house(1)
        first, second, third = (Guest(dispatcher) for _ in range(3))
        await settle()
        assert dispatcher.depth() == {"small": 2}
        second.task.cancel()
        await settle()
        assert dispatcher.depth() == {"small": 1}
        await first.leave()
        await settle()
        assert (second.replica, third.replica) == ("", "r0")
        await third.leave()
        assert dispatcher.running() == {"small": 0}

    run(main())


@pytest.mark.parametrize("turns", range(4))
def test_a_grant_that_crosses_a_cancellation_goes_to_the_next(turns: int) -> None:
    async def main() -> None:
        dispatcher, _ = house(1)
        first, second, third = (Guest(dispatcher) for _ in range(3))
        await settle()
        first.go.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        second.task.cancel()
        await settle()
        assert third.replica == "r0"
        await third.leave()
        assert (dispatcher.running(), dispatcher.depth()) == ({"small": 0}, {"small": 0})

    run(main())


def test_waiting_ends_with_the_deadline_or_the_queues_own_limit() -> None:
    async def main() -> None:
        dispatcher, _ = house(1)
        now = asyncio.get_running_loop().time
        began_s = now()
        holder = Guest(dispatcher)
        hurried = Guest(dispatcher, deadline_s=began_s + 5.0)
        late = Guest(dispatcher, deadline_s=began_s - 1.0)
        patient = Guest(dispatcher)
        ends = {}
        for name, guest in (("late", late), ("hurried", hurried), ("patient", patient)):
            with pytest.raises(WaitExpired):
                await guest.task
            ends[name] = now() - began_s
        assert ends == pytest.approx({"late": 0.0, "hurried": 5.0, "patient": QUEUE_S}, abs=0.01)
        await holder.leave()
        assert (dispatcher.running(), dispatcher.depth()) == ({"small": 0}, {"small": 0})

    run(main())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def main() -> None:
        dispatcher, _ = house(1, queue_limit=2)
        guests = [Guest(dispatcher) for _ in range(4)]
        with pytest.raises(QueueFull) as refused:
            await guests[3].task
        assert refused.value.retry_after_s > 0
        dispatcher.configure([model(queue_limit=3)])
        await settle()
        assert Guest(dispatcher).task
        await settle()
        assert dispatcher.depth() == {"small": 3}
        await stop_all()

    run(main())


def test_a_new_replica_and_a_higher_limit_wake_the_waiting() -> None:
    async def main() -> None:
        dispatcher, replicas = house(1)
        guests = [Guest(dispatcher) for _ in range(4)]
        await settle()
        new = Replica(id="new", model="small", phase=Phase.READY, max_concurrency=2)
        dispatcher.update({**replicas, "new": new})
        await settle()
        assert sorted(guest.replica for guest in guests) == ["", "new", "new", "r0"]
        dispatcher.update({**replicas, "new": Replica(id="new", model="small", phase=Phase.EJECTED)})
        await guests[0].leave()
        await settle()
        assert sorted(guest.replica for guest in guests) == ["", "new", "new", "r0"]
        await stop_all()

    run(main())


def test_without_a_ready_replica_nobody_waits() -> None:
    async def main() -> None:
        dispatcher, _ = house()
        with pytest.raises(ModelLoading) as refused:
            await Guest(dispatcher).task
        assert refused.value.retry_after_s == 10.0
        dispatcher.configure([])
        with pytest.raises(ModelLoading):
            await Guest(dispatcher).task

    run(main())


def test_one_that_was_tried_elsewhere_waits_for_another_and_takes_what_comes() -> None:
    """It is not lost where the replica that becomes free is the one it was tried on."""

    async def main() -> None:
        dispatcher, _ = house(1, 1)
        first, other = Guest(dispatcher, tried="r1"), Guest(dispatcher, tried="r0")
        await settle()
        assert (first.replica, other.replica) == ("r0", "r1")
        again = Guest(dispatcher, tried="r0")
        behind = Guest(dispatcher)
        await settle()
        assert dispatcher.depth() == {"small": 2}
        await first.leave()
        await settle()
        assert (again.replica, behind.replica) == ("r0", "")
        await stop_all()

    run(main())


@pytest.mark.parametrize("seed", range(30))
def test_any_schedule_keeps_the_limits_and_loses_nobody(seed: int) -> None:
    """Seeded: guests come, go, are cancelled, expire; replicas come, go and change their limits."""

    async def main() -> None:
        draw = random.Random(seed)
        dispatcher, replicas = house(*(draw.randint(1, 3) for _ in range(3)), policy="adaptive")
        guests: list[Guest] = []

        def act() -> None:
            now_s = asyncio.get_running_loop().time()
            tried = draw.choice(["", "", "r0", "r1"])
            deadline_s = draw.choice([math.inf, now_s + draw.random() * 3])
            waiting = [guest for guest in guests if not guest.replica and not guest.task.done()]
            inside = [guest for guest in guests if guest.replica]
            match draw.choice(["come", "come", "try", "go", "go", "break", "give up", "fleet"]):
                case "come":
                    guests.append(Guest(dispatcher))
                case "try":
                    guests.append(Guest(dispatcher, tried=tried, deadline_s=deadline_s))
                case "go" if inside:
                    draw.choice(inside).go.set()
                case "break" if inside:
                    draw.choice(inside).task.cancel()
                case "give up" if waiting:
                    draw.choice(waiting).task.cancel()
                case "fleet":
                    dispatcher.update(changed(draw, replicas))

        for _ in range(400):
            act()
            await asyncio.sleep(draw.choice([0, 0, 0, 0.3]))
            check(dispatcher, replicas, guests)
        dispatcher.update(dict(replicas))
        rounds = itertools.count()
        while any(not guest.task.done() for guest in guests):
            assert next(rounds) < 2000, "somebody waits for ever"
            for guest in guests:
                guest.go.set()
            await asyncio.sleep(0.01)
        assert (dispatcher.running(), dispatcher.depth()) == ({"small": 0}, {"small": 0})
        kinds = {type(guest.task.exception()) for guest in guests if not guest.task.cancelled()}
        assert kinds <= {type(None), WaitExpired, WaitTooLong, ModelLoading}

    run(main())


def changed(draw: random.Random, replicas: dict[str, Replica]) -> Mapping[str, Replica]:
    """Give a fleet in which some replicas are out of routing."""
    return {
        id_: Replica(
            id=id_,
            model="small",
            phase=draw.choice([Phase.READY, Phase.READY, Phase.EJECTED]),
            max_concurrency=one.max_concurrency,
        )
        for id_, one in replicas.items()
    }


def check(dispatcher: Dispatcher, replicas: dict[str, Replica], guests: list[Guest]) -> None:
    inside = [guest.replica for guest in guests if guest.replica]
    for id_, one in replicas.items():
        assert inside.count(id_) <= one.max_concurrency
    assert dispatcher.depth()["small"] <= sum(not g.replica and not g.task.done() for g in guests)


async def stop_all() -> None:
    """Cancel whatever still runs."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_who_may_not_wait_so_long_is_told_when_to_come_again() -> None:
    async def main() -> None:
        dispatcher, _ = house(2, slo_ttft_ms=3000)
        for _ in range(40):
            guests = [Guest(dispatcher), Guest(dispatcher)]
            await asyncio.sleep(4.0)
            for guest in guests:
                await guest.leave()
        guests = [Guest(dispatcher) for _ in range(3)]
        await settle()
        shed = Guest(dispatcher)
        with pytest.raises(WaitTooLong, match=r"about 4\.0 s") as refused:
            await shed.task
        assert refused.value.retry_after_s == pytest.approx(2.0, rel=0.05)
        assert translate(refused.value).status == 503
        patient = Guest(dispatcher, band=2)
        hurried = Guest(dispatcher, deadline_s=asyncio.get_running_loop().time() + 1.0)
        await settle()
        assert (patient.task.done(), dispatcher.depth()) == (False, {"small": 2})
        with pytest.raises(WaitTooLong):
            await hurried.task
        await stop_all()

    run(main())


def test_a_better_band_takes_a_place_in_a_full_queue_and_the_first_slot() -> None:
    async def main() -> None:
        dispatcher, _ = house(1, queue_limit=2)
        holder, first, second = Guest(dispatcher), Guest(dispatcher, band=2), Guest(dispatcher, band=2)
        await settle()
        urgent = Guest(dispatcher, band=0)
        with pytest.raises(QueueFull):
            await second.task
        await holder.leave()
        await settle()
        assert (urgent.replica, first.replica) == ("r0", "")
        await urgent.leave()
        await first.leave()
        assert (dispatcher.running(), dispatcher.depth()) == ({"small": 0}, {"small": 0})

    run(main())


def test_a_bands_own_queue_time_goes_before_the_models() -> None:
    async def main() -> None:
        bands = (BandSettings(name="batch", queue_timeout_s=300.0),)
        dispatcher, _ = house(1, bands=bands)
        began_s = asyncio.get_running_loop().time()
        guests = [Guest(dispatcher), Guest(dispatcher, band=2), Guest(dispatcher, band=1)]
        for guest, waited_s in ((guests[2], QUEUE_S), (guests[1], 300.0)):
            with pytest.raises(WaitExpired):
                await guest.task
            assert asyncio.get_running_loop().time() - began_s == pytest.approx(waited_s, abs=0.01)
        await stop_all()

    run(main())


def test_a_replica_that_lets_its_first_bytes_wait_gets_less() -> None:
    async def main() -> None:
        dispatcher, _ = house(50, 50, policy="adaptive")
        took: Counter[str] = Counter()

        async def visit() -> None:
            query = Query(model="small", prompt_tokens=100)
            with await dispatcher.slot(query, band=1, deadline_s=math.inf) as slot:
                took[slot.replica.id] += 1
                await asyncio.sleep(0.9 if slot.replica.id == "r0" else 0.1)
                slot.began()

        visits = []
        for _ in range(400):
            visits.append(asyncio.create_task(visit()))
            await asyncio.sleep(0.05)
        await asyncio.gather(*visits)
        assert took["r1"] > 3 * took["r0"]

    run(main())


def test_what_engines_tell_counts() -> None:
    async def main() -> None:
        dispatcher, _ = house(9, 9, policy="adaptive")
        dispatcher.observe({"r0": ReplicaLoad(running=30, waiting=9, kv_usage=0.5), "gone": ReplicaLoad()})
        guests = [Guest(dispatcher) for _ in range(4)]
        await settle()
        assert [guest.replica for guest in guests] == ["r1"] * 4
        dispatcher.observe({"r0": ReplicaLoad(running=0), "r1": ReplicaLoad(running=4)})
        guests.append(Guest(dispatcher))
        await settle()
        assert guests[-1].replica == "r0"
        dispatcher.observe({"r1": ReplicaLoad(running=99)})
        dispatcher.observe({})
        guests += [Guest(dispatcher) for _ in range(6)]
        await settle()
        assert [guest.replica for guest in guests].count("r1") > 4
        await stop_all()

    run(main())


def test_the_marks_of_a_prompt_are_wanted_where_they_make_a_difference() -> None:
    async def main() -> None:
        for limits, policy, wanted in (((1, 1), "adaptive", True), ((1,), "adaptive", False)):
            dispatcher, _ = house(*limits, policy=policy)
            assert dispatcher.reads_prefix("small") is wanted
        dispatcher, _ = house(1, 1, policy="least_tokens")
        assert not dispatcher.reads_prefix("small")
        assert not dispatcher.reads_prefix("unknown")

    run(main())


def test_an_answer_under_way_goes_on_where_it_is_wanted() -> None:
    """Not where it broke, nor where a server asked to be left alone, while there is any other."""

    async def main() -> None:
        dispatcher, _ = house(1, 1, 1)
        query = Query(model="small", prompt_tokens=10, exclude=frozenset(["r0"]))
        dispatcher.rest("small", "r1", 30.0)
        first, second = [await dispatcher.slot_to_go_on(query, "", 0.0) for _ in range(2)]
        assert (first.replica.id, second.replica.id) == ("r2", "r2"), "it waits in no line"
        first.release()
        second.release()
        dispatcher.rest("small", "r2", 30.0)
        with await dispatcher.slot_to_go_on(query, "", 0.0) as third:
            assert third.replica.id == "r0", "rather where it broke than where it is not wanted"
        assert dispatcher.running() == {"small": 0}

    run(main())


def test_an_answer_under_way_waits_for_a_replica_of_its_version() -> None:
    async def main() -> None:
        dispatcher, replicas = house(1)
        query = Query(model="small", prompt_tokens=10)
        dispatcher.update({})
        now = asyncio.get_running_loop().time
        waiting = asyncio.create_task(dispatcher.slot_to_go_on(query, "", now() + 5.0))
        await asyncio.sleep(3.0)
        assert not waiting.done()
        dispatcher.update(replicas)
        (await waiting).release()
        with pytest.raises(ModelLoading):
            await dispatcher.slot_to_go_on(query, "another", now() + 5.0)
        assert dispatcher.running() == {"small": 0}

    run(main())
