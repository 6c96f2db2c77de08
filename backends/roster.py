"""What is known of the replicas: which are wanted, which run, what phase each is in, how its start went.

`replicas` is replaced, never changed in place: whoever reads it has a consistent picture. A phase changes
only by `replica.step`. What acts on all this is the supervisor.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from backends import fleet, probing, replica
from backends.assignment import kept
from backends.engines import ENGINES, Place, stage
from backends.launchers import MakeCommand, Process
from backends.load_times import LoadTimes
from backends.replica import Event, Phase, Replica
from backends.starts import Start, Step, said
from backends.wanted import Progress, ReplicaSpec, command_of, ready_in_s

LOG = logging.getLogger("switchgear.fleet")


class Run(Struct, kw_only=True):
    """A replica's process, while there is one."""

    spec: ReplicaSpec
    """With the GPUs, or cores, that it was given."""
    process: Process
    started_s: float
    start: Start
    taken_over: bool = False
    """An earlier run started it."""
    was_ready: bool = False
    ending: bool = False


class Roster:
    def __init__(
        self, now: Callable[[], float], on_change: Callable[[Replica, Replica], None], load_times: LoadTimes
    ) -> None:
        self.replicas: Mapping[str, Replica] = {}
        self._now, self._on_change, self._load_times = now, on_change, load_times
        self._specs: dict[str, ReplicaSpec] = {}
        self._runs: dict[str, Run] = {}
        self._crashes: dict[str, fleet.Crashes] = {}
        self._starts: dict[str, Start] = {}  # the last one of each launched replica
        self._last_log: dict[str, tuple[str, ...]] = {}

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

    def steps(self, replica_id: str) -> tuple[Step, ...]:
        """The steps of its start and what each took; of the last one where none is under way."""
        start = self._starts.get(replica_id)
        return start.steps(self._now()) if start else ()

    def log_tail(self, replica_id: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines of its engine, also after its end."""
        run = self._runs.get(replica_id)
        return run.process.log_tail(lines) if run else self._last_log.get(replica_id, ())[-lines:]

    # Inside

    @property
    def at_rest(self) -> bool:
        """Whether all that is wanted is there, and nothing else, and none of it a process that may hang."""
        runs = self._runs
        return runs.keys() == self._specs.keys() and all(run.spec.launch is None for run in runs.values())

    def _claim(
        self, launcher: str, gpus: Sequence[int], claimed: dict[str, ReplicaSpec], id_: str, place: Place
    ) -> MakeCommand | None:
        """Say by which command a replica that was found should run; None where it is not wanted."""
        spec = self._specs.get(id_)
        if spec is None or spec.launch is None or spec.launcher != launcher or id_ in self._runs:
            return None
        claimed[id_] = replace(spec, launch=kept(spec.launch, gpus, place))
        return partial(command_of, claimed[id_])

    def _step(self, id_: str, event: Event, reason: str = "") -> None:
        before = self.replicas[id_]
        after = replica.step(before, event, self._now(), reason)
        if after is before:
            return
        self.replicas = {**self.replicas, id_: after}
        if after.phase is not before.phase:
            why = f" ({after.reason})" if after.reason else ""
            LOG.info("replica %s: %s -> %s%s", id_, before.phase, after.phase, why)
        if after.phase is not before.phase or after.limit != before.limit:
            self._on_change(before, after)

    def _see_starts(self) -> None:
        """Read from the logs how far those are that load."""
        for run in self._runs.values():
            if run.spec.launch is not None and not run.was_ready:
                log = run.process.log_tail(200)
                run.start.see(ENGINES[run.spec.engine], log, self._now())

    def _loaded(self, run: Run) -> None:
        """Note how long its start took; of one that was taken over nobody knows."""
        run.start.ready(self._now())
        if not run.taken_over:
            self._load_times.remember(run.spec.model, self._now() - run.started_s)
            LOG.info("replica %s started: %s", run.spec.id, said(run.start.steps(self._now())))

    def _target(self, spec: ReplicaSpec) -> probing.Target:
        return probing.Target(
            url=self.replicas[spec.id].url,
            engine=ENGINES[spec.engine],
            headers=spec.headers,
            upstream_model=spec.upstream_model or spec.model,
            kind=spec.kind,
        )

    def ready_in_s(self, replica_id: str) -> float | None:
        """Seconds until it serves: 0 where it does; None where nobody can say."""
        return self._ready_in_s(self.replicas[replica_id])

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
            steps=self.steps(spec.id),
            log=self.log_tail(spec.id, log_lines) if log_lines else (),
        )
