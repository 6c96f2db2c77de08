"""Processes that part a route's traffic: one share, whoever gets how much; one memory of conversations."""

import asyncio
import contextlib
from collections.abc import Mapping

import numpy as np
import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue, Target
from gateway.config_file import parse as parse_settings
from gateway.grading import Grading
from gateway.settings import Objective
from gateway.state.meeting import LATELY_S, MOST_HEARD, MemoryMeeting, Table
from gateway.together import Together
from routing.complexity import PARTED_SLACK
from routing.conversations import Conversations
from routing.objectives import POT, Shares, part_of, settle
from tests.fakes.configs import MODEL

TOML = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in ("small", "middle", "large"))
SHARE = 0.3
DATASETS = ((0.0, 0.2), (0.85, 1.0), (0.4, 0.6), (0.0, 0.05), (0.6, 1.0))
"""Where the scores of each lie: one after the other they are the worst order for a share."""


def target(tiers: int) -> Target:
    names = ["small", "middle", "large"][-tiers:]
    route = f'[[routes]]\nname = "auto"\ntiers = {names}\nobjective = {{ large_share = {SHARE} }}\n'
    return Catalogue(parse_settings(TOML + route.replace("'", '"'), "x"), ENGINES).routes()[0]


class Process:
    """What one process of several has of a route."""

    def __init__(self, table: Table, processes: int, route: Target) -> None:
        self.grading = Grading.load(lambda: 0.0, processes)
        self.conversations = Conversations()
        self.route = route
        self.together = Together(
            MemoryMeeting(table), lambda: self.grading, self.conversations, lambda: processes
        )

    def large(self, score: float) -> bool:
        aim = self.route.objective
        return self.grading.place(self.route, aim, score, 0).tier == len(self.route.models) - 1

    @property
    def held(self) -> Shares:
        aim = self.grading.aim(self.route, self.route.objective)
        assert isinstance(aim, Shares)
        return aim


def sorted_by_dataset(draw: np.random.Generator, each: int = 1800) -> list[float]:
    return [float(one) for low, high in DATASETS for one in draw.uniform(low, high, each)]


