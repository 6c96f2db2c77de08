"""What is said of replicas: which are wanted, the limits of their care, how far they are."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from backends.engines import ENGINES, LaunchCommand, LaunchContext, LaunchProfile, Place
from backends.replica import Phase, Replica
from backends.starts import Step


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
    zone: str = ""
    weight: float = 1.0
    version: str = ""
    max_concurrency: int = 64

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {self.engine!r}; known: {', '.join(ENGINES)}")


class Limits(Struct, frozen=True, kw_only=True):
    probe_timeout_s: float = 2.0
    warm_up_timeout_s: float = 180.0
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
    steps: tuple[Step, ...] = ()
    """Of its start, so far."""
    log: tuple[str, ...] = ()


WAKE_S = 5.0
"""Said of a sleeping engine's wake, which takes seconds."""


def command_of(spec: ReplicaSpec, port: int) -> LaunchCommand:
    """What starts it on the port; raises CannotLaunch."""
    assert spec.launch is not None
    context = LaunchContext(
        python=spec.python,
        port=port,
        served_name=spec.upstream_model or spec.model,
        kind=spec.kind,
        context_tokens=spec.context_tokens,
    )
    command = ENGINES[spec.engine].launch(spec.launch, context)
    place = Place(
        version=spec.version,
        spot=spec.spot,
        zone=spec.zone,
        devices=spec.launch.devices,
        cpu_cores=spec.launch.cpu_cores,
    )
    return replace(command, place=place)


def ready_in_s(
    seen: Replica, *, started_s: float | None, next_start_s: float, expected_s: float, now_s: float
) -> float | None:
    """Seconds until it serves: 0 where it does; None where nobody can say."""
    if seen.phase is Phase.READY:
        return 0.0
    if seen.phase is Phase.EJECTED:
        return max(seen.readmit_at_s - now_s, 1.0)
    if seen.phase is Phase.SLEEPING:
        return WAKE_S
    if not seen.launched or seen.phase in (Phase.DRAINING, Phase.STOPPED):
        return None
    if started_s is not None:
        return max(started_s + expected_s - now_s, 1.0)
    return max(next_start_s - now_s, 0.0) + expected_s
