"""How many replicas of each launched model run: the shell of ``backends.autoscaler``.

``look`` once a second reads what the dispatcher and the engines tell, asks the core, and declares the
replicas that are wanted. A request that finds nobody wakes its model at once, whatever the core last said:
single flight, because it only raises a number. An operator's ``scale`` pins a model until it is given back.
Replicas that were reclaimed are never named again: their substitutes get new numbers.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from backends.autoscaler import Bounds, Scaling, Seen, State, decide
from backends.load import ReplicaLoad
from backends.replica import Phase, Replica
from gateway.settings import ModelSettings

PIN_LIMIT = 64
ASSUMED_HELD_S = 5.0


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
    """One launched model."""

    rules: Scaling
    bounds: Bounds
    slots: int
    hold: bool
    state: State
    ids: tuple[str, ...]
    lost: set[str]
    pinned: int | None = None


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
                state=known.state if known else State(desired=bounds.least),
                ids=known.ids if known else (),
                lost=known.lost if known else set(),
                pinned=known.pinned if known else None,
            )
            wanted = scaled.pinned if scaled.pinned is not None else scaled.state.desired
            self._resize(model.name, scaled, min(max(wanted, bounds.least), bounds.most))
            found[model.name] = scaled
        self._models = found

    def ids(self, model: str) -> tuple[str, ...]:
        """Give the ids of the replicas that are wanted."""
        return self._models[model].ids

    def holds(self, model: str) -> bool:
        """Tell whether a request of a model without replicas wakes one and waits for it."""
        scaled = self._models.get(model)
        return scaled is not None and scaled.hold and (scaled.bounds.least == 0 or model in self._roused)

    def wake(self, model: str) -> None:
        """Have one replica at least, unless an operator holds the model at none."""
        scaled = self._models.get(model)
        if scaled is None:
            return
        if scaled.ids:
            self._rouse(model, scaled)
            return
        if scaled.pinned is not None:
            return
        now_s = self._now()
        scaled.state = msgspec.structs.replace(scaled.state, desired=1, busy_s=now_s, reason="woken")
        self._resize(model, scaled, 1)
        self.declare()

    def _rouse(self, model: str, scaled: Scaled) -> None:
        """Wake one replica where all of them sleep."""
        replicas = self._fleet.replicas()
        mine = [replicas[one] for one in scaled.ids if one in replicas]
        asleep = [one.id for one in mine if one.phase in (Phase.SLEEPING, Phase.STOPPED)]
        if asleep and len(asleep) == len(mine):
            self._roused.add(model)
            self.rouse(asleep[0])

    def pin(self, model: str, replicas: int | None) -> None:
        """Hold a model at a number of replicas; None gives it back. Raises KeyError for one not launched."""
        scaled = self._models[model]
        scaled.pinned = replicas
        if replicas is not None:
            self._resize(model, scaled, replicas)
            scaled.state = msgspec.structs.replace(
                scaled.state, desired=replicas, busy_s=self._now(), reason="set by an operator"
            )
            self.declare()

    def reclaimed(self, model: str, replica_id: str) -> None:
        """A replica goes for good: name a substitute."""
        scaled = self._models.get(model)
        if scaled is None or replica_id not in scaled.ids:
            return
        count = len(scaled.ids)
        scaled.lost.add(replica_id)
        scaled.ids = tuple(one for one in scaled.ids if one != replica_id)
        self._resize(model, scaled, count)
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
            "desired": len(scaled.ids),
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
            if scaled.pinned is not None:
                continue
            seen = self._seen(name, scaled, running.get(name, 0), depth.get(name, 0))
            scaled.state = decide(scaled.rules, scaled.bounds, scaled.state, seen)
            if scaled.state.desired != len(scaled.ids):
                self._resize(name, scaled, scaled.state.desired)
                changed = True
        if changed:
            self.declare()

    def _seen(self, name: str, scaled: Scaled, running: int, waiting: int) -> Seen:
        replicas = self._fleet.replicas()
        phases = [replicas[one].phase for one in scaled.ids if one in replicas]
        loads = self._fleet.loads()
        usages = [
            load.kv_usage for one in scaled.ids if (load := loads.get(one)) and load.kv_usage is not None
        ]
        ready = phases.count(Phase.READY)
        if ready:
            self._roused.discard(name)
        return Seen(
            now_s=self._now(),
            running=running,
            waiting=waiting,
            ready=ready,
            loading=len(scaled.ids) - ready,
            slots=scaled.slots,
            held_s=self._work.held_s(name) or ASSUMED_HELD_S,
            load_s=self._fleet.expected_s(name),
            ttft_s=self._work.ttft_s(name),
            kv_usage=sum(usages) / len(usages) if usages else None,
            hour=self._wall() / 3600 % 24,
        )

    def _resize(self, model: str, scaled: Scaled, count: int) -> None:
        """Keep the lowest numbers; of those that go, the ones that serve least go first."""
        kept = list(scaled.ids)
        while len(kept) > count:
            kept.remove(min(reversed(kept), key=self._worth))
        number = 0
        while len(kept) < count:
            name = f"{model}-{number}"
            number += 1
            if name not in kept and name not in scaled.lost and not self._leaving(name):
                kept.append(name)
        scaled.ids = tuple(kept)

    def _worth(self, replica_id: str) -> tuple[bool, int]:
        seen = self._fleet.replicas().get(replica_id)
        return seen is not None and seen.phase is Phase.READY, self._work.busy(replica_id)

    def _leaving(self, replica_id: str) -> bool:
        """Whether a replica of that name is just being ended."""
        seen = self._fleet.replicas().get(replica_id)
        return seen is not None and seen.phase is Phase.DRAINING
