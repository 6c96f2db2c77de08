"""The Helm chart: rendered and linted by Helm's own library, held against the schemas of what it makes."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import msgspec
import pytest
import yaml  # type: ignore[import-untyped]  # it has no types
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from helm_python import HelmError, lint

from gateway.checks import check
from gateway.config_file import parse
from gateway.metrics import METRICS
from gateway.settings import Settings
from tests.fakes.chart import (
    BASE,
    EVERYTHING,
    MATRIX,
    MODEL,
    PLACE,
    SECRETS,
    Object,
    chart,
    of,
    over,
    pods,
    rendered,
)

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.37.0-local-strict"
LATER_BEHAVIORS = ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


def closed(schema: Any) -> Any:
    """Refuse what a schema does not name: an API server prunes it without a word."""
    if isinstance(schema, dict):
        found = {key: closed(value) for key, value in schema.items()}
        if "properties" in found:
            found.setdefault("additionalProperties", False)
        return found
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


@cache
def kubernetes(api: str, kind: str) -> Any:
    """Give the strict schema of one of Kubernetes' own kinds, compiled once."""
    group, _, version = api.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    schema = json.loads((SCHEMAS / f"{name}.json").read_text().replace("/api/_definitions.json#", "#"))
    schema.pop("$id", None)
    schema["$defs"] = definitions()
    return jsonschema_rs.validator_for(schema)


@cache
def definitions() -> Any:
    return json.loads((SCHEMAS / "_definitions.json").read_text())["$defs"]


