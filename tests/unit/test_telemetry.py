"""The table of metrics and the text that Prometheus reads."""

import re
from collections.abc import Iterator
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import METRICS, SECONDS, Metric
from gateway.telemetry import Telemetry

CONTRACT = {
    "switchgear_requests_total": ("model", "route", "status", "cache"),
    "switchgear_queue_depth": ("model",),
    "switchgear_replicas": ("model", "phase"),
    "switchgear_upstream_attempts_total": ("model", "outcome"),
}


def samples(telemetry: Telemetry) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(telemetry.text().decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def constant(labels: tuple[str, ...]) -> list[tuple[tuple[str, ...], float]]:
    return [(labels, 1.0)]


def test_the_names_that_outsiders_read_are_there() -> None:
    table = {metric.name: metric.labels for metric in METRICS}
    assert len(table) == len(METRICS)
    assert {name: table[name] for name in CONTRACT} == CONTRACT


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_a_name_a_unit_and_no_label_of_a_tenant(metric: Metric) -> None:
    assert re.fullmatch(r"(switchgear|gen_ai)_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == metric.kind.endswith("counter")
    assert metric.unit != "seconds" or re.search("_seconds(_total)?$", metric.name)
    assert metric.help.endswith(".")
    assert metric.unit
    assert not {"key", "key_id", "tenant", "org", "project", "user", "request_id"} & set(metric.labels)


def test_counts_add_up() -> None:
    telemetry = Telemetry()
    telemetry.count("switchgear_tokens_total", ("small", "prompt"), 5)
    telemetry.count("switchgear_tokens_total", ("small", "prompt"))
    telemetry.count("switchgear_tokens_total", ('od"d\n\\', "prompt"))
    found = [sample for sample in samples(telemetry) if sample[0] == "switchgear_tokens_total"]
    assert found == [
        ("switchgear_tokens_total", {"model": "small", "direction": "prompt"}, 6.0),
        ("switchgear_tokens_total", {"model": 'od"d\n\\', "direction": "prompt"}, 1.0),
    ]


def test_a_histogram_counts_each_value_in_every_bucket_above_it() -> None:
    telemetry = Telemetry()
    values = [0.0, 0.005, 0.0051, 1.0, 119.0, 121.0]
    for value in values:
        telemetry.observe("switchgear_queue_seconds", ("m",), value)
    found = {
        (name, labels.get("le")): value for name, labels, value in samples(telemetry) if "queue_s" in name
    }
    for bound in SECONDS:
        assert found["switchgear_queue_seconds_bucket", str(bound)] == sum(value <= bound for value in values)
    assert found["switchgear_queue_seconds_bucket", "+Inf"] == len(values)
    assert found["switchgear_queue_seconds_count", None] == len(values)
    assert found["switchgear_queue_seconds_sum", None] == pytest.approx(sum(values))


def test_probes_are_read_when_somebody_asks() -> None:
    telemetry, depth = Telemetry(), [3.0]
    telemetry.probe("switchgear_queue_depth", lambda: [(("m",), depth[0])])
    assert ("switchgear_queue_depth", {"model": "m"}, 3.0) in list(samples(telemetry))
    depth[0] = 4.0
    assert ("switchgear_queue_depth", {"model": "m"}, 4.0) in list(samples(telemetry))


def test_every_metric_of_the_table_can_be_rendered() -> None:
    telemetry = Telemetry()
    for metric in METRICS:
        labels = tuple("x" for _ in metric.labels)
        if metric.kind == "counter":
            telemetry.count(metric.name, labels)
        elif metric.kind == "histogram":
            telemetry.observe(metric.name, labels, 1.0)
        else:
            telemetry.probe(metric.name, partial(constant, labels))
    text = telemetry.text().decode()
    for metric in METRICS:
        assert f"# HELP {metric.name} {metric.help}" in text
