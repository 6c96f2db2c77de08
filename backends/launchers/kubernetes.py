"""Replicas as pods of Deployments and StatefulSets: how many there are, and which has to go.

KEDA owns the number from one on, the gateways between none and one: a workload that sleeps has its
ScaledObject paused, or KEDA would start it again. Every number is written with the version that was read, so
of two gateways, or of a gateway and KEDA, nobody undoes what the other has just done.
"""

from typing import Literal

from msgspec import Struct

from backends.clients.kubernetes import KubeApi, KubeError

NOT_FOUND, CONFLICT, TOO_MANY = 404, 409, 429
PAUSED = "autoscaling.keda.sh/paused"
TRIES = 5


class Workload(Struct, frozen=True, kw_only=True):
    """A Deployment or StatefulSet; its Service, and its ScaledObject if it has one, are called alike."""

    name: str
    namespace: str
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"

    @property
    def path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/{self.kind.lower()}s/{self.name}"


async def raised(api: KubeApi, workload: Workload) -> bool:
    """Have one replica where there is none; True where that was so. Raises KubeError."""
    return await _scaled(api, workload, 1, only_from_none=True)


async def scaled(api: KubeApi, workload: Workload, replicas: int) -> bool:
    """Have so many replicas; True where that changed anything. Raises KubeError."""
    return await _scaled(api, workload, replicas, only_from_none=False)


async def paused(api: KubeApi, workload: Workload, pause: bool) -> None:
    """Have KEDA leave it alone, or take it up again; nothing where KEDA has no part. Raises KubeError."""
    path = f"/apis/keda.sh/v1alpha1/namespaces/{workload.namespace}/scaledobjects/{workload.name}"
    try:
        await api.call("PATCH", path, {"metadata": {"annotations": {PAUSED: "true" if pause else None}}})
    except KubeError as error:
        if error.status != NOT_FOUND:
            raise


async def evicted(api: KubeApi, namespace: str, pod: str) -> bool:
    """Ask for a pod's eviction; False where its disruption budget does not allow it now. Raises KubeError."""
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    }
    try:
        await api.call("POST", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", body)
    except KubeError as error:
        if error.status == TOO_MANY:
            return False
        if error.status != NOT_FOUND:
            raise
    return True


async def _scaled(api: KubeApi, workload: Workload, replicas: int, *, only_from_none: bool) -> bool:
    path = f"{workload.path}/scale"
    for tries_left in reversed(range(TRIES)):
        found = await api.call("GET", path)
        now = int(found["spec"].get("replicas") or 0)
        if now == replicas or (only_from_none and now > 0):
            return False
        found["spec"]["replicas"] = replicas
        try:
            await api.call("PUT", path, found)
        except KubeError as error:
            if error.status != CONFLICT or not tries_left:
                raise
        else:
            return True
    return False
