"""Spot replicas on simulated reclaims: what is saved, and what becomes of the streams.

A minute is a step; each zone's spot machines are taken away with a rate that moves, zones apart. A reclaimed
machine's streams finish within the notice or go on elsewhere (continuation) where any machine has room; where
there is none they are lost. Beside our mix (`seats`) stand all machines on demand, and all spot in one zone.
"""

import random
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from backends.seats import Mix, Seat, next_seat

MACHINES = 6
SLOTS = 8
BUSY_SLOTS = 26
"""Streams at any time: about half of what the machines hold."""
STREAM_S = 90.0
NOTICE_S = 30.0
START_MINUTES = 2
STORM_RATE = 0.5
PRICE, SPOT_PRICE = 1.0, 0.35

Reclaims = Sequence[Sequence[float]]
"""By minute, by zone: the chance that a spot machine there is taken away."""

POLICIES: dict[str, Mix] = {
    "on demand only": Mix(),
    "spot, one zone": Mix(spot=True, zones=("z0",)),
    "switchgear": Mix(spot=True, on_demand=2, zones=("z0", "z1", "z2")),
}


class SpotTrial(Struct, frozen=True, kw_only=True):
    """What came of one trace under one mix."""

    cost: float
    """Of the same machines on demand."""
    reclaimed: int
    moved: int
    """Streams that went on elsewhere."""
    lost: int


def reclaims(minutes: int, seed: int) -> Reclaims:
    """A quiet market with storms: each zone's own, and now and then none is left in one."""
    chance = random.Random(seed)  # noqa: S311 - simulated machines
    found: list[list[float]] = []
    storm = [0, 0, 0]
    for _ in range(minutes):
        for zone in range(3):
            storm[zone] = chance.randint(5, 20) if chance.random() < 1 / 300 else max(storm[zone] - 1, 0)
        found.append([STORM_RATE if left else 1 / 400 for left in storm])
    return found


def run(trace: Reclaims, mix: Mix, seed: int) -> SpotTrial:
    """Play a trace under a mix."""
    chance = random.Random(seed + 104729)  # noqa: S311 - simulated machines
    ready: list[Seat] = []
    starting: list[tuple[int, Seat]] = []
    history: Counter[str] = Counter()
    paid = 0.0
    gone = moved = lost = 0
    for minute, rates in enumerate(trace):
        ready += [seat for due, seat in starting if due <= minute]
        starting = [one for one in starting if one[0] > minute]
        taken = [seat for seat in ready if seat.spot and chance.random() < rates[_zone(seat)]]
        for seat in taken:
            ready.remove(seat)
            history[seat.zone] += 1
        while len(ready) + len(starting) < MACHINES:
            seats = [*ready, *(seat for _, seat in starting)]
            starting.append((minute + (START_MINUTES if minute else 0), next_seat(mix, "", seats, history)))
        if taken:
            share = min(BUSY_SLOTS / max(len(ready) + len(taken), 1), SLOTS)
            leaving = round(len(taken) * share * (1 - NOTICE_S / STREAM_S))
            room = round(len(ready) * (SLOTS - share))
            gone += len(taken)
            moved += min(leaving, room)
            lost += max(leaving - room, 0)
        paid += sum(SPOT_PRICE if one.spot else PRICE for one in (*ready, *taken, *(s for _, s in starting)))
    return SpotTrial(cost=paid / (PRICE * MACHINES * len(trace)), reclaimed=gone, moved=moved, lost=lost)


def _zone(seat: Seat) -> int:
    return int(seat.zone.removeprefix("z") or 0)
