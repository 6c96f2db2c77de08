"""Shell of the fleet: runs its commands, probes, scrapes, and publishes snapshots.

- `replicas` and `loads` are replaced, never changed in place: whoever reads them has a consistent picture.
- Single steps only (`probe_once`, `scrape_once`, `reconcile_once`); the gateway's loops call them. Slow work
  (a warm-up, an engine's end) goes on in a task of its own, so that one replica never holds up another.
- Phases change only by `replica.step`; what to start and to end is decided only by `fleet.plan`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from backends import fleet, probing, replica
from backends.engines import ENGINES, Engine, LaunchCommand, LaunchContext, LaunchProfile, stage
from backends.launchers import Launcher, Process
from backends.load import Figures, ReplicaLoad, read_figures, read_load
from backends.load_times import LoadTimes
from backends.replica import Event, Phase, Replica

LOG = logging.getLogger("switchgear.fleet")
LIVE = (Phase.LOADING, Phase.READY, Phase.EJECTED, Phase.WAITING, Phase.FAILED)


class ReplicaSpec(Struct, frozen=True, kw_only=True):
    """A replica that is wanted: attached (`url`) or launched (`launch`)."""

    id: str
    model: str
    engine: str = "vllm"
    url: str = ""
    launcher: str = "attached"
    launch: LaunchProfile | None = None
    python: str = ""
    """The engine environment's interpreter, for launched ones."""
    upstream_model: str = ""
    """"" means the same as `model`."""
    kind: str = "chat"
    context_tokens: int | None = None
    headers: Mapping[str, str] = {}
    """For probes, such as the upstream's Authorization."""
    spot: bool = False
    weight: float = 1.0
    version: str = ""
    max_concurrency: int = 64

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}; known: {', '.join(ENGINES)}")


class Limits(Struct, frozen=True, kw_only=True):
    probe_timeout_s: float = 2.0
    warm_up_timeout_s: float = 180.0
    mute_s: float = 60.0
    """Until a replica without metrics is asked for them again."""
    stop_beyond_s: float = 10.0
    """Past an engine's own shutdown time-out."""


