"""The compose file and all that it mounts, validated without an engine."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types
from compose_spec import PyOptions

from gateway.checks import check
from gateway.config_file import parse
from tests.integration.prometheus import binary

PLACE = Path(__file__).parents[2] / "deploy" / "compose"
TEXT = (PLACE / "compose.yaml").read_text()
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
GIVEN = {
    line.partition("=")[0]: line.partition("=")[2] or "given"
    for line in (PLACE / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
}


def filled(values: dict[str, str]) -> str:
    """Put variables in, as compose does; raises KeyError for a required one that is not given."""

    def value(found: "re.Match[str]") -> str:
        name, kind, rest = found.groups()
        if values.get(name):
            return values[name]
        if kind == "-":
            return str(rest)
        raise KeyError(name)

    return VARIABLE.sub(value, TEXT)


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled(GIVEN))["services"]
    return found


def test_it_is_a_compose_file_and_has_every_part() -> None:
    made = PyOptions(apply_merge=True).from_yaml(filled(GIVEN)).to_dict()
    assert set(made["services"]) == {
        "gateway", "small", "large", "postgres", "redis", "prometheus", "alertmanager", "grafana",
        "collector", "tempo",
    }  # fmt: skip
    with pytest.raises(Exception, match="imagine"):
        PyOptions(apply_merge=True).from_yaml(filled(GIVEN).replace("    image: redis", "    imagine: redis"))


def test_nothing_starts_without_its_secrets() -> None:
    needed = {"SWITCHGEAR_ADMIN_KEY", "FIRST_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD"}
    for name in needed:
        with pytest.raises(KeyError, match=name):
            filled({**GIVEN, name: ""})
    used = {found[1] for found in VARIABLE.finditer(TEXT)}
    assert used - set(GIVEN) == {"SWITCHGEAR_TAG", "VLLM_IMAGE"}


def test_what_is_mounted_and_depended_on_exists() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (PLACE / source).exists(), (name, source)
        assert set(service.get("depends_on", ())) <= set(services())
        assert service["cap_drop"] == ["ALL"]
        assert "latest" not in service["image"]
        assert ":" in service["image"]
    assert {name for name, one in services().items() if "ports" in one} == {"gateway", "grafana"}


def test_what_grafana_is_provisioned_with_fits_together() -> None:
    mounts = dict(volume.split(":")[:2][::-1] for volume in services()["grafana"]["volumes"])
    (provider,) = read("dashboards/grafana/provisioning/dashboards/switchgear.yml")["providers"]
    boards = list((PLACE / mounts[provider["options"]["path"]]).glob("switchgear-*.json"))
    assert len(boards) == 7
    used = {found for one in boards for found in re.findall(r'"uid": "(switchgear-[a-z]+)"', one.read_text())}
    files = ("dashboards/grafana/provisioning/datasources/switchgear.yml", "deploy/compose/traces.yml")
    sources = {one["uid"]: one for name in files for one in read(name)["datasources"]}
    assert used - {one.stem for one in boards} <= set(sources)
    for one in sources.values():
        host = one["url"].removeprefix("http://").partition(":")[0]
        assert host in services() or one["url"] == "$SWITCHGEAR_LEDGER_HOST"
    ledger = (PLACE.parents[1] / files[0]).read_text()
    assert set(re.findall(r"\$(\w+)", ledger)) <= set(services()["grafana"]["environment"])


def read(name: str) -> Any:
    return yaml.safe_load((PLACE.parents[1] / name).read_text())


def test_no_secret_stands_in_the_file() -> None:
    """Each is a variable of .env, without a default; nothing else of the machine's environment is read."""
    for service in services().values():
        for name in service.get("environment", {}):
            if re.search("PASSWORD|KEY|TOKEN", name):
                assert re.search(rf"{name}: \"?\$\{{\w+(:\?[^}}]*|:-)\}}", TEXT), name


def test_every_host_in_a_configuration_is_a_service() -> None:
    for path in PLACE.iterdir():
        text = path.read_text()
        hosts = set(re.findall(r'(?://|@|")([a-z][a-z0-9-]*):(?:\d{4,5})\b', text))
        assert hosts - {"localhost"} <= set(services()), path.name


def test_the_gateway_takes_its_configuration() -> None:
    settings = parse((PLACE / "switchgear.toml").read_text(), "switchgear.toml")
    check(settings, "switchgear.toml", services()["gateway"]["environment"])
    served = {
        word.removeprefix("--served-model-name=")
        for service in ("small", "large")
        for word in services()[service]["command"]
        if word.startswith("--served-model-name=")
    }
    assert {model.upstream_name for model in settings.models} == served
    for model in settings.models:
        assert f"--max-num-seqs={model.replicas[0].max_concurrency}" in services()[model.name]["command"]


def test_prometheus_and_alertmanager_take_theirs(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((PLACE / "prometheus.yml").read_text())
    rules = PLACE.parents[1] / "dashboards" / "prometheus" / "rules.yml"
    (tmp_path / "rules.yml").write_text(rules.read_text())
    for command in (
        [binary("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        [binary("amtool"), "check-config", str(PLACE / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_spans_go_from_the_gateway_through_the_collector_to_the_store() -> None:
    collector = yaml.safe_load((PLACE / "collector.yml").read_text())
    pipeline = collector["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) <= set(collector[kind])
    said = services()["gateway"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert said.rpartition(":")[2] in collector["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    tempo = yaml.safe_load((PLACE / "tempo.yml").read_text())
    store = collector["exporters"]["otlphttp"]["endpoint"]
    assert (
        store.rpartition(":")[2] in tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    )
    traces = yaml.safe_load((PLACE / "traces.yml").read_text())["datasources"][0]["url"]
    assert traces.endswith(f":{tempo['server']['http_listen_port']}")
