"""Which replicas the configuration wants, and what it takes to ask them."""

from collections.abc import Callable, Iterable, Mapping

from backends.discovery import Pod
from backends.wanted import ReplicaSpec
from gateway.settings import ModelSettings, PodSettings, Settings


def specs(
    settings: Settings,
    environ: Mapping[str, str],
    engine_python: str,
    launched: Callable[[str], Iterable[str]],
    pods: Callable[[str], Iterable[Pod]] = lambda model: (),
) -> list[ReplicaSpec]:
    """Say which replicas are wanted; ``launched`` names those of a launched model, ``pods`` gives others'."""
    found: list[ReplicaSpec] = []
    for model in settings.models:
        if model.kubernetes is not None:
            found += [_pod(model, model.kubernetes, pod) for pod in pods(model.name)]
        if model.launch is not None:
            found += [_launched(model, replica_id, engine_python) for replica_id in launched(model.name)]
        found += [_attached(model, number, environ) for number in range(len(model.replicas))]
    return found


def _launched(model: ModelSettings, replica_id: str, engine_python: str) -> ReplicaSpec:
    return ReplicaSpec(
        id=replica_id,
        model=model.name,
        engine=model.engine,
        launcher="local",
        launch=model.launch,
        python=engine_python,
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        spot=model.launch is not None and model.launch.spot,
        max_concurrency=model.launch.max_num_seqs or 64 if model.launch is not None else 64,
    )


def _pod(model: ModelSettings, declared: PodSettings, pod: Pod) -> ReplicaSpec:
    workload = next(one for one in declared.workloads if one.name == pod.workload)
    return ReplicaSpec(
        id=pod.id,
        model=model.name,
        engine=model.engine,
        url=pod.url,
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        spot=pod.machine.spot,
        weight=workload.weight,
        version=workload.version,
        max_concurrency=declared.max_concurrency,
    )


def _attached(model: ModelSettings, number: int, environ: Mapping[str, str]) -> ReplicaSpec:
    replica = model.replicas[number]
    key = environ.get(replica.api_key_env or "")
    return ReplicaSpec(
        id=f"{model.name}-{number}",
        model=model.name,
        engine=model.engine,
        url=replica.url.rstrip("/"),
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        headers={"authorization": f"Bearer {key}"} if key else {},
        spot=replica.spot,
        weight=replica.weight,
        version=replica.version,
        max_concurrency=replica.max_concurrency,
    )


def credentials(settings: Settings, environ: Mapping[str, str]) -> dict[str, bytes]:
    """Give the Authorization header of each replica that needs one."""
    return {
        f"{model.name}-{number}": f"Bearer {environ[replica.api_key_env]}".encode()
        for model in settings.models
        for number, replica in enumerate(model.replicas)
        if replica.api_key_env is not None
    }
