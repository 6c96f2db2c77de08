"""How many replicas of each launched model run: the shell of ``backends.autoscaler``.

``look`` once a second reads what the dispatcher and the engines tell, asks the core, and declares the
replicas that are wanted. A request that finds nobody wakes its model at once, whatever the core last said:
single flight, because it only raises a number. An operator's ``scale`` pins a model until it is given back.
Replicas that were reclaimed are never named again: their substitutes get new numbers.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from backends.autoscaler import Bounds, Scaling, Seen, State, decide
from backends.engines import Place
from backends.load import ReplicaLoad
from backends.replica import Phase, Replica
from backends.seats import Mix, Seat, may_go, next_seat, shared_out
from gateway.settings import ModelSettings

PIN_LIMIT = 64
ASSUMED_HELD_S = 5.0
LEAST_WEIGHT = 1e-9


class Work(Protocol):
    """What is known of a model's requests."""

    def running(self) -> dict[str, int]:
        """Requests under way per model."""

    def depth(self) -> dict[str, int]:
        """Requests that wait per model."""

    def busy(self, replica_id: str) -> int:
        """Requests under way on a replica."""

    def held_s(self, model: str) -> float | None:
        """How long a request holds its slot; None while unknown."""

    def ttft_s(self, model: str) -> float | None:
        """Time to first byte, lately; None while unknown."""


class Scaled(msgspec.Struct, eq=False):
    """One launched model; ``seats`` says what each of its replicas is, in the order of their making.

    ``shares`` are those of its versions in use; ``resting`` are the replicas that stand by.
    """

    rules: Scaling
    bounds: Bounds
    slots: int
    hold: bool
    mix: Mix
    standby: int
    state: State
    shares: Mapping[str, float] = {}
    seats: dict[str, Seat] = {}
    lost: set[str] = set()
    reclaims: Counter[str] = msgspec.field(default_factory=Counter)
    resting: set[str] = set()
    pinned: int | None = None

    @property
    def count(self) -> int:
        """How many replicas should serve."""
        return self.state.desired if self.pinned is None else self.pinned

    @property
    def wanted(self) -> dict[str, int]:
        """How many replicas of each version there should be, with those that stand by."""
        most = max(self.bounds.most, self.count)
        return shared_out(min(self.count + self.standby, most) if self.count else 0, self.shares)


class Fleet(msgspec.Struct, frozen=True):
    """What of the supervisor is read."""

    replicas: Callable[[], Mapping[str, Replica]]
    loads: Callable[[], Mapping[str, ReplicaLoad]]
    expected_s: Callable[[str], float]


