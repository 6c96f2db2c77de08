"""Shell of the fleet: runs its commands, probes, scrapes, and publishes snapshots.

- `replicas` and `loads` are replaced, never changed in place: whoever reads them has a consistent picture.
- Single steps only (`probe_once`, `scrape_once`, `reconcile_once`); the gateway's loops call them. Slow work
  (a warm-up, an engine's end) goes on in a task of its own, so that one replica never holds up another.
- Phases change only by `replica.step`; what to start and to end is decided only by `fleet.plan`.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from backends import fleet, probing
from backends.adapters import Adapters
from backends.assignment import assigned
from backends.background import Background
from backends.engines import ENGINES, Place, Sleep
from backends.launchers import Launcher
from backends.load import Figures, ReplicaLoad
from backends.load_times import LoadTimes
from backends.prefetch import prefetch
from backends.replica import Event, Phase, Replica
from backends.roster import Roster, Run
from backends.scrapes import Scrapes
from backends.starts import Start
from backends.wanted import Limits, ReplicaSpec, command_of

LOG = logging.getLogger("switchgear.fleet")
LIVE = (Phase.LOADING, Phase.READY, Phase.EJECTED, Phase.WAITING, Phase.FAILED)
ON_PURPOSE = ("reclaimed", "asleep")
DRAIN_S = 120.0
IDLE_POLL_S = 0.05
HAND_OVER_S = 3.0
"""So long before a machine goes the requests that still run there go on elsewhere."""


class CannotSleep(Exception):
    """The replica cannot be put to sleep, or woken; the text says why."""


class Supervisor(Roster):
    def __init__(
        self,
        specs: Sequence[ReplicaSpec],
        *,
        launchers: Mapping[str, Launcher],
        probe: probing.Probe,
        now: Callable[[], float],
        state_dir: Path,
        on_change: Callable[[Replica, Replica], None] = lambda before, after: None,
        busy: Callable[[str], int] = lambda replica_id: 0,
        gpus: Sequence[int] = (),
    ) -> None:
        """`on_change(before, after)` is called for each change of a phase or a limit; it must not block.

        `busy(replica_id)` gives the requests that run there through this gateway; `gpus` are this machine's.
        """
        super().__init__(now, on_change, LoadTimes(state_dir / "load-times.json"))
        self._launchers, self._probe, self._gpus, self._busy = launchers, probe, gpus, busy
        self._scrapes = Scrapes(probe, now)
        self._adapters = Adapters(self._tell)
        self.limits = Limits()
        self._tasks = Background()
        self._until_s: dict[str, float] = {}  # when a reclaimed one is taken away
        self._served: set[str] = set()  # answered a request since the last round of probes
        self._closing = False
        self.leaving = False
        """Where this machine goes: nothing is launched here any more."""
        self.withdraw: Callable[[str], None] = lambda url: None
        """Called with the url of a replica whose machine goes, to have what runs there go on elsewhere."""
        self.declare(specs)

    # What is wanted

    def drain(self, replica_id: str) -> None:
        """No new requests; the process stays. Raises KeyError for an unknown one."""
        self._step(self.replicas[replica_id].id, Event.DRAIN, "drained by an operator")

    def resume(self, replica_id: str) -> None:
        """Back into routing at the next good probe."""
        self._step(self.replicas[replica_id].id, Event.RESUME)

    def reclaim(self, replica_id: str, notice_s: float) -> None:
        """Its machine will be taken away in `notice_s`: no new requests; running ones get that long.

        What runs still in the last seconds goes on elsewhere. It is gone for good: whoever wants a
        substitute declares one. Raises KeyError for an unknown one.
        """
        self._step(self.replicas[replica_id].id, Event.DRAIN, "reclaimed")
        self._until_s[replica_id] = self._now() + notice_s
        if replica_id in self._runs:
            self._tasks.start(f"stop {replica_id}", self._stop(replica_id, "reclaimed"))

    async def sleep(self, replica_id: str) -> None:
        """Give back the engine's memory, when its requests are done; its process stays.

        A launched one without sleep mode is ended: `wake` starts it. Raises KeyError for an unknown one, or
        CannotSleep.
        """
        seen, spec = self.replicas[replica_id], self._specs.get(replica_id)
        if spec is None or seen.phase not in (Phase.READY, Phase.DRAINING):
            raise CannotSleep(f"Replica {replica_id!r} is {seen.phase}, not ready.")
        if spec.launch is not None and not spec.launch.sleep_mode:
            self._step(replica_id, Event.DRAIN, "put to sleep: its process ends, a wake starts it")
            self._tasks.start(f"stop {replica_id}", self._stop(replica_id, "asleep"))
            return
        how = _sleep_of(spec)
        if how is None:
            raise CannotSleep(f"The engine {spec.engine!r} has no sleep mode of this level.")
        self._step(replica_id, Event.DRAIN, "going to sleep")
        await self._idle(replica_id, self._now() + DRAIN_S)
        refusal = await self._tell(spec, how.sleep)
        if refusal:
            self._step(replica_id, Event.RESUME)
            raise CannotSleep(f"Replica {replica_id!r} does not sleep ({refusal}); has it a sleep mode?")
        self._step(replica_id, Event.SLEPT, "asleep")

    async def wake(self, replica_id: str) -> None:
        """Wake it; it is ready at the next good probe. Raises KeyError for an unknown one, or CannotSleep."""
        seen, spec = self.replicas[replica_id], self._specs.get(replica_id)
        how = _sleep_of(spec) if spec is not None and seen.phase is Phase.SLEEPING else None
        for path, body in how.wake if how is not None else ():
            assert spec is not None
            if refusal := await self._tell(spec, path, body):
                raise CannotSleep(f"Replica {replica_id!r} did not wake: {refusal}")
        self._step(replica_id, Event.RESUME)

    def rouse(self, replica_id: str) -> None:
        """Wake it in the background; once, however often it is asked."""
        if self.replicas[replica_id].phase in (Phase.STOPPED, Phase.DRAINING):
            self._step(replica_id, Event.RESUME, "woken by a request")
        elif f"wake {replica_id}" not in self._tasks:
            self._tasks.start(f"wake {replica_id}", self.wake(replica_id))

    def rest(self, replica_id: str) -> None:
        """Have it stand by: asleep where its engine can, else loaded and out of routing."""
        spec = self._specs[replica_id]
        if spec.launch is not None and spec.launch.sleep_mode:
            self._tasks.start(f"sleep {replica_id}", self.sleep(replica_id))
        else:
            self._step(replica_id, Event.DRAIN, "stands by")

    def adapters(self, model: str) -> Collection[str]:
        """The adapters that the model's replicas have, loaded since or from the start."""
        launches = [one.launch for one in self._specs.values() if one.model == model and one.launch]
        first = {name for one in launches if one.lora is not None for name in one.lora.adapters}
        return first | set(self._adapters.loaded(model))

    async def adapter(
        self, replica_id: str, verb: Literal["load", "unload"], name: str, path: str = ""
    ) -> str:
        """Load or unload a LoRA adapter; "" where the engine did it, else what it said.

        Raises KeyError for an unknown replica.
        """
        self.replicas[replica_id]
        return await self._adapters.change(self._specs[replica_id], verb, name, path)

    @property
    def loads(self) -> Mapping[str, ReplicaLoad]:
        """What the engines tell of their load, as last read."""
        return self._scrapes.loads

    @property
    def figures(self) -> Mapping[str, Figures]:
        """What else they tell."""
        return self._scrapes.figures

    # The single steps

    def left(self) -> Mapping[str, Place]:
        """What an earlier run left running, and could be taken over: replica id -> what it is."""
        return {id_: one for launcher in self._launchers.values() for id_, one in launcher.left().items()}

    async def sweep(self) -> None:
        """Take over what an earlier run left and is wanted so, end the rest; before the first reconcile.

        Raises OSError where another fleet that is alive runs engines from the same place.
        """
        for name, launcher in self._launchers.items():
            claimed: dict[str, ReplicaSpec] = {}
            found = await launcher.sweep(partial(self._claim, name, self._gpus, claimed))
            for id_, process in found.items():
                run = Run(
                    spec=claimed[id_],
                    process=process,
                    started_s=self._now(),
                    start=Start(self._now()),
                    taken_over=True,
                )
                self._began(run)

    async def reconcile_once(self) -> None:
        """Start and end what the plan says; returns when the starts are under way."""
        if self._closing or self.at_rest:
            return
        self._see_starts()
        held = (Phase.DRAINING, Phase.STOPPED, Phase.SLEEPING)
        desired = [
            fleet.Desired(id=id_, load_timeout_s=spec.launch.load_timeout_s if spec.launch else 0.0)
            for id_, spec in self._specs.items()
            if id_ in self._runs or self.replicas[id_].phase not in held
        ]
        running = {
            id_: fleet.Observed(
                phase=self.replicas[id_].phase,
                since_s=self.replicas[id_].since_s,
                launched=run.spec.launch is not None,
                ending=run.ending,
            )
            for id_, run in self._runs.items()
        }
        commands = fleet.plan(desired, running, self._crashes, self._now())
        for command in commands:
            if isinstance(command, fleet.Stop):
                self._tasks.start(f"stop {command.id}", self._stop(command.id, command.reason))
        due = [self._specs[one.id] for one in commands if isinstance(one, fleet.Launch)]
        await asyncio.gather(*(self._start(one) for one in due if not (self.leaving and one.launch)))

    async def probe_once(self) -> None:
        """Ask all replicas at once, but those that have just shown in real work that they are well.

        Whoever is still busy with an earlier question is left alone.
        """
        served, self._served = self._served, set()
        live = [
            id_
            for id_ in self._runs
            if (phase := self.replicas[id_].phase) in LIVE and not (phase is Phase.READY and id_ in served)
        ]
        idle = [id_ for id_ in live if f"probe {id_}" not in self._tasks]
        asked = [self._tasks.start(f"probe {id_}", self._probe_one(id_)) for id_ in idle]
        if asked:
            await asyncio.wait(asked, timeout=self.limits.probe_timeout_s + 1.0)

    async def scrape_once(self) -> None:
        """Read the load of all ready replicas whose engines tell."""
        ready = (id_ for id_, seen in self.replicas.items() if seen.phase is Phase.READY)
        targets = {id_: self._target(self._specs[id_]) for id_ in ready if id_ in self._specs}
        await self._scrapes.once(targets, self.limits.probe_timeout_s)

    def report(self, replica_id: str, event: Event, reason: str = "") -> None:
        """How a request went: `BEGAN`, `SUCCEEDED`, or what the replica did wrong."""
        seen = self.replicas.get(replica_id)
        if event is Event.SUCCEEDED:
            self._served.add(replica_id)
            if seen is None or not (
                seen.trust or seen.consecutive_failures or seen.missed_probes or seen.throttled
            ):
                return
        if seen is not None:
            self._step(replica_id, event, reason)

    async def stop(self) -> None:
        """Take everything out of routing, end everything that was started."""
        self._closing = True
        stops = [self._stop(id_, "shutdown") for id_ in list(self._runs)]
        await asyncio.gather(*stops)
        await self._tasks.stop()

    # Inside

    async def _start(self, spec: ReplicaSpec) -> None:
        now_s = self._now()
        start = Start(now_s)
        try:
            spec = self._assigned(spec)
            process = await self._launchers[spec.launcher].start(spec.id, partial(command_of, spec), spec.url)
        except (OSError, ValueError) as error:
            self._crashed(spec.id, f"cannot be started: {error}", started_s=now_s, was_ready=False)
            return
        if self._closing:
            await process.stop(0.0)
            return
        start.spawned(self._now())
        if spec.launch is not None:
            self._starts[spec.id] = start
        self._began(Run(spec=spec, process=process, started_s=now_s, start=start))

    def _began(self, run: Run) -> None:
        """There is a process: watch it."""
        id_ = run.spec.id
        self._runs[id_] = run
        self.replicas = {**self.replicas, id_: replace(self.replicas[id_], url=run.process.url)}
        if run.spec.launch is not None:
            self._step(id_, Event.LAUNCHED, "taken over from an earlier run" if run.taken_over else "")
        self._tasks.start(f"watch {id_}", self._watch(run))

    def _assigned(self, spec: ReplicaSpec) -> ReplicaSpec:
        """The wanted replica with GPUs, or cores, of its own; its weights are on their way to memory."""
        if spec.launch is None or spec.launcher != "local":
            return spec
        if spec.launch.prefetch and spec.launch.local:
            prefetch(spec.launch.weights)
        here = [run.spec.launch for run in self._runs.values() if run.spec.launch is not None]
        return replace(spec, launch=assigned(spec.launch, self._gpus, here))

    async def _watch(self, run: Run) -> None:
        """Wait for the process's end and say what it means."""
        id_ = run.spec.id
        status = await run.process.wait()
        self._last_log[id_] = run.process.log_tail(50)
        del self._runs[id_]
        if run.ending:
            return
        reason = f"its process ended with status {status}"
        self._crashed(id_, reason, started_s=run.started_s, was_ready=run.was_ready)

    def _crashed(self, id_: str, reason: str, *, started_s: float, was_ready: bool) -> None:
        before = self._crashes.get(id_, fleet.Crashes())
        crashes = fleet.crashed(before, started_s=started_s, was_ready=was_ready, now_s=self._now())
        self._crashes[id_] = crashes
        LOG.warning("replica %s: %s; last lines: %s", id_, reason, " | ".join(self.log_tail(id_, 3)))
        self._step(id_, Event.GAVE_UP if fleet.gave_up(crashes) else Event.EXITED, reason)

    async def _stop(self, id_: str, reason: str) -> None:
        run = self._runs.get(id_)
        if run is None:
            return
        if run.ending:
            await run.process.wait()
            return
        run.ending = True
        hung = id_ in self._specs and not self._closing and reason not in ON_PURPOSE
        self._step(id_, Event.DRAIN, reason)
        launch, until_s = run.spec.launch, self._until_s.pop(id_, None)
        if launch is not None and until_s is None and not self._closing:
            await self._idle(id_, self._now() + launch.drain_timeout_s)
        if until_s is not None:
            await self._hand_over(id_, until_s)
        own_s = run.spec.launch.shutdown_timeout_s if run.spec.launch else 0
        await run.process.stop(own_s + self.limits.stop_beyond_s)
        self._step(id_, Event.STOPPED, reason)
        if hung:
            self._step(id_, Event.RESUME)
            self._crashed(id_, reason, started_s=run.started_s, was_ready=run.was_ready)
        elif id_ not in self._specs:
            self.replicas = {other: seen for other, seen in self.replicas.items() if other != id_}

    async def _tell(self, spec: ReplicaSpec, path: str, body: Mapping[str, object] | None = None) -> str:
        limit_s = self.limits.warm_up_timeout_s
        return await probing.tell(self._probe, self._target(spec), path, limit_s, body)

    async def _idle(self, id_: str, until_s: float) -> None:
        """Wait until none of our requests runs there, or until the time."""
        while self._busy(id_) and self._now() < until_s and not self._closing:  # noqa: ASYNC110 - a count
            await asyncio.sleep(IDLE_POLL_S)

    async def _hand_over(self, id_: str, until_s: float) -> None:
        """Let finish what can in the time, then have the rest go on elsewhere, as soon as there is one."""
        await self._idle(id_, until_s - HAND_OVER_S)
        seen = self.replicas[id_]
        while self._busy(id_) and self._now() < until_s and not self._closing:
            if any(
                (one.model, one.version, one.phase) == (seen.model, seen.version, Phase.READY)
                for one in self.replicas.values()
            ):
                self.withdraw(seen.url)
            await asyncio.sleep(IDLE_POLL_S)
        if not self._closing:
            self.withdraw(seen.url)

    async def _probe_one(self, id_: str) -> None:
        run = self._runs.get(id_)
        if run is None:  # it ended between the round's begin and its turn
            return
        verdict = await self._bounded(probing.ask_health, run, self.limits.probe_timeout_s)
        if verdict.event is Event.ANSWERED and run.spec.launch is not None and not run.was_ready:
            verdict = await self._bounded(probing.ask_work, run, self.limits.warm_up_timeout_s)
            if verdict.event is Event.ANSWERED:
                verdict = await self._adapters.restore(run.spec)
        if self._runs.get(id_) is not run or run.ending:
            return
        if verdict.event is Event.ANSWERED and run.spec.launch is not None and not run.was_ready:
            self._loaded(run)
        run.was_ready = run.was_ready or verdict.event is Event.ANSWERED
        self._step(id_, verdict.event, verdict.reason)

    async def _bounded(
        self,
        ask: Callable[[probing.Probe, probing.Target, float], Coroutine[Any, Any, probing.Verdict]],
        run: Run,
        timeout_s: float,
    ) -> probing.Verdict:
        target = self._target(self._specs.get(run.spec.id, run.spec))
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(self._probe, target, timeout_s)
        except TimeoutError as error:
            return probing.missed(error)


def _sleep_of(spec: ReplicaSpec) -> Sleep | None:
    """How its engine sleeps; None where it cannot."""
    return ENGINES[spec.engine].sleeps.get(spec.launch.sleep_level if spec.launch else 1)
