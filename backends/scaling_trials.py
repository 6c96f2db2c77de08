"""Scaling rules on simulated load: who violates the SLO how often, for how many replica-hours.

A second is a step. Replicas have slots, need `LOAD_S` to start, and serve first come first served; an answer
whose wait is over the SLO is a violation. Beside `autoscaler.decide` stand the two rules of the field: HPA on
CPU (target 70 %, looks every 15 s, 300 s window inwards; an engine's CPU is busy as soon as any request runs)
and KEDA on the queue (5 waiting per replica, looks every 15 s, 360 s cooldown, half a step inwards a minute).
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from backends.autoscaler import Bounds, Scaling, Seen, State, decide

SLOTS = 8
HELD_S = 6.0
LOAD_S = 45
SLO_WAIT_S = 5.0
BOUNDS = Bounds(1, 12)

Rule = Callable[[Seen], int]
"""A look every second -> desired replicas."""


class Trial(Struct, frozen=True, kw_only=True):
    """What came of one trace under one rule."""

    requests: int
    violations: float
    """Share of the requests."""
    replica_hours: float
    p99_wait_s: float
    starts: int


def rates(kind: str, seconds: int, seed: int) -> list[float]:
    """Requests per second, second by second; the seed moves levels, times and noise."""
    chance = random.Random(seed)  # noqa: S311 - simulated load
    base, top = chance.uniform(0.8, 1.6), chance.uniform(5.0, 8.0)
    start, length = chance.uniform(0.2, 0.5) * seconds, chance.uniform(0.15, 0.3) * seconds
    found, drift = [], 0.0
    for second in range(seconds):
        drift = 0.98 * drift + chance.gauss(0.0, 0.02)
        found.append(max(_shape(kind, second, seconds, start, length, base, top) * (1 + drift), 0.0))
    return found


def _shape(
    kind: str, second: int, seconds: int, start: float, length: float, base: float, top: float
) -> float:
    into = second - start
    match kind:
        case "diurnal":
            return base + (top - base) * (1 - math.cos(2 * math.pi * second / seconds)) / 2
        case "burst":
            return top if (second - start) % 900 < 120 else base
        case "ramp":
            return base + (top - base) * min(max(into / length, 0.0), 1.0)
        case _:
            return base if into < 0 else base + (top - base) * math.exp(-into / length) * min(into / 20, 1.0)


KINDS = ("diurnal", "burst", "ramp", "flash crowd")
UNSEEN = ("sawtooth", "steps", "two states", "spikes", "two humps", "walk", "fall")
"""Held away: no setting of ours was chosen on them."""


def unseen(kind: str, seconds: int, seed: int) -> list[float]:
    """Requests per second of a kind that the settings were not chosen on."""
    chance = random.Random(f"{kind}{seed}")  # noqa: S311 - simulated load
    base, top = chance.uniform(0.4, 2.0), chance.uniform(4.0, 9.0)
    shape = _unseen_shape(kind, seconds, chance, base, top)
    found, drift = [], 0.0
    for second in range(seconds):
        drift = 0.95 * drift + chance.gauss(0.0, 0.04)
        found.append(max(shape(second) * (1 + drift), 0.0))
    return found


def _unseen_shape(
    kind: str, seconds: int, chance: random.Random, base: float, top: float
) -> Callable[[int], float]:
    period, start = chance.uniform(600, 2400), chance.uniform(0, 600)
    levels = [chance.uniform(base, top) for _ in range(8)]
    spikes = [chance.uniform(0, seconds) for _ in range(chance.randint(3, 8))]
    path = [base]
    for _ in range(seconds if kind in ("two states", "walk") else 0):
        flips = top if path[-1] == base else base
        step = min(max(path[-1] + chance.gauss(0, 0.06), 0.2), 10.0)
        path.append((flips if chance.random() < 1 / 400 else path[-1]) if kind == "two states" else step)
    rise = top - base
    shapes: dict[str, Callable[[int], float]] = {
        "sawtooth": lambda at: base + rise * ((at + start) % period) / period,
        "steps": lambda at: levels[at * len(levels) // seconds],
        "two states": lambda at: path[at],
        "walk": lambda at: path[at],
        "spikes": lambda at: min(
            base + sum(rise * math.exp((one - at) / 120) for one in spikes if at >= one), 1.3 * top
        ),
        "two humps": lambda at: (
            base
            + rise
            * max(
                math.exp(-(((at / seconds - 0.3) / 0.08) ** 2)),
                0.8 * math.exp(-(((at / seconds - 0.7) / 0.12) ** 2)),
            )
        ),
        "fall": lambda at: top if at < 0.4 * seconds else base,
    }
    return shapes[kind]


def run(rates_per_s: Sequence[float], rule: Rule, seed: int) -> Trial:
    """Play a trace under a rule."""
    chance = random.Random(seed + 7919)  # noqa: S311 - simulated load
    waiting: deque[int] = deque()
    ends: list[float] = []
    loading: list[int] = []
    ready, starts, used_s = BOUNDS.least, 0, 0
    waits: list[float] = []
    for now_s, rate in enumerate(rates_per_s):
        waiting.extend([now_s] * _poisson(chance, rate))
        while ends and ends[0] <= now_s:
            heapq.heappop(ends)
        ready += sum(1 for one in loading if one <= now_s)
        loading = [one for one in loading if one > now_s]
        while waiting and len(ends) < ready * SLOTS:
            waits.append(now_s - waiting.popleft())
            heapq.heappush(ends, now_s + chance.gammavariate(4.0, HELD_S / 4.0))
        used_s += max(ready, -(-len(ends) // SLOTS)) + len(loading)
        seen = Seen(
            now_s=now_s,
            running=len(ends),
            waiting=len(waiting),
            ready=ready,
            loading=len(loading),
            slots=SLOTS,
            held_s=HELD_S,
            load_s=LOAD_S,
        )
        change = min(max(rule(seen), BOUNDS.least), BOUNDS.most) - ready - len(loading)
        if change > 0:
            loading += [now_s + LOAD_S] * change
            starts += change
        for _ in range(-change):
            if loading:
                loading.pop()
            else:
                ready -= 1
    waits += [len(rates_per_s) - one for one in waiting]
    late = sum(1 for one in waits if one > SLO_WAIT_S)
    return Trial(
        requests=len(waits),
        violations=late / max(len(waits), 1),
        replica_hours=used_s / 3600,
        p99_wait_s=sorted(waits)[int(len(waits) * 0.99)] if waits else 0.0,
        starts=starts,
    )


def switchgear(rules: Scaling | None = None) -> Rule:
    """Our own rule, with its memory."""
    state, chosen = State(desired=BOUNDS.least), rules or Scaling()

    def rule(seen: Seen) -> int:
        nonlocal state
        if int(seen.now_s) % 2 == 0:
            state = decide(chosen, BOUNDS, state, seen)
        return state.desired

    return rule


def hpa_cpu() -> Rule:
    """The horizontal autoscaler of Kubernetes on CPU, with its defaults."""
    history: deque[tuple[float, int]] = deque()
    desired = BOUNDS.least

    def rule(seen: Seen) -> int:
        nonlocal desired
        if int(seen.now_s) % 15 == 0:
            here = seen.ready + seen.loading
            busy = min(1.0, 0.35 + 0.65 * seen.running / max(seen.ready * SLOTS, 1)) if seen.running else 0.0
            ratio = busy * seen.ready / max(here, 1) / 0.7
            wish = here if abs(ratio - 1) <= 0.1 else max(1, math.ceil(here * ratio))
            history.append((seen.now_s, wish))
            while history[0][0] < seen.now_s - 300:
                history.popleft()
            desired = wish if wish > here else max(one for _, one in history)
            desired = min(desired, max(2 * here, here + 4))
        return desired

    return rule


def keda_queue() -> Rule:
    """KEDA on the number of waiting requests, five a replica, as the common example sets it."""
    desired, quiet_s, stepped_s = BOUNDS.least, 0.0, 0.0

    def rule(seen: Seen) -> int:
        nonlocal desired, quiet_s, stepped_s
        if int(seen.now_s) % 15 == 0:
            here = seen.ready + seen.loading
            wish = max(1, math.ceil(seen.waiting / 5))
            if wish >= here:
                quiet_s = seen.now_s
                desired = min(wish, max(2 * here, here + 4))
            elif seen.now_s - quiet_s >= 360 and seen.now_s - stepped_s >= 60:
                desired, stepped_s = max(wish, here // 2), seen.now_s
        return desired

    return rule


RULES: dict[str, Callable[[], Rule]] = {
    "switchgear": switchgear,
    "hpa on cpu": hpa_cpu,
    "keda on queue": keda_queue,
}


def _poisson(chance: random.Random, mean: float) -> int:
    """Knuth's way; the means are small."""
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count