@cache
def custom() -> dict[str, Any]:
    """The schemas of kinds that are not Kubernetes' own; the package's KEDA is 2.16."""
    schemas = {
        one.__name__: closed(one.model_json_schema(by_alias=True))
        for one in (ScaledObject, ServiceMonitor, PrometheusRule)
    }
    fallback = schemas["ScaledObject"]["$defs"]["Fallback"]["properties"]
    fallback["behavior"] = {"enum": LATER_BEHAVIORS}
    return {name: jsonschema_rs.validator_for(schema) for name, schema in schemas.items()}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_everything_it_makes_fits_its_schema(values: Object) -> None:
    objects = rendered(values)
    seen = set()
    for one in objects:
        where = (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        assert where not in seen, "made twice"
        seen.add(where)
        if one["kind"] in custom():
            custom()[one["kind"]].validate(one)
        else:
            kubernetes(one["apiVersion"], one["kind"]).validate(one)


def test_a_schema_refuses_what_it_does_not_know() -> None:
    """The test above can fail."""
    (scaled,) = of(rendered(BASE), "ScaledObject")
    custom()["ScaledObject"].validate(scaled)
    scaled = {**scaled, "spec": {**scaled["spec"], "minReplicas": 1}}
    with pytest.raises(jsonschema_rs.ValidationError, match="minReplicas"):
        custom()["ScaledObject"].validate(scaled)


@pytest.mark.parametrize("values", [BASE, EVERYTHING], ids=["little", "everything"])
def test_helms_linter_finds_nothing(values: Object) -> None:
    report = lint(str(PLACE), values, strict=True)
    assert [one["error"] for one in report["messages"] if one["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_gateway_takes_the_configuration_it_is_given(values: Object) -> None:
    name = "sg"
    (found,) = [
        one
        for one in of(rendered(values), "ConfigMap")
        if one["metadata"]["name"] == name and "switchgear.toml" in one["data"]
    ]
    settings = parse(found["data"]["switchgear.toml"], "switchgear.toml")
    check(settings, "switchgear.toml", {"METRICS_TOKEN": "t", "REDIS_PASSWORD": "p"})
    assert [one.name for one in settings.models] == [one["name"] for one in values["models"]]
    assert settings.server.drain_s == 120, "the pod's grace is made for it"


def test_workloads_are_found_by_the_gateway_under_their_names() -> None:
    objects = rendered(EVERYTHING)
    (found,) = [one for one in of(objects, "ConfigMap") if one["metadata"]["name"] == "sg"]
    settings = parse(found["data"]["switchgear.toml"], "switchgear.toml")
    told = {
        (workload.kind, model.kubernetes.namespace, workload.name)
        for model in settings.models
        if model.kubernetes is not None
        for workload in model.kubernetes.workloads
    }
    made = {
        (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"])
        for one in objects
        if one["metadata"]["labels"].get("app.kubernetes.io/component") == "engine"
    }
    services = {("Service", *place) for _, *place in told}
    assert told | services == made
    assert len(told) == 5, "one, and two versions with a floor each"


def test_no_number_of_replicas_is_in_the_way_of_who_owns_it() -> None:
    """A number in the manifest would undo KEDA's and the gateway's at every upgrade."""
    objects = rendered(EVERYTHING)
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of(objects, "ScaledObject")}
    for one in of(objects, "Deployment") + of(objects, "StatefulSet"):
        assert ("replicas" in one["spec"]) == (
            one["metadata"]["name"] not in scaled and one["metadata"]["name"] != "sg"
        )
    assert {one["spec"]["minReplicaCount"] for one in of(objects, "ScaledObject")} == {1}
    floors = [one for one in of(objects, "Deployment") if one["metadata"]["name"].endswith("-floor")]
    assert [one["spec"]["replicas"] for one in floors] == [2]
    assert floors[0]["spec"]["template"]["spec"]["nodeSelector"] == {
        "karpenter.sh/capacity-type": "on-demand"
    }


def test_every_container_is_confined() -> None:
    for spec in pods(rendered(EVERYTHING)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            user = security.get("runAsUser", spec["securityContext"].get("runAsUser"))
            assert user > 0


def test_only_the_gateway_may_speak_to_the_api_server_and_little_at_that() -> None:
    objects = rendered(EVERYTHING)
    for one in objects:
        if (
            one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")
            and one["metadata"]["name"] != "sg"
        ):
            assert one["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    rules = [rule for kind in ("Role", "ClusterRole") for one in of(objects, kind) for rule in one["rules"]]
    verbs = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert verbs == {
        ("endpointslices", "list"), ("endpointslices", "watch"), ("nodes", "list"), ("nodes", "watch"),
        ("deployments/scale", "get"), ("deployments/scale", "update"),
        ("statefulsets/scale", "get"), ("statefulsets/scale", "update"),
        ("scaledobjects", "patch"), ("pods/eviction", "create"),
        ("leases", "create"), ("leases", "get"), ("leases", "update"),
    }  # fmt: skip
    named = ("deployments/scale", "scaledobjects")
    assert all(rule.get("resourceNames") for rule in rules if set(named) & set(rule["resources"]))
    assert [one["rules"][0]["resources"] for one in of(objects, "ClusterRole")] == [["nodes"]]


def test_no_secret_is_written_and_every_one_is_referred_to() -> None:
    objects = rendered(EVERYTHING)
    assert of(objects, "Secret") == []
    text = json.dumps(objects)
    assert all(f'"name": "{one["name"]}"' in text for one in SECRETS.values())


def test_scaling_asks_for_metrics_that_the_gateway_has() -> None:
    known = set()
    for metric in METRICS:
        known |= {metric.name}
        if metric.kind.endswith("histogram"):
            known |= {f"{metric.name}_{part}" for part in ("bucket", "sum", "count")}
    queries = [
        trigger["metadata"]["query"]
        for one in of(rendered(EVERYTHING), "ScaledObject")
        for trigger in one["spec"]["triggers"]
    ]
    used = {name for query in queries for name in re.findall(r"\b(?:switchgear|gen_ai)_\w+(?=[{)])", query)}
    assert used <= known
    wanted = {"switchgear_queue_depth", "switchgear_running", "switchgear_engine_kv_usage_ratio"}
    assert wanted | {"gen_ai_server_time_to_first_token_seconds_bucket"} <= used
    labels = {metric.name: set(metric.labels) for metric in METRICS}
    for query in queries:
        for name, given in re.findall(r"\b((?:switchgear|gen_ai)_\w+)\{([^}]*)\}", query):
            base = re.sub("_(bucket|sum|count)$", "", name)
            assert set(re.findall(r"(\w+)=", given)) <= labels.get(name, labels.get(base, set()))


def test_the_boards_and_rules_are_those_of_the_repository() -> None:
    objects = rendered(EVERYTHING)
    boards = {
        name: text
        for one in of(objects, "ConfigMap")
        for name, text in one["data"].items()
        if name.endswith(".json")
    }
    real = {one.name: json.loads(one.read_text()) for one in (ROOT / "dashboards/grafana").glob("*.json")}
    assert {name: json.loads(text) for name, text in boards.items()} == real
    rules = yaml.safe_load((ROOT / "dashboards/prometheus/rules.yml").read_text())
    assert of(objects, "PrometheusRule")[0]["spec"] == rules


def with_settings(schema: Any) -> Any:
    """Put the gateway's own settings where values hold them: what it would refuse, Helm refuses first.

    What the chart itself gives (a Redis's URL, a model's name) need not be there.
    """
    _, found = msgspec.json.schema_components([Settings], ref_template="#/definitions/{name}")
    parts = {name: bare(one) for name, one in found.items()}
    tables = parts.pop("Settings")["properties"]
    lists = {name: tables.pop(name) for name in ("models", "routes", "keys")}
    tables["redis"] = {**parts.pop("RedisSettings"), "required": []}
    properties = {**schema["properties"], "keys": lists["keys"], "routes": lists["routes"]}
    properties["config"] = {"type": "object", "additionalProperties": False, "properties": tables}
    model = properties["models"]["items"]["properties"]
    model["settings"] = {**parts["ModelSettings"], "required": []}
    return {**schema, "properties": properties, "definitions": parts}


def bare(schema: Any) -> Any:
    """Leave out what only people read: the file goes into every release."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    texts = {key for key in ("title", "description", "default") if not isinstance(schema.get(key), dict)}
    return {key: bare(value) for key, value in schema.items() if key not in texts | {"default"}}


def test_the_schema_of_values_holds_that_of_the_settings() -> None:
    """REGOLD=1 writes it anew."""
    path = PLACE / "values.schema.json"
    schema = json.loads(path.read_text())
    whole = with_settings(schema)
    if os.environ.get("REGOLD") == "1":
        path.write_text(json.dumps(whole, indent=1) + "\n")
    assert json.loads(path.read_text()) == whole


WRONG: dict[str, tuple[Object, str]] = {
    "a misspelt key": ({"gateway": {"replica": 3}}, "replica"),
    "a wrong kind": ({"gateway": {"kind": "DaemonSet"}}, "/gateway/kind"),
    "a model without price's input": ({"models": [{**MODEL, "price": {"output": 1}}]}, "/models/0/price"),
    "a share beyond one": ({"scaling": {"targetKv": 85}}, "/scaling/targetKv"),
    "no database": ({"database": {"url": ""}}, "database.url: it is empty"),
    "sqlite": ({"database": {"url": "sqlite:///x"}}, "/database/url"),
    "a password in the open": ({"redis": {"url": "redis://:secret@r:6379/0"}}, "secrets.redisPassword"),
    "no redis": ({"redis": {"url": ""}}, "several gateways share limits"),
    "no admin key": ({"secrets": {"adminKey": {"name": ""}}}, "make a Secret with a random key"),
    "no models": ({"models": []}, "add at least one"),
    "a model twice": ({"models": [MODEL, MODEL]}, "models[1] (small): the name is given twice"),
    "names too alike": ({"models": [MODEL, {**MODEL, "name": "SMALL"}]}, "choose names that differ"),
    "a floor under nothing": ({"models": [{**MODEL, "spot": {"onDemand": 1}}]}, "set spot.enabled"),
    "a floor that sleeps": (
        {"models": [{**MODEL, "spot": {"enabled": True, "onDemand": 1}}]},
        "raise minRep",
    ),
    "more than the most": ({"models": [{**MODEL, "minReplicas": 9}]}, "maxReplicas 8 is less"),
    "a foreign namespace": ({"models": [{**MODEL, "namespace": "x"}]}, "add it to tenants"),
    "an unknown tier": (
        {"routes": [{"name": "auto", "tiers": ["small", "huge"]}]},
        'tier "huge" is no model',
    ),
    "a table that is none": ({"config": {"chache": {}}}, "additional properties 'chache'"),
    "a setting that is none": ({"config": {"cache": {"exact_ttl": 5}}}, "at '/config/cache'"),
    "a setting of another kind": ({"config": {"redis": {"timeout_ms": "5 ms"}}}, "/config/redis/timeout_ms"),
    "a model's setting": (
        {"models": [{**MODEL, "settings": {"queue_timeout": 9}}]},
        "additional properties 'queue_timeout'",
    ),
    "a key in the open": ({"keys": [{"name": "a", "key": "sk-secret"}]}, "additional properties 'key'"),
    "a route's objective": (
        {"routes": [{"name": "auto", "tiers": ["small"], "objective": {"large": 1}}]},
        "/routes/0/objective",
    ),
    "max below min": ({"gateway": {"autoscaling": {"max": 1}}}, "max 1 is less than min 3"),
}


@pytest.mark.parametrize(("more", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused_with_their_place_and_a_remedy(more: Object, said: str) -> None:
    values = over(BASE, more)

    def install() -> None:
        chart().validate_schema(values)
        rendered(values)

    with pytest.raises(HelmError) as refusal:
        install()
    assert said in str(refusal.value)
    assert ":secret@" not in str(refusal.value)


def test_the_drain_hook_waits_for_the_last_request() -> None:
    """It returns at once where the engine tells nothing, and after its time where requests do not end."""
    text = (PLACE / "files" / "drain.py").read_text()
    (shipped,) = {
        one["data"]["drain.py"].strip()
        for one in of(rendered(BASE), "ConfigMap")
        if one["metadata"]["name"].endswith("-drain")
    }
    assert shipped == text.strip()
    done = subprocess.run(
        [sys.executable, PLACE / "files" / "drain.py", "1", "0.1"],
        timeout=30,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
