"""The documents say what the code has."""

import re
from pathlib import Path

import msgspec
import pytest

from backends.autoscaler import Hours, Scaling
from backends.engines import LaunchProfile, Lora, Nodes, Speculative
from gateway import config_file, semconv, settings
from gateway.metrics import METRICS
from gateway.spans import STEPS

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()

TABLES = [
    settings.ServerSettings,
    settings.DatabaseSettings,
    settings.RedisSettings,
    settings.FleetSettings,
    settings.SpotSettings,
    settings.VersionSettings,
    settings.ModelSettings,
    settings.BandSettings,
    settings.PriceSettings,
    settings.ReplicaSettings,
    settings.PodSettings,
    settings.WorkloadSettings,
    settings.KubernetesSettings,
    LaunchProfile,
    Speculative,
    Lora,
    Nodes,
    Scaling,
    Hours,
    settings.RouteSettings,
    settings.Objective,
    settings.CacheSettings,
    settings.SemanticSettings,
    settings.CoalescingSettings,
    settings.IdempotencySettings,
    settings.StreamSettings,
    settings.BillingSettings,
    settings.TracingSettings,
    settings.LoggingSettings,
    settings.WebhookSettings,
    settings.KeySettings,
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.__name__))
def test_every_key_is_documented(table: type[msgspec.Struct]) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(table)]
    documented = set(re.findall(r"[a-z0-9_]+", " ".join(re.findall(r"`([^`]+)`", CONFIGURATION))))
    assert set(names) <= documented


def test_every_span_and_attribute_is_documented() -> None:
    documented = set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / "tracing.md").read_text()))
    named = {name: value for name, value in vars(semconv).items() if name.isupper() and name != "VERSION"}
    constants = {value for value in named.values() if isinstance(value, str)}
    guide = (ROOT / "docs" / "observability.md").read_text()
    assert all(f"`{name}`" in guide for name in semconv.METRICS.values())
    assert constants | set(STEPS) <= documented


def test_the_table_of_metrics_is_the_code_s() -> None:
    guide = (ROOT / "docs" / "observability.md").read_text()
    lines = ["| metric | labels | unit | what |", "|---|---|---|---|"]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {labels} | {one.unit} | {one.help} |")
    assert "\n".join(lines) in guide, "\n".join(lines)


def test_the_readme_configuration_is_valid() -> None:
    readme = (ROOT / "README.md").read_text()
    sample = re.search(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert sample is not None
    assert [one.name for one in config_file.parse(sample[1], "README.md").models] == ["small", "large"]


def test_links_of_the_readme_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
