"""The Helm chart's parts beside each other: what refers to what, spot and floor, tenants, starts and ends."""

import re

import pytest

from tests.fakes.chart import EVERYTHING, MATRIX, Object, of, over, pods, rendered


def named(objects: list[Object], kind: str, space: str = "") -> set[str]:
    return {
        one["metadata"]["name"]
        for one in of(objects, kind)
        if not space or one["metadata"].get("namespace", "llm") == space
    }


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_what_refers_to_something_finds_it(values: Object) -> None:
    """Scalers, budgets, rights, classes, claims, configurations and accounts: by name, in their namespace."""
    objects = rendered(values)
    work = of(objects, "Deployment") + of(objects, "StatefulSet")
    places = {(one["kind"], one["metadata"].get("namespace", "llm"), one["metadata"]["name"]) for one in work}
    for one in of(objects, "HorizontalPodAutoscaler") + of(objects, "ScaledObject"):
        target = one["spec"]["scaleTargetRef"]
        assert (target["kind"], one["metadata"].get("namespace", "llm"), target["name"]) in places
    for _, space, name in places:
        assert name in named(objects, "PodDisruptionBudget", space)
        assert name in named(objects, "Service", space)
        if values.get("networkPolicies", {}).get("enabled", True):
            assert {"sg", "sg-engines"} & named(objects, "NetworkPolicy", space)
    for one in work + of(objects, "DaemonSet"):
        space, spec = one["metadata"].get("namespace", "llm"), one["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] in named(objects, "ServiceAccount", space)
        if "priorityClassName" in spec:
            assert spec["priorityClassName"] in named(objects, "PriorityClass")
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in named(objects, "ConfigMap", space)
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in named(
                    objects, "PersistentVolumeClaim", space
                )
        mounts = {mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", [])}
        claimed = {each["metadata"]["name"] for each in one["spec"].get("volumeClaimTemplates", [])}
        assert mounts == {volume["name"] for volume in spec.get("volumes", [])} | claimed


def test_gateways_and_engines_start_spread_and_end_in_order() -> None:
    """Probes, spread over zones and machines, and a grace that covers the hook and the drain."""
    for one in of(rendered(EVERYTHING), "Deployment") + of(rendered(EVERYTHING), "StatefulSet"):
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"] == "http"
        spread = [each["topologyKey"] for each in spec["topologySpreadConstraints"]]
        assert spread == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        waits = [int(found) for found in re.findall(r"\d+", str(container["lifecycle"]["preStop"]["exec"]))]
        drain_s = 120 if one["metadata"]["name"] == "sg" else 0
        assert spec["terminationGracePeriodSeconds"] > waits[-1] + drain_s


def test_spot_pods_go_to_spot_machines_and_the_floor_stays_off_them() -> None:
    tolerated = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    objects = rendered(over(EVERYTHING, {"spot": {"tolerations": [tolerated]}}))
    specs = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in of(objects, "Deployment") + of(objects, "StatefulSet")
    }
    kinds = {
        name: (spec["nodeSelector"]["karpenter.sh/capacity-type"], tolerated in spec["tolerations"])
        for name, spec in specs.items()
        if "nodeSelector" in spec
    }
    made = "sg-org-large-70b"
    assert kinds == {
        f"{made}-2026-11": ("spot", True),
        f"{made}-2026-11-floor": ("on-demand", False),
        f"{made}-canary": ("spot", True),
        f"{made}-canary-floor": ("on-demand", False),
    }
    classes = {name: spec["priorityClassName"] for name, spec in specs.items()}
    values = {one["metadata"]["name"]: one["value"] for one in of(objects, "PriorityClass")}
    order = [values[classes[name]] for name in (f"{made}-2026-11", f"{made}-2026-11-floor", "sg")]
    assert order == sorted(set(order)), "who is pushed aside first"


def test_what_a_tenant_gets_and_what_is_ready_beforehand() -> None:
    objects = rendered(EVERYTHING)
    for kind in ("ResourceQuota", "LimitRange"):
        assert [one["metadata"]["namespace"] for one in of(objects, kind)] == ["team-a"]
    assert named(objects, "NetworkPolicy", "team-a") == {"sg-engines", "sg-tenant"}
    claims = {one["metadata"]["namespace"] for one in of(objects, "PersistentVolumeClaim")}
    assert claims == {"llm", "team-a"}
    (pulled,) = of(objects, "DaemonSet")
    images = {one["image"] for one in pulled["spec"]["template"]["spec"]["initContainers"]}
    engines = [one for one in pods(objects) if one["containers"][0]["name"] == "engine"]
    assert images == {one["containers"][0]["image"] for one in engines}
    (monitor,), (service,) = of(objects, "ServiceMonitor"), [
        one for one in of(objects, "Service") if one["metadata"]["name"] == "sg"
    ]  # fmt: skip
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {one["name"] for one in service["spec"]["ports"]}
    (job,) = of(objects, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    for one in of(objects, "ScaledObject"):
        spec = one["spec"]
        assert "idleReplicaCount" not in spec, "none and one are the gateway's"
        assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
        assert {trigger["metricType"] for trigger in spec["triggers"]} == {"AverageValue"}, "else no fallback"
