"""Metrics by OTLP as a real receiver gets them, beside what ``/metrics`` shows; and how many series."""

import http.client
from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway import semconv as names
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.collector import Collector, collecting
from tests.integration.gateway import KEY, Gateway, Upstreams, chat_body, config, model, running, unique

House = tuple[Gateway, Upstreams, Collector]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, upstreams = tmp_path_factory.mktemp("metering"), Upstreams(1)
    text = config(model("small", upstreams.ports), directory=directory)
    with collecting() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.url}/v1/metrics"}
        gateway = Gateway(directory, text, OTEL_METRIC_EXPORT_INTERVAL="300", **endpoint)
        with running(gateway, upstreams):
            until(gateway.ready)
            yield gateway, upstreams, collector


def labels(point: object) -> dict[str, str]:
    return {one.key: one.value.string_value for one in point.attributes}  # type: ignore[attr-defined]


def test_what_is_sent_is_what_is_shown(house: House) -> None:
    gateway, _, collector = house
    for _ in range(3):
        assert gateway.chat("small", script("ok", tag=unique(), n=5))[0] == 200
    gateway.chat("absent", "x")

    def last(name: str) -> Metric | None:
        return next((one for one in reversed(list(collector.metrics)) if one.name == name), None)

    def all_counted() -> bool:
        sent = last("switchgear_requests")
        return sent is not None and sum(point.as_double for point in sent.sum.data_points) == 4

    until(all_counted)
    counter = last("switchgear_requests")
    assert counter is not None
    assert counter.sum.is_monotonic
    found = {(labels(one)["model"], labels(one)["status"]): one.as_double for one in counter.sum.data_points}
    assert found == {("small", "200"): 3, ("unknown", "404"): 1}
    spread = last("gen_ai.server.request.duration")
    assert spread is not None
    assert spread.unit == "s"
    (answered,) = [one for one in spread.histogram.data_points if names.ERROR_TYPE not in labels(one)]
    assert labels(answered)[names.REQUEST_MODEL] == "small"
    assert answered.count == sum(answered.bucket_counts) == 3
    assert len(answered.bucket_counts) == len(answered.explicit_bounds) + 1
    shown = gateway.metric("gen_ai_server_request_duration_seconds_sum", gen_ai_request_model="small")
    assert answered.sum == pytest.approx(shown)
    sent = {one.name for one in collector.metrics}
    assert set(names.METRICS.values()) - {"gen_ai.server.time_to_first_token",
                                          "gen_ai.server.time_per_output_token"} <= sent  # fmt: skip
    families = text_string_to_metric_families(gateway.call("GET", "/metrics")[2].decode())
    ours = {one.name for one in families if one.name.startswith("switchgear_") and one.samples}
    assert ours <= sent
    assert gateway.metric("switchgear_metric_exports_total", outcome="sent") > 0


def test_a_receiver_that_is_away_costs_a_sending(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory, upstreams = tmp_path_factory.mktemp("unmetered"), Upstreams(1)
    text = config(model("small", upstreams.ports), directory=directory)
    environ = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9/",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    gateway = Gateway(directory, text, **environ, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    with running(gateway, upstreams):
        until(gateway.ready)
        until(lambda: gateway.metric("switchgear_metric_exports_total", outcome="failed") > 0)
        assert gateway.chat("small", script("ok"))[0] == 200
        assert gateway.ready()


def series(gateway: Gateway) -> set[str]:
    text = gateway.call("GET", "/metrics")[2].decode()
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.soak)])
def test_names_that_clients_invent_make_no_series(house: House, count: int) -> None:
    """An unknown name of a model, tier, user or tag is one kind of request, however many there are."""
    gateway, _, _ = house
    gateway.chat("absent", "x")
    before = series(gateway)
    assert any('model="unknown"' in one for one in before)
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:
        for number in range(count):
            sent = {"authorization": f"Bearer {KEY}", "x-switchgear-tier": f"tier-{number}"}
            body = chat_body(f"junk-{number}", "x", user=f"user-{number}", service_tier="auto")
            connection.request("POST", "/v1/chat/completions", body, sent)
            reply = connection.getresponse()
            assert reply.status == 404, reply.read()
            reply.read()
    after = series(gateway)
    assert not [one for one in after if "junk" in one or "tier-" in one]
    # Loops tell of themselves from their first step on, whatever clients do.
    assert not [one for one in after - before if not one.startswith("switchgear_loop_")]
