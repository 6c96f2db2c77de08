"""Values for the Helm chart, from little to everything, and what Helm's own library makes of them."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types
from helm_python import Chart, disable_logging

PLACE = Path(__file__).parents[2] / "deploy" / "chart"
Object = dict[str, Any]

MODEL: Object = {
    "name": "small",
    "weights": "Qwen/Qwen2.5-7B-Instruct",
    "price": {"input": 0.05, "output": 0.2},
    "gpus": 1,
    "maxConcurrency": 64,
    "minReplicas": 0,
    "maxReplicas": 8,
    "sloTtftMs": 500,
    "versions": [{"name": "v1"}],
}
LARGE: Object = {
    **MODEL,
    "name": "org/Large.70B",
    "gpus": 4,
    "minReplicas": 3,
    "maxReplicas": 12,
    "namespace": "team-a",
    "contextTokens": 32768,
    "spot": {"enabled": True, "onDemand": 2},
    "versions": [
        {"name": "2026-11", "weight": 9},
        {"name": "canary", "weight": 1, "kind": "StatefulSet", "args": ["--quantization=awq"]},
    ],
}
TENANT: Object = {
    "name": "team-a",
    "create": True,
    "quota": {"requests.nvidia.com/gpu": "64"},
    "limits": {"default": {"memory": "32Gi"}, "max": {"memory": "256Gi"}},
}
BASE: Object = {
    "database": {"url": "postgresql://switchgear@pg:5432/switchgear"},
    "redis": {"url": "redis://redis:6379/0"},
    "secrets": {"adminKey": {"name": "sg-admin"}},
    "models": [MODEL],
}
SECRETS = {
    name: {"name": f"sg-{name.lower()}"}
    for name in ("adminKey", "databasePassword", "redisPassword", "metricsToken", "modelHub")
}
EVERYTHING: Object = {
    **BASE,
    "secrets": SECRETS,
    "models": [MODEL, LARGE],
    "tenants": [TENANT],
    "routes": [{"name": "auto", "tiers": ["small", "org/Large.70B"], "objective": {"large_share": 0.3}}],
    "keys": [{"name": "bench", "sha256": "0" * 64, "rpm": 600, "budget_usd": 12.5, "models": ["small"]}],
    "config": {"cache": {"exact_ttl_s": 60, "semantic": {"error_bound": 0.01}}, "server": {"drain_s": 90}},
    "modelCache": {"enabled": True, "storageClass": "fast"},
    "prePull": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
}


def over(base: Object, more: Object) -> Object:
    """Lay values over values, as Helm does."""
    found = dict(base)
    for key, value in more.items():
        old = found.get(key)
        found[key] = over(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return found


SWITCHES: dict[str, Object] = {
    "as it is": {},
    "stateful gateway": {"gateway": {"kind": "StatefulSet", "journal": {"storageClass": "ssd"}}},
    "no autoscaling of gateways": {"gateway": {"autoscaling": {"enabled": False}}},
    "no keda": {"scaling": {"keda": False}},
    "keda asks with a token": {"scaling": {"authenticationRef": "prom", "authModes": "bearer"}},
    "no eviction": {"spot": {"evict": False}},
    "no policies": {"networkPolicies": {"enabled": False}},
    "policies of one's own": {"networkPolicies": {"clients": [{"podSelector": {}}], "egress": [{}]}},
    "no classes": {"priorityClasses": {"enabled": False}},
    "no migration": {"migration": {"enabled": False}},
    "no boards": {"dashboards": {"enabled": False}},
    "an image by digest": {"image": {"digest": "sha256:" + "a" * 64, "pullSecrets": ["registry"]}},
}
MATRIX = {"little": BASE} | {switch: over(EVERYTHING, more) for switch, more in SWITCHES.items()}


@cache
def chart() -> Chart:
    disable_logging()
    return Chart.load(PLACE)


def rendered(values: Object) -> list[Object]:
    """Give all objects, made anew for each caller."""
    return [dict(one) for one in _rendered(json.dumps(values))]


@cache
def _rendered(values: str) -> list[Object]:
    files = chart().render(values=json.loads(values), name="sg", namespace="llm")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def of(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def pods(objects: list[Object]) -> Iterator[Object]:
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield one["spec"]["template"]["spec"]
