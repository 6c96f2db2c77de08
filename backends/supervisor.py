"""Shell of the fleet: runs its commands, probes, scrapes, and publishes snapshots.

- `replicas` and `loads` are replaced, never changed in place: whoever reads them has a consistent picture.
- Single steps only (`probe_once`, `scrape_once`, `reconcile_once`); the gateway's loops call them. Slow work
  (a warm-up, an engine's end) goes on in a task of its own, so that one replica never holds up another.
- Phases change only by `replica.step`; what to start and to end is decided only by `fleet.plan`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from backends import fleet, probing, replica
from backends.background import Background
from backends.engines import ENGINES, Engine, stage
from backends.launchers import Launcher, Process
from backends.load import Figures, ReplicaLoad, read_figures, read_load
from backends.load_times import LoadTimes
from backends.replica import Event, Phase, Replica
from backends.wanted import Limits, Progress, ReplicaSpec, command_of, ready_in_s

LOG = logging.getLogger("switchgear.fleet")
LIVE = (Phase.LOADING, Phase.READY, Phase.EJECTED, Phase.WAITING, Phase.FAILED)


ON_PURPOSE = ("reclaimed", "asleep")
DRAIN_S = 120.0
IDLE_POLL_S = 0.05


class CannotSleep(Exception):
    """The replica cannot be put to sleep, or woken; the text says why."""


class Run(Struct, kw_only=True):
    """A replica's process, while there is one."""

    spec: ReplicaSpec
    process: Process
    started_s: float
    was_ready: bool = False
    ending: bool = False


