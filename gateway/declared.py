"""Which replicas the configuration wants, and what it takes to ask them."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from backends.discovery import Pod
from backends.wanted import ReplicaSpec
from gateway.scaling import LEAST_WEIGHT, Scaler
from gateway.settings import ModelSettings, PodSettings, Settings


def specs(
    settings: Settings,
    environ: Mapping[str, str],
    engine_python: str,
    scaler: Scaler,
    pods: Callable[[str], Iterable[Pod]] = lambda model: (),
) -> list[ReplicaSpec]:
    """Say which replicas are wanted.

    The scaler names those of launched models, and says what each is; ``pods`` gives those of a cluster.
    """
    found: list[ReplicaSpec] = []
    for model in settings.models:
        if model.kubernetes is not None:
            found += [_pod(model, model.kubernetes, pod) for pod in pods(model.name)]
        if model.launch is not None and scaler.has(model.name):
            found += [_launched(model, id_, engine_python, scaler) for id_ in scaler.ids(model.name)]
        shares = scaler.shares(model)
        found += [
            _attached(model, number, environ, shares)
            for number, replica in enumerate(model.replicas)
            if not model.versions or replica.version in shares
        ]
    return found


def _launched(model: ModelSettings, replica_id: str, engine_python: str, scaler: Scaler) -> ReplicaSpec:
    launch = model.launch
    assert launch is not None
    seat, weight = scaler.seat(model.name, replica_id)
    weights = next((one.weights for one in model.versions if one.name == seat.version), None)
    return ReplicaSpec(
        id=replica_id,
        model=model.name,
        engine=model.engine,
        launcher="local",
        launch=launch if weights is None else msgspec.structs.replace(launch, weights=weights),
        python=engine_python,
        upstream_model=model.upstream_name,
        kind=model.kind,
        context_tokens=model.context_tokens,
        spot=seat.spot,
        zone=seat.zone,
        weight=weight if model.versions else 1.0,
        version=seat.version,
        max_concurrency=launch.max_num_seqs or 64,
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


def _attached(
    model: ModelSettings, number: int, environ: Mapping[str, str], shares: Mapping[str, float]
) -> ReplicaSpec:
    replica = model.replicas[number]
    key = environ.get(replica.api_key_env or "")
    weight = replica.weight
    if model.versions:
        beside = sum(one.weight for one in model.replicas if one.version == replica.version)
        weight = max(shares[replica.version] * weight / beside, LEAST_WEIGHT)
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
        weight=weight,
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
