"""EndpointSlices and Nodes as the API server gives them -> the pods that requests may go to.

Pure. An endpoint that is not ready, or terminates, takes no new request. A pod may stand in several slices
(while they are rearranged; one for each family of addresses): it is one pod, by its first slice. One whose
machine is being taken away is left out too, as long as its model has another.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

SERVICE = "kubernetes.io/service-name"
PORT = "http"
# What clouds and their controllers say of spot machines.
SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
# ... and of machines that are taken away within minutes.
DOOM_TAINTS = (
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "aws-node-termination-handler/scheduled-maintenance",
    "cloud.google.com/impending-node-termination",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "node.kubernetes.io/out-of-service",
    "node.cloudprovider.kubernetes.io/shutdown",
)
Found = Mapping[str, Any]


class Machine(Struct, frozen=True):
    spot: bool = False
    doomed: str = ""
    """The taint that says it is taken away; "" where it stays."""


class Pod(Struct, frozen=True, kw_only=True):
    """One ready replica."""

    name: str
    namespace: str
    workload: str
    url: str
    machine: Machine = Machine()

    @property
    def id(self) -> str:
        """Its name in this gateway: pods of two namespaces may be called alike."""
        return f"{self.name}.{self.namespace}"


def machines(nodes: Iterable[Found], taints: Sequence[str]) -> dict[str, Machine]:
    """Read what matters of Nodes, by name."""
    found = {}
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        keys = [one.get("key", "") for one in node.get("spec", {}).get("taints") or []]
        doomed = next((key for key in keys if key in taints), "")
        spot = any(labels.get(name) == value for name, value in SPOT_LABELS.items())
        found[node["metadata"]["name"]] = Machine(spot, doomed)
    return found


def pods(slices: Iterable[Found], known: Mapping[str, Machine]) -> list[Pod]:
    """Give the ready pods by id."""
    found: dict[str, Pod] = {}
    for one in sorted(slices, key=lambda each: (each.get("addressType", ""), each["metadata"]["name"])):
        for pod in _of_slice(one, known):
            found.setdefault(pod.id, pod)
    return [found[id_] for id_ in sorted(found)]


def usable(candidates: Sequence[Pod]) -> list[Pod]:
    """Of one model's pods those that get new requests."""
    staying = [pod for pod in candidates if not pod.machine.doomed]
    return staying or list(candidates)


def _of_slice(one: Found, known: Mapping[str, Machine]) -> Iterable[Pod]:
    workload = (one["metadata"].get("labels") or {}).get(SERVICE, "")
    port = next((each["port"] for each in one.get("ports") or [] if each.get("name") == PORT), None)
    if port is None or one.get("addressType") not in ("IPv4", "IPv6"):
        return
    for endpoint in one.get("endpoints") or []:
        conditions, target = endpoint.get("conditions") or {}, endpoint.get("targetRef") or {}
        if conditions.get("ready") is False or conditions.get("terminating") or target.get("kind") != "Pod":
            continue
        address = endpoint["addresses"][0]
        yield Pod(
            name=target["name"],
            namespace=target.get("namespace") or one["metadata"]["namespace"],
            workload=workload,
            url=f"http://{f'[{address}]' if ':' in address else address}:{port}/v1",
            machine=known.get(endpoint.get("nodeName") or "", Machine()),
        )