class Supervisor:
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
    ) -> None:
        """`on_change(before, after)` is called for each change of a phase or a limit; it must not block.

        `busy(replica_id)` gives the requests that run there through this gateway.
        """
        self.replicas: Mapping[str, Replica] = {}
        self.loads: Mapping[str, ReplicaLoad] = {}
        self.figures: Mapping[str, Figures] = {}
        self._launchers, self._probe, self._now = launchers, probe, now
        self._on_change, self._busy = on_change, busy
        self.limits = Limits()
        self._load_times = LoadTimes(state_dir / "load-times.json")
        self._specs: dict[str, ReplicaSpec] = {}
        self._runs: dict[str, Run] = {}
        self._crashes: dict[str, fleet.Crashes] = {}
        self._last_log: dict[str, tuple[str, ...]] = {}
        self._tasks = Background()
        self._until_s: dict[str, float] = {}  # when a reclaimed one is taken away
        self._served: set[str] = set()  # answered a request since the last round of probes
        self._mute_until_s: dict[str, float] = {}  # replicas that have no metrics
        self._closing = False
        self.declare(specs)

    # What is wanted

    def declare(self, specs: Sequence[ReplicaSpec]) -> None:
        """Replace what is wanted; `reconcile_once` brings it about.

        A changed launch takes effect at the replica's next start.
        """
        self._specs = {spec.id: spec for spec in specs}
        after = {id_: seen for id_, seen in self.replicas.items() if id_ in self._specs or id_ in self._runs}
        for spec in specs:
            seen = after.get(spec.id) or Replica(id=spec.id, model=spec.model, since_s=self._now())
            after[spec.id] = replace(
                seen,
                model=spec.model,
                url=spec.url or seen.url,
                spot=spec.spot,
                weight=spec.weight,
                version=spec.version,
                max_concurrency=spec.max_concurrency,
                launched=spec.launch is not None,
            )
        self.replicas = after

    def drain(self, replica_id: str) -> None:
        """No new requests; the process stays. Raises KeyError for an unknown one."""
        self._step(self.replicas[replica_id].id, Event.DRAIN, "drained by an operator")

    def resume(self, replica_id: str) -> None:
        """Back into routing at the next good probe."""
        self._step(self.replicas[replica_id].id, Event.RESUME)

    def reclaim(self, replica_id: str, notice_s: float) -> None:
        """Its machine will be taken away in `notice_s`: no new requests; running ones get that long.

        It is gone for good: whoever wants a substitute declares one. Raises KeyError for an unknown one.
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
        paths = ENGINES[spec.engine].sleep_paths if spec else None
        if spec is None or seen.phase not in (Phase.READY, Phase.DRAINING):
            raise CannotSleep(f"Replica {replica_id!r} is {seen.phase}, not ready.")
        if spec.launch is not None and not spec.launch.sleep_mode:
            self._step(replica_id, Event.DRAIN, "put to sleep: its process ends, a wake starts it")
            self._tasks.start(f"stop {replica_id}", self._stop(replica_id, "asleep"))
            return
        if paths is None:
            raise CannotSleep(f"The engine {spec.engine!r} has no sleep mode.")
        self._step(replica_id, Event.DRAIN, "going to sleep")
        await self._idle(replica_id, self._now() + DRAIN_S)
        refusal = await self._tell(spec, paths[0])
        if refusal:
            self._step(replica_id, Event.RESUME)
            raise CannotSleep(f"Replica {replica_id!r} does not sleep ({refusal}); has it a sleep mode?")
        self._step(replica_id, Event.SLEPT, "asleep")

    async def wake(self, replica_id: str) -> None:
        """Wake it; it is ready at the next good probe. Raises KeyError for an unknown one, or CannotSleep."""
        seen, spec = self.replicas[replica_id], self._specs.get(replica_id)
        paths = ENGINES[spec.engine].sleep_paths if spec else None
        if seen.phase is Phase.SLEEPING and spec is not None and paths is not None:
            refusal = await self._tell(spec, paths[1])
            if refusal:
                raise CannotSleep(f"Replica {replica_id!r} did not wake: {refusal}")
        self._step(replica_id, Event.RESUME)

    def rouse(self, replica_id: str) -> None:
        """Wake it in the background; once, however often it is asked."""
        if self.replicas[replica_id].phase is Phase.STOPPED:
            self._step(replica_id, Event.RESUME, "woken by a request")
        elif f"wake {replica_id}" not in self._tasks:
            self._tasks.start(f"wake {replica_id}", self.wake(replica_id))

    async def adapter(
        self, replica_id: str, verb: Literal["load", "unload"], name: str, path: str = ""
    ) -> str:
        """Load or unload a LoRA adapter; "" where the engine did it, else what it said.

        Raises KeyError for an unknown replica.
        """
        self.replicas[replica_id]
        spec = self._specs[replica_id]
        paths = ENGINES[spec.engine].lora_paths
        if paths is None:
            return f"the engine {spec.engine!r} has no adapters"
        body = {"lora_name": name, **({"lora_path": path} if verb == "load" else {})}
        return await self._tell(spec, paths[verb == "unload"], body)

    # The single steps

    async def sweep(self) -> list[str]:
        """End what an earlier run left behind; once, before the first reconcile."""
        return [id_ for launcher in self._launchers.values() for id_ in await launcher.sweep()]

    async def reconcile_once(self) -> None:
        """Start and end what the plan says; returns when the starts are under way."""
        if self._closing:
            return
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
        starts = [
            self._start(self._specs[command.id]) for command in commands if isinstance(command, fleet.Launch)
        ]
        await asyncio.gather(*starts)

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
        now_s = self._now()
        ids = [
            id_
            for id_, seen in self.replicas.items()
            if seen.phase is Phase.READY
            and id_ in self._specs
            and now_s >= self._mute_until_s.get(id_, now_s)
        ]
        found = await asyncio.gather(*(self._scrape_one(self._specs[id_]) for id_ in ids))
        read = {
            id_: text for id_, text in zip(ids, found, strict=True) if text is not None and id_ in self._specs
        }
        self.loads = {id_: load for id_, text in read.items() if (load := self._load(id_, text)) is not None}
        self.figures = {id_: read_figures(text, self._engine(id_).figures) for id_, text in read.items()}

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

    # What people and clients ask

    def expected_ready_s(self, model: str) -> float | None:
        """Seconds until the model serves again: 0 where it does; None where nobody can say."""
        waits = [self._ready_in_s(seen) for seen in self.replicas.values() if seen.model == model]
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

    def load_time_s(self, model: str) -> float:
        """Seconds from a start to ready, as it was the last time."""
        return self._load_times.expected_s(model)

    def progress(self, log_lines: int = 0) -> list[Progress]:
        """Each wanted replica's way; with the last lines of its log where asked."""
        return [self._progress(self._specs[id_], log_lines) for id_ in self._specs]

    def log_tail(self, replica_id: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of its engine, also after its end."""
        run = self._runs.get(replica_id)
        return run.process.log_tail(lines) if run else self._last_log.get(replica_id, ())[-lines:]

    # Inside

    def _step(self, id_: str, event: Event, reason: str = "") -> None:
        before = self.replicas[id_]
        after = replica.step(before, event, self._now(), reason)
        if after is before:
            return
        self.replicas = {**self.replicas, id_: after}
        if after.phase is not before.phase:
            LOG.info("replica %s: %s -> %s %s", id_, before.phase, after.phase, after.reason)
        if after.phase is not before.phase or after.limit != before.limit:
            self._on_change(before, after)

    async def _start(self, spec: ReplicaSpec) -> None:
        now_s = self._now()
        try:
            process = await self._launchers[spec.launcher].start(spec.id, partial(command_of, spec), spec.url)
        except (OSError, ValueError) as error:
            self._crashed(spec.id, f"cannot be started: {error}", started_s=now_s, was_ready=False)
            return
        if self._closing:
            await process.stop(0.0)
            return
        self._runs[spec.id] = run = Run(spec=spec, process=process, started_s=now_s)
        self.replicas = {**self.replicas, spec.id: replace(self.replicas[spec.id], url=process.url)}
        if spec.launch is not None:
            self._step(spec.id, Event.LAUNCHED)
        self._tasks.start(f"watch {spec.id}", self._watch(run))

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
        if run.spec.launch is not None and not self._closing:
            long_s = self._now() + run.spec.launch.drain_timeout_s
            await self._idle(id_, min(self._until_s.pop(id_, long_s), long_s))
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

    async def _probe_one(self, id_: str) -> None:
        run = self._runs[id_]
        verdict = await self._bounded(probing.ask_health, run, self.limits.probe_timeout_s)
        seen = self.replicas[id_]
        if verdict.event is Event.ANSWERED and run.spec.launch is not None and not run.was_ready:
            verdict = await self._bounded(probing.ask_work, run, self.limits.warm_up_timeout_s)
        if self._runs.get(id_) is not run or run.ending:
            return
        if verdict.event is Event.ANSWERED and run.spec.launch is not None and not run.was_ready:
            self._load_times.remember(seen.model, self._now() - run.started_s)
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

    def _target(self, spec: ReplicaSpec) -> probing.Target:
        return probing.Target(
            url=self.replicas[spec.id].url,
            engine=ENGINES[spec.engine],
            headers=spec.headers,
            upstream_model=spec.upstream_model or spec.model,
            kind=spec.kind,
        )

    def _engine(self, id_: str) -> Engine:
        return ENGINES[self._specs[id_].engine]

    def _load(self, id_: str, text: str) -> ReplicaLoad | None:
        names = self._engine(id_).load_metrics
        return read_load(text, names) if names is not None else None

    async def _scrape_one(self, spec: ReplicaSpec) -> str | None:
        """Give the text of a replica's metrics."""
        text = await probing.ask_metrics(self._probe, self._target(spec), self.limits.probe_timeout_s)
        if text == "":
            self._mute_until_s[spec.id] = self._now() + self.limits.mute_s
        return text or None

    def _ready_in_s(self, seen: Replica) -> float | None:
        run = self._runs.get(seen.id)
        return ready_in_s(
            seen,
            started_s=run.started_s if run else None,
            next_start_s=fleet.next_start_s(self._crashes.get(seen.id, fleet.Crashes())),
            expected_s=self._load_times.expected_s(seen.model),
            now_s=self._now(),
        )

    def _progress(self, spec: ReplicaSpec, log_lines: int) -> Progress:
        seen, run = self.replicas[spec.id], self._runs.get(spec.id)
        doing = seen.reason or str(seen.phase)
        if seen.phase is Phase.LOADING and run is not None:
            doing = stage(ENGINES[spec.engine], run.process.log_tail(200))
        return Progress(
            replica_id=spec.id,
            model=spec.model,
            phase=seen.phase,
            doing=doing,
            elapsed_s=self._now() - (run.started_s if run else seen.since_s),
            expected_s=self._load_times.expected_s(spec.model),
            log=self.log_tail(spec.id, log_lines) if log_lines else (),
        )