@pytest.mark.parametrize("tiers", [2, 3])
@pytest.mark.parametrize("meets_after", [1, 37, 0], ids=["always", "seldom", "never"])
def test_three_processes_of_unequal_traffic_hold_one_share_in_any_order(meets_after: int, tiers: int) -> None:
    """Nine of ten queries reach one process; the share holds over any 2,000, met often, seldom or never."""
    draw, table, route = np.random.default_rng(5), Table(), target(tiers)
    processes = [Process(table, 3, route) for _ in range(3)]
    large = []

    async def play() -> None:
        scores = sorted_by_dataset(draw)
        places = draw.choice(3, size=len(scores), p=[0.9, 0.05, 0.05]).tolist()
        await _meet(processes)
        for number, (score, place) in enumerate(zip(scores, places, strict=True)):
            large.append(processes[place].large(score))
            if meets_after and number % meets_after == 0:
                await processes[number // meets_after % 3].together.step()

    asyncio.run(play())
    windows = np.convolve(large, np.ones(2000), "valid") / 2000
    assert np.abs(windows - SHARE).max() <= 0.03


async def _meet(processes: list[Process]) -> None:
    for one in processes:
        await one.together.step()


@pytest.mark.parametrize("processes", [1, 3, 16])
def test_sharing_out_loses_nothing_and_bounds_what_everybody_owes(processes: int) -> None:
    draw, pot = np.random.default_rng(processes), 0.0
    owed = [0.0] * processes
    for _ in range(3000):
        who = int(draw.integers(processes))
        most = part_of(processes)
        owed[who] = float(np.clip(owed[who] + draw.normal(0.5, 3), -most, most))
        before = pot + owed[who]
        pot, owed[who] = settle(pot, owed[who], processes)
        assert pot + owed[who] == pytest.approx(before)
        assert abs(owed[who]) <= most + 1e-9
        assert abs(pot + sum(owed)) <= 2 * POT + 1e-9


def test_the_pot_takes_no_more_than_half_the_slack_of_what_was_forced() -> None:
    pot, kept = settle(0.0, -300.0, 3)
    assert (pot, kept) == (-POT, POT - 300.0)
    left, paid = settle(pot, 2.0, 3)  # another one pays of it
    assert left == pytest.approx(2.0 - POT - paid)
    assert paid == pytest.approx((2.0 - POT) / 3)


def test_one_process_s_hard_queries_are_paid_by_another_s_easy_ones() -> None:
    """Where the easy queries come to one process and the hard ones to another, the hard ones go up."""
    draw, table, route = np.random.default_rng(6), Table(), target(2)
    processes = [Process(table, 2, route) for _ in range(2)]
    large: list[list[bool]] = [[], []]
    for number in range(6000):
        which = number % 2
        score = float(draw.uniform(0.5, 1.0) if which else draw.uniform(0.0, 0.5))
        large[which].append(processes[which].large(score))
        if number % 10 == 0:
            asyncio.run(_meet(processes))
    easy, hard = (float(np.mean(one[500:])) for one in large)
    assert (easy + hard) / 2 == pytest.approx(SHARE, abs=0.02)
    assert easy < 0.05
    assert hard > 0.55


def test_apart_each_holds_the_share_of_its_own_queries() -> None:
    """The same stream without meeting: what the test above shows is the meeting's doing."""
    draw, route = np.random.default_rng(6), target(2)
    processes = [Process(Table(), 2, route) for _ in range(2)]
    large: list[list[bool]] = [[], []]
    for number in range(6000):
        which = number % 2
        score = float(draw.uniform(0.5, 1.0) if which else draw.uniform(0.0, 0.5))
        large[which].append(processes[which].large(score))
    assert [float(np.mean(one[500:])) for one in large] == pytest.approx([SHARE, SHARE], abs=0.03)


def test_a_process_that_comes_or_goes_leaves_the_slack_what_it_is() -> None:
    route, table = target(2), Table()
    first = Process(table, 1, route)
    first.large(0.5)
    for count in (1, 2, 5):
        held = first.grading.parted(count)
        (aim,) = held.values()
        aim.paid([0.0])
        assert count * aim._boundaries[0].slack + POT == pytest.approx(PARTED_SLACK)


def test_what_a_process_cannot_tell_it_tells_later_and_a_strange_word_is_passed_over() -> None:
    route, table = target(2), Table()
    one, other = (Process(table, 2, route) for _ in range(2))
    one.large(0.5)
    other.large(0.5)
    asyncio.run(_meet([one, other]))

    class Away(MemoryMeeting):
        async def exchange(self, told: bytes) -> list[bytes]:
            raise OSError("away")

    meeting = one.together._meeting
    one.together._meeting = Away(table)
    one.large(0.91)
    with pytest.raises(OSError, match="away"):
        asyncio.run(one.together.step())
    one.together._meeting = meeting
    asyncio.run(MemoryMeeting(table).exchange(b"\xff junk"))
    asyncio.run(_meet([one, other]))
    assert sum(abs(score - 0.91) < 1e-6 for score in other.held._boundaries[-1].recent) == 1


def test_a_conversation_that_another_worker_answered_does_not_fall() -> None:
    route, table = target(3), Table()
    one, other, late = (Process(table, 3, route) for _ in range(3))
    one.conversations.note(b"turn", 2)
    other.conversations.note(b"turn", 1)
    asyncio.run(_meet([one, other, one]))
    assert [each.conversations.tier(b"turn") for each in (one, other)] == [2, 2]
    assert late.conversations.tier(b"turn") == 0
    asyncio.run(_meet([late]))
    assert late.conversations.tier(b"turn") == 2


def test_the_objectives_of_keys_and_requests_have_pots_of_their_own() -> None:
    route, table = target(2), Table()
    one = Process(table, 2, route)
    for share in (0.1, 0.5):
        one.grading.place(route, Objective(large_share=share), 0.5, 0)
    one.large(0.5)
    asyncio.run(_meet([one]))
    assert len(table.pots) == 3


def test_who_comes_anew_hears_what_was_told_lately_and_so_much_at_once() -> None:
    now_s = 100.0
    table = Table(lambda: now_s)
    teller = MemoryMeeting(table)

    async def play() -> None:
        nonlocal now_s
        await teller.exchange(b"old")
        now_s += LATELY_S + 1.0
        late = MemoryMeeting(table)
        assert await late.exchange(b"") == []
        for number in range(MOST_HEARD + 2):
            await teller.exchange(b"%d" % number)
        anew = MemoryMeeting(table)
        for one in (late, anew):
            first = await one.exchange(b"")
            assert (len(first), first[0]) == (MOST_HEARD, b"0")
            assert await one.exchange(b"") == [b"%d" % MOST_HEARD, b"%d" % (MOST_HEARD + 1)]
            assert await one.exchange(b"") == []

    asyncio.run(play())


def test_requests_go_on_between_the_news_that_are_heard() -> None:
    route, table = target(2), Table()
    one = Process(table, 2, route)
    other = MemoryMeeting(table)
    turns = 0

    async def requests() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def play() -> None:
        for _ in range(50):
            await other.exchange(b"news")
        task = asyncio.create_task(requests())
        await one.together.step()
        task.cancel()

    asyncio.run(play())
    assert turns >= 50


def test_a_settlement_whose_answer_is_lost_counts_once() -> None:
    """One process gets the hard queries and never hears at once what it still owes."""

    class Lossy(MemoryMeeting):
        lost = False

        async def share_out(self, number: int, owed: Mapping[str, float], processes: int) -> dict[str, float]:
            kept = await super().share_out(number, owed, processes)
            self.lost = not self.lost
            if self.lost:
                raise OSError("the answer is lost")
            return kept

    draw, table, route = np.random.default_rng(7), Table(), target(2)
    processes = [Process(table, 2, route) for _ in range(2)]
    processes[0].together._meeting = Lossy(table)
    large = []
    for number in range(6000):
        which = number % 2
        score = float(draw.uniform(0.0, 0.6) if which else draw.uniform(0.6, 1.0))
        large.append(processes[which].large(score))
        if number % 10 == 0:
            for one in processes:
                with contextlib.suppress(OSError):
                    asyncio.run(one.together.step())
    owed = sum(one.held.owed[0] for one in processes) + sum(table.pots.values())
    assert owed == pytest.approx(SHARE * len(large) - sum(large))
    windows = np.convolve(large, np.ones(2000), "valid") / 2000
    assert np.abs(windows - SHARE).max() <= 0.03
