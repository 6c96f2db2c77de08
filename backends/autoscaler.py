"""How many replicas a model should have: what is seen of its load -> a number, with hysteresis.

Pure. The demand is the largest of what each signal asks for:

- work: requests that run fill `target_utilisation` of the slots, requests that wait are served within
  `target_queue_s` (so the queue is counted in seconds of work, not in requests);
- trend: the same for the load expected when a replica that is started now would be ready;
- latency: time to first token over its SLO; KV: blocks in use over `target_kv`;
- the schedule's minimum.

Out: at once and all the way where work waits beyond twice the target (panic); else when the demand lasted
`out_window_s`, and at most `out_factor` times the replicas in a step. In: to the largest demand of
`in_window_s`, one at a time, not below `peak_share` of the remembered peak; never while replicas load.
To zero: after `idle_s` without any request. Bounds and the cost cap come last.
"""

import math
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

Seconds = Annotated[float, Meta(gt=0, le=1e7)]
Share = Annotated[float, Meta(gt=0, le=1)]
HISTORY = 512


class Hours(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A minimum between two hours of the day, UTC; `until` below `from_` passes midnight."""

    from_hour: Annotated[float, Meta(ge=0, le=24)]
    until_hour: Annotated[float, Meta(ge=0, le=24)]
    min_replicas: Annotated[int, Meta(ge=0)]


class Scaling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[models.launch.scaling]`."""

    target_utilisation: Share = 0.85
    target_queue_s: Seconds = 1.5
    target_kv: Share = 0.85
    slo_ttft_s: Seconds | None = None
    out_window_s: Annotated[float, Meta(ge=0)] = 10.0
    in_window_s: Annotated[float, Meta(ge=0)] = 60.0
    peak_share: Annotated[float, Meta(ge=0, le=1)] = 0.4
    """So much of the remembered peak stays between bursts; 0 forgets them."""
    peak_memory_s: Seconds = 900.0
    idle_s: Seconds = 600.0
    out_factor: Annotated[float, Meta(gt=1)] = 2.0
    replica_usd_per_hour: Annotated[float, Meta(ge=0)] = 0.0
    max_usd_per_hour: Seconds | None = None
    schedule: tuple[Hours, ...] = ()


class Bounds(Struct, frozen=True):
    least: int
    most: int


class Seen(Struct, frozen=True, kw_only=True):
    """One look at a model's load."""

    now_s: float
    running: int
    waiting: int
    ready: int
    loading: int = 0
    """Started and not ready: counts as there, so that nothing is started twice."""
    slots: int
    """Requests at once, of one replica."""
    held_s: float
    """How long a request holds its slot, on the average."""
    load_s: float
    """From a start to ready."""
    ttft_s: float | None = None
    kv_usage: float | None = None
    hour: float = 0.0


class State(Struct, frozen=True, kw_only=True):
    """What is remembered between two looks: (time, demand, concurrent requests), and the last request."""

    demands: tuple[tuple[float, int, float], ...] = ()
    busy_s: float = 0.0
    peak: float = 0.0
    """The largest demand, decaying."""
    desired: int = 0
    reason: str = "start"


def decide(rules: Scaling, bounds: Bounds, before: State, seen: Seen) -> State:
    """The state after a look; `desired` is the number of replicas, `reason` the signal that set it."""
    here = seen.ready + seen.loading
    busy_s = seen.now_s if seen.running or seen.waiting or not before.demands else before.busy_s
    demand, reason = _demand(rules, before, seen)
    idle = seen.now_s - busy_s >= rules.idle_s and not seen.running and not seen.waiting
    demand = 0 if idle else max(demand, 1 if here else 0)
    since_s = seen.now_s - before.demands[-1][0] if before.demands else 0.0
    peak = max(float(demand), before.peak * math.exp(-since_s / rules.peak_memory_s))
    window_s = max(rules.out_window_s, rules.in_window_s, seen.load_s)
    kept = [one for one in before.demands if one[0] >= seen.now_s - window_s][-HISTORY:]
    demands = (*kept, (seen.now_s, demand, float(seen.running + seen.waiting)))
    floor = max([bounds.least, *(one.min_replicas for one in rules.schedule if _within(one, seen.hour))])
    ceiling = max(min(bounds.most, _affordable(rules)), bounds.least)
    wanted = _smoothed(rules, demands, seen, here, before.desired)
    if wanted < here:
        wanted = min(max(wanted, math.floor(peak * rules.peak_share)), here)
    if idle and demand == 0 and not seen.loading:
        wanted, reason = 0, "idle"
    desired = min(max(wanted, floor), ceiling)
    if wanted != desired:
        reason = "schedule or minimum" if desired > wanted else "maximum or cost cap"
    after = State(demands=demands, busy_s=busy_s, peak=peak, desired=desired, reason=reason)
    return after if desired != before.desired else replace(after, reason=before.reason)


def _smoothed(
    rules: Scaling, demands: tuple[tuple[float, int, float], ...], seen: Seen, here: int, last: int
) -> int:
    """Between the least that was asked for lately (out) and the most (in), in limited steps."""
    now_s, demand = seen.now_s, demands[-1][1]
    here = max(here, last)
    if demand > here:
        recent = [one[1] for one in demands if one[0] >= now_s - rules.out_window_s]
        lasted = now_s - demands[0][0] >= rules.out_window_s
        if panics(rules, seen):
            return demand
        demand = min(recent) if lasted else here
        return max(here, min(demand, max(here + 1, math.floor(here * rules.out_factor))))
    most = max(one[1] for one in demands if one[0] >= now_s - rules.in_window_s)
    if most < here and not seen.loading and now_s - demands[0][0] >= rules.in_window_s:
        return max(most, here - 1)
    return here


def panics(rules: Scaling, seen: Seen) -> bool:
    """Whether what waits is more than twice the target's work: no time to see whether it lasts."""
    if not seen.ready:
        return seen.waiting > 0
    return seen.waiting * seen.held_s / (seen.slots * seen.ready) > 2 * rules.target_queue_s


def _demand(rules: Scaling, before: State, seen: Seen) -> tuple[int, str]:
    """The largest of the signals' demands, and which signal it is."""
    concurrent = float(seen.running + seen.waiting)
    asked = {
        "work": _for_work(rules, seen, float(seen.running), float(seen.waiting)),
        "trend": _for_work(rules, seen, _expected(before, seen, concurrent), 0.0),
        "latency": 0,
        "kv": 0,
    }
    if rules.slo_ttft_s is not None and seen.ttft_s is not None and seen.ttft_s > rules.slo_ttft_s:
        asked["latency"] = seen.ready + seen.loading + 1
    if seen.kv_usage is not None and seen.ready:
        asked["kv"] = math.ceil(seen.ready * seen.kv_usage / rules.target_kv - 1e-9)
    reason = max(asked, key=lambda name: asked[name])
    return asked[reason], reason


def _for_work(rules: Scaling, seen: Seen, running: float, waiting: float) -> int:
    held_s = max(seen.held_s, 1e-3)
    steady = running / (seen.slots * rules.target_utilisation)
    queue = running / seen.slots + waiting * held_s / (seen.slots * max(rules.target_queue_s, held_s))
    return math.ceil(max(steady, queue) - 1e-9)


def _expected(before: State, seen: Seen, concurrent: float) -> float:
    """The concurrent requests when a start of now would be ready, by the slope so far; never less than now.

    Looks back as far as it looks ahead, and at most doubles.
    """
    past = [one for one in before.demands if one[0] >= seen.now_s - seen.load_s]
    if len(past) < 4:
        return concurrent
    half = len(past) // 2
    early = sum(one[2] for one in past[:half]) / half
    late = sum(one[2] for one in past[half:]) / (len(past) - half)
    span_s = max((seen.now_s - past[0][0]) / 2, 1.0)
    slope = max(late - early, 0.0) / span_s
    return min(late + slope * (span_s / 2 + seen.load_s), 2 * max(concurrent, late))


def _affordable(rules: Scaling) -> int:
    if rules.max_usd_per_hour is None or not rules.replica_usd_per_hour:
        return 1 << 30
    return math.floor(rules.max_usd_per_hour / rules.replica_usd_per_hour)


def _within(one: Hours, hour: float) -> bool:
    if one.from_hour <= one.until_hour:
        return one.from_hour <= hour < one.until_hour
    return hour >= one.from_hour or hour < one.until_hour