class Progress(Struct, frozen=True, kw_only=True):
    """For people who wait."""

    replica_id: str
    model: str
    phase: Phase
    doing: str
    elapsed_s: float
    expected_s: float
    """Until ready, from its start; from the last time where there was one."""
    log: tuple[str, ...] = ()


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
    ) -> None:
        """`on_change(before, after)` is called in the loop for each change of a phase; it must not block."""
        self.replicas: Mapping[str, Replica] = {}
        self.loads: Mapping[str, ReplicaLoad] = {}
        self.figures: Mapping[str, Figures] = {}
        self._launchers, self._probe, self._now = launchers, probe, now
        self._on_change = on_change
        self.limits = Limits()
        self._load_times = LoadTimes(state_dir / "load-times.json")
        self._specs: dict[str, ReplicaSpec] = {}
        self._runs: dict[str, Run] = {}
        self._crashes: dict[str, fleet.Crashes] = {}
        self._last_log: dict[str, tuple[str, ...]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
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

    # The single steps

    async def sweep(self) -> list[str]:
        """End what an earlier run left behind; once, before the first reconcile."""
        return [id_ for launcher in self._launchers.values() for id_ in await launcher.sweep()]

    async def reconcile_once(self) -> None:
        """Start and end what the plan says; returns when the starts are under way."""
        if self._closing:
            return
        held = (Phase.DRAINING, Phase.STOPPED)
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
                self._background(f"stop {command.id}", self._stop(command.id, command.reason))
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
        asked = [self._background(f"probe {id_}", self._probe_one(id_)) for id_ in idle]
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

    def report(self, replica_id: str, ok: bool, reason: str = "", *, refused: bool = False) -> None:
        """How a request went: ok, or failed through the replica (`replica.outcome`: a 4xx is neither)."""
        seen = self.replicas.get(replica_id)
        if ok:
            self._served.add(replica_id)
        if seen is None or (ok and not seen.consecutive_failures and not seen.missed_probes):
            return
        failed = Event.REFUSED if refused else Event.FAILED
        self._step(replica_id, Event.SUCCEEDED if ok else failed, reason)

    async def stop(self) -> None:
        """Take everything out of routing, end everything that was started."""
        self._closing = True
        stops = [self._stop(id_, "shutdown") for id_ in list(self._runs)]
        await asyncio.gather(*stops)
        for task in list(self._tasks.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # What people and clients ask

    def expected_ready_s(self, model: str) -> float | None:
        """Seconds until the model serves again: 0 where it does; None where nobody can say."""
        waits = [self._ready_in_s(seen) for seen in self.replicas.values() if seen.model == model]
        known = [wait for wait in waits if wait is not None]
        return min(known) if known else None

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
            self._on_change(before, after)

    async def _start(self, spec: ReplicaSpec) -> None:
        def make(port: int) -> LaunchCommand:
            assert spec.launch is not None
            context = LaunchContext(
                python=spec.python,
                port=port,
                served_name=spec.upstream_model or spec.model,
                kind=spec.kind,
                context_tokens=spec.context_tokens,
            )
            return ENGINES[spec.engine].launch(spec.launch, context)

        now_s = self._now()
        try:
            process = await self._launchers[spec.launcher].start(spec.id, make, spec.url)
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
        self._background(f"watch {spec.id}", self._watch(run))

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
        hung = id_ in self._specs and not self._closing
        self._step(id_, Event.DRAIN, reason)
        own_s = run.spec.launch.shutdown_timeout_s if run.spec.launch else 0
        await run.process.stop(own_s + self.limits.stop_beyond_s)
        self._step(id_, Event.STOPPED, reason)
        if hung:
            self._step(id_, Event.RESUME)
            self._crashed(id_, reason, started_s=run.started_s, was_ready=run.was_ready)
        elif id_ not in self._specs:
            self.replicas = {other: seen for other, seen in self.replicas.items() if other != id_}

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
        spec = self._specs.get(run.spec.id, run.spec)
        target = probing.Target(
            url=self.replicas[spec.id].url,
            engine=ENGINES[spec.engine],
            headers=spec.headers,
            upstream_model=spec.upstream_model or spec.model,
            kind=spec.kind,
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(self._probe, target, timeout_s)
        except TimeoutError as error:
            return probing.missed(error)

    def _engine(self, id_: str) -> Engine:
        return ENGINES[self._specs[id_].engine]

    def _load(self, id_: str, text: str) -> ReplicaLoad | None:
        names = self._engine(id_).load_metrics
        return read_load(text, names) if names is not None else None

    async def _scrape_one(self, spec: ReplicaSpec) -> str | None:
        """Give the text of a replica's metrics."""
        engine = ENGINES[spec.engine]
        if engine.metrics_path is None:
            return None
        root = self.replicas[spec.id].url.removesuffix("/v1")
        try:
            async with asyncio.timeout(self.limits.probe_timeout_s):
                reply = await self._probe(
                    root + engine.metrics_path, spec.headers, self.limits.probe_timeout_s
                )
        except (OSError, TimeoutError):
            return None
        if reply.status != 200:
            self._mute_until_s[spec.id] = self._now() + self.limits.mute_s
            return None
        return reply.body.decode(errors="replace")

    def _ready_in_s(self, seen: Replica) -> float | None:
        if seen.phase is Phase.READY:
            return 0.0
        if seen.phase is Phase.EJECTED:
            return max(seen.readmit_at_s - self._now(), 1.0)
        if not seen.launched or seen.phase in (Phase.DRAINING, Phase.STOPPED):
            return None
        expected_s, now_s, run = self._load_times.expected_s(seen.model), self._now(), self._runs.get(seen.id)
        if run is not None:
            return max(run.started_s + expected_s - now_s, 1.0)
        start_s = fleet.next_start_s(self._crashes.get(seen.id, fleet.Crashes()))
        return max(start_s - now_s, 0.0) + expected_s

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

    def _background(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is kept until it ends; what it raises is logged, not lost."""

        async def logged() -> None:
            try:
                await work
            except Exception:
                LOG.exception("fleet: %s failed", name)

        task = asyncio.create_task(logged(), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))
        return task

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