class Scaler:
    """Keeps the number of replicas of each launched model."""

    def __init__(self, fleet: Fleet, work: Work, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._fleet, self._work, self._now, self._wall = fleet, work, now, wall
        self._models: dict[str, Scaled] = {}
        self._roused: set[str] = set()  # models that slept and are waking
        self.declare: Callable[[], None] = lambda: None
        """Called when the wanted replicas changed."""
        self.rouse: Callable[[str], None] = lambda replica_id: None
        """Called to wake a replica that sleeps."""
        self.rest: Callable[[str], None] = lambda replica_id: None
        """Called to have a ready replica stand by."""
        self.shares: Callable[[ModelSettings], Mapping[str, float]] = lambda model: {"": 1.0}
        """Gives the versions of a model in use, and their shares."""

    def configure(self, models: tuple[ModelSettings, ...]) -> None:
        """Put settings in force; known models keep their replicas within the new bounds."""
        found: dict[str, Scaled] = {}
        for model in models:
            launch = model.launch
            if launch is None:
                continue
            known = self._models.get(model.name)
            bounds = Bounds(launch.min_replicas, launch.ceiling)
            scaled = Scaled(
                rules=launch.scaling,
                bounds=bounds,
                slots=launch.max_num_seqs or PIN_LIMIT,
                hold=launch.when_asleep == "hold",
                mix=Mix(spot=launch.spot, on_demand=launch.on_demand, zones=launch.zones),
                standby=launch.standby,
                state=known.state if known else State(desired=bounds.least),
                shares=self.shares(model),
            )
            if known is not None:
                for name in ("seats", "lost", "reclaims", "resting", "pinned"):
                    setattr(scaled, name, getattr(known, name))
            wanted = min(max(scaled.count, bounds.least), bounds.most)
            scaled.state = msgspec.structs.replace(scaled.state, desired=wanted)
            self._resize(model.name, scaled)
            found[model.name] = scaled
        self._models = found

    def found(self, left: Mapping[str, Place]) -> None:
        """Engines of an earlier run are there still: want as many as that, called what they were."""
        for model, scaled in self._models.items():
            mine = [one for one in left if one.rpartition("-")[0] == model]
            wanted = min(max(len(mine), scaled.bounds.least), scaled.bounds.most)
            scaled.seats = {
                one: Seat(version=left[one].version, spot=left[one].spot, zone=left[one].zone)
                for one in mine[:wanted]
            }
            scaled.state = msgspec.structs.replace(scaled.state, desired=wanted, busy_s=self._now())
            self._resize(model, scaled)
        self.declare()

    def has(self, model: str) -> bool:
        """Tell whether the model is launched here."""
        return model in self._models

    def ids(self, model: str) -> tuple[str, ...]:
        """Give the ids of the replicas that are wanted."""
        return tuple(self._models[model].seats)

    def seat(self, model: str, replica_id: str) -> tuple[Seat, float]:
        """Give what a wanted replica is, and its share of the model's traffic."""
        scaled = self._models[model]
        seat = scaled.seats[replica_id]
        beside = sum(one.version == seat.version for one in scaled.seats.values())
        return seat, max(scaled.shares.get(seat.version, 0.0) / beside, LEAST_WEIGHT)

    def holds(self, model: str) -> bool:
        """Tell whether a request of a model without replicas wakes one and waits for it."""
        scaled = self._models.get(model)
        return scaled is not None and scaled.hold and (scaled.bounds.least == 0 or model in self._roused)

    def wake(self, model: str) -> None:
        """Have one replica at least, unless an operator holds the model at none."""
        scaled = self._models.get(model)
        if scaled is None:
            return
        if scaled.seats:
            self._rouse(model, scaled)
            return
        if scaled.pinned is not None:
            return
        now_s = self._now()
        scaled.state = msgspec.structs.replace(scaled.state, desired=1, busy_s=now_s, reason="woken")
        self._resize(model, scaled)
        self.declare()

    def _rouse(self, model: str, scaled: Scaled) -> None:
        """Wake one replica where all of them sleep."""
        replicas = self._fleet.replicas()
        mine = [replicas[one] for one in scaled.seats if one in replicas]
        asleep = [one.id for one in mine if one.phase in (Phase.SLEEPING, Phase.STOPPED)]
        if asleep and len(asleep) == len(mine):
            self._roused.add(model)
            self.rouse(asleep[0])

    def pin(self, model: str, replicas: int | None) -> None:
        """Hold a model at a number of replicas; None gives it back. Raises KeyError for one not launched."""
        scaled = self._models[model]
        scaled.pinned = replicas
        if replicas is not None:
            scaled.state = msgspec.structs.replace(
                scaled.state, desired=replicas, busy_s=self._now(), reason="set by an operator"
            )
            self._resize(model, scaled)
            self.declare()

    def reclaimed(self, model: str, replica_id: str) -> None:
        """A replica goes for good: name a substitute."""
        scaled = self._models.get(model)
        if scaled is None or replica_id not in scaled.seats:
            return
        gone = scaled.seats.pop(replica_id)
        scaled.lost.add(replica_id)
        scaled.reclaims[gone.zone] += 1
        self._resize(model, scaled)
        self.declare()

    def busy(self, replica_id: str) -> int:
        """Give the requests under way on a replica."""
        return self._work.busy(replica_id)

    def shown(self, model: str) -> dict[str, object] | None:
        """Give what the admin API shows; None for a model that is not launched here."""
        scaled = self._models.get(model)
        if scaled is None:
            return None
        return {
            "desired": scaled.count,
            "standby": len(scaled.resting),
            "min": scaled.bounds.least,
            "max": scaled.bounds.most,
            "pinned": scaled.pinned,
            "reason": scaled.state.reason,
        }

    async def look(self) -> None:
        """One step of all models."""
        running, depth = self._work.running(), self._work.depth()
        changed = False
        for name, scaled in self._models.items():
            if scaled.pinned is None:
                seen = self._seen(name, scaled, running.get(name, 0), depth.get(name, 0))
                scaled.state = decide(scaled.rules, scaled.bounds, scaled.state, seen)
            changed |= self._resize(name, scaled)
            self._stand_by(scaled)
        if changed:
            self.declare()

    def _seen(self, name: str, scaled: Scaled, running: int, waiting: int) -> Seen:
        ready = min(len(self._ready(scaled)), scaled.count)  # two versions for a while count as one
        loads = self._fleet.loads()
        usages = [
            load.kv_usage for one in scaled.seats if (load := loads.get(one)) and load.kv_usage is not None
        ]
        if ready:
            self._roused.discard(name)
        return Seen(
            now_s=self._now(),
            running=running,
            waiting=waiting,
            ready=ready,
            loading=scaled.count - ready,
            slots=scaled.slots,
            held_s=self._work.held_s(name) or ASSUMED_HELD_S,
            load_s=self._fleet.expected_s(name),
            ttft_s=self._work.ttft_s(name),
            kv_usage=sum(usages) / len(usages) if usages else None,
            hour=self._wall() / 3600 % 24,
        )

    def _ready(self, scaled: Scaled) -> list[str]:
        replicas = self._fleet.replicas()
        return [one for one in scaled.seats if one in replicas and replicas[one].phase is Phase.READY]

    def _resize(self, model: str, scaled: Scaled) -> bool:
        """Make the seats what is wanted; tells whether that changed them.

        Where a version comes or goes, nobody leaves before all others are ready.
        """
        before, wanted, seats = tuple(scaled.seats), scaled.wanted, scaled.seats
        for version, count in wanted.items():
            while sum(one.version == version for one in seats.values()) < count:
                seat = next_seat(scaled.mix, version, list(seats.values()), scaled.reclaims)
                seats[self._name(model, scaled)] = seat
        ready = Counter(seats[one].version for one in (*self._ready(scaled), *scaled.resting))
        there = all(ready[version] >= count for version, count in wanted.items())
        for version in {one.version for one in seats.values()}:
            if there or not wanted or (len(wanted) == 1 and version in wanted):
                self._shrink(scaled, version, wanted.get(version, 0))
        scaled.resting &= set(seats)
        return before != tuple(seats)

    def _shrink(self, scaled: Scaled, version: str, count: int) -> None:
        """Of those that go, the ones that serve least go first; the on-demand floor stays."""
        seats = scaled.seats
        while len(mine := [id_ for id_, one in seats.items() if one.version == version]) > count:
            free = [id_ for id_ in mine if may_go(scaled.mix, seats[id_], list(seats.values()))] or mine
            del seats[min(reversed(free), key=self._worth)]

    def _name(self, model: str, scaled: Scaled) -> str:
        """The lowest number that no replica has, had to give back, or is just leaving."""
        numbers = (f"{model}-{number}" for number in itertools.count())
        taken = scaled.seats.keys() | scaled.lost
        return next(name for name in numbers if name not in taken and not self._leaving(name))

    def _stand_by(self, scaled: Scaled) -> None:
        """Have those that are ready beyond the need stand by, and call them in where there is need."""
        if not scaled.standby:
            return
        ready = self._ready(scaled)
        scaled.resting -= set(ready)
        for replica_id in ready[scaled.count :]:
            scaled.resting.add(replica_id)
            self.rest(replica_id)
        for replica_id in sorted(scaled.resting)[: max(scaled.count - len(ready), 0)]:
            scaled.resting.discard(replica_id)
            self.rouse(replica_id)

    def _worth(self, replica_id: str) -> tuple[bool, int]:
        seen = self._fleet.replicas().get(replica_id)
        return seen is not None and seen.phase is Phase.READY, self._work.busy(replica_id)

    def _leaving(self, replica_id: str) -> bool:
        """Whether a replica of that name is just being ended."""
        seen = self._fleet.replicas().get(replica_id)
        return seen is not None and seen.phase is Phase.DRAINING
