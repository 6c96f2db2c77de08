"""Traces as a real OTLP receiver gets them: the way of a request, its bill, and what a bad receiver costs."""

import http.server
import json
import signal
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway import semconv as names
from tests.fakes.processes import until
from tests.fakes.upstream import script, text
from tests.integration.collector import Collector, attributes, collecting
from tests.integration.gateway import (
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    running,
    unique,
)

House = tuple[Gateway, Upstreams, Collector]

ADMIN = "admin-" + "a" * 40
CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NOTED = """
[[keys]]
name = "noted"
key_env = "TEST_LIMITED_KEY"
project = "noted"
[tracing.content]
tenants = ["default/noted"]
redact = ['ACME-[0-9]+']
"""
ROUTE = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\n'


def settings(gateway_directory: object, upstreams: Upstreams, more: str = "") -> str:
    models = model("small", upstreams.ports[:2]) + model("large", upstreams.ports[2:]) + ROUTE
    return config(models, directory=gateway_directory, cache="exact_ttl_s = 3600", more=more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, upstreams = tmp_path_factory.mktemp("tracing"), Upstreams(3)
    with collecting() as collector:
        gateway = Gateway(
            directory, settings(directory, upstreams, NOTED), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url
        )
        with running(gateway, upstreams):
            until(gateway.ready)
            yield gateway, upstreams, collector


@pytest.fixture(scope="module")
def unsampled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory, upstreams = tmp_path_factory.mktemp("unsampled"), Upstreams(3)
    with collecting() as collector:
        gateway = Gateway(
            directory,
            settings(directory, upstreams, "[tracing]\nslow_s = 1000\nexpensive_usd = 0.000025"),
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
            OTEL_TRACES_SAMPLER="always_off",
        )
        with running(gateway, upstreams):
            until(gateway.ready)
            yield gateway, upstreams, collector


def nested(spans: dict[str, list[Span]]) -> None:
    """Check that every span lies within its parent, to the microsecond that a float clock keeps."""
    by_id = {one.span_id: one for found in spans.values() for one in found}
    assert len(by_id) == sum(map(len, spans.values())), "a span id twice"
    for one in by_id.values():
        assert one.start_time_unix_nano <= one.end_time_unix_nano
        if one is not spans["request"][0]:
            parent = by_id[one.parent_span_id]
            assert one.start_time_unix_nano >= parent.start_time_unix_nano - 1000, one.name
            assert one.end_time_unix_nano <= parent.end_time_unix_nano + 1000, one.name


def test_one_trace_from_the_openai_client_to_the_upstream(house: House) -> None:
    gateway, upstreams, collector = house
    tag = unique()
    sent = {"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=1,other=2"}
    with gateway.client() as client:
        stream = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=[{"role": "user", "content": script("ok", tag=tag)}],
            stream=True,
            max_tokens=77,
            temperature=0.5,
            extra_headers=sent,
        )
        assert len(list(stream.parse())) > 5
        request_id = stream.headers["x-request-id"]
    spans = collector.trace(request_id)
    steps = [
        "authenticate",
        "admit",
        "cache",
        "embed",
        "classify",
        "queue",
        "attempt",
        "first token",
        "stream",
        "settle",
    ]
    assert set(spans) == {"request", *steps}
    nested(spans)
    request, attempt = spans["request"][0], spans["attempt"][0]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (CLIENT_TRACE, CLIENT_SPAN)
    assert (request.name, request.kind, attempt.kind) == (
        "chat auto",
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_CLIENT,
    )
    assert request.trace_state == sent["tracestate"]
    (seen,) = upstreams.seen(tag)["requests"]
    assert seen["headers"]["traceparent"] == f"00-{CLIENT_TRACE}-{attempt.span_id.hex()}-01"
    assert seen["headers"]["tracestate"] == sent["tracestate"]
    told = attributes(request)
    assert told[names.REQUEST_MAX_TOKENS] == 77
    assert told[names.REQUEST_TEMPERATURE] == 0.5
    assert told[names.FINISH_REASONS] == ["stop"]
    assert told[names.CANDIDATES] == ["small", "large"]
    assert told[names.REASON] == stream.headers["x-switchgear-reason"]
    assert f"{told[names.SCORE]:.4f}" == stream.headers["x-switchgear-score"]
    assert 0 < told[names.TIME_TO_FIRST_CHUNK] < 30
    assert attributes(attempt)[names.SERVER_PORT] in upstreams.ports
    assert attributes(attempt)[names.REPLICA] == stream.headers["x-switchgear-replica"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_bill_on_the_span_is_the_ledgers(house: House, stream: bool) -> None:
    gateway, _, collector = house
    prompt = script("ok", tag=unique())
    for source in ("upstream", "hit-exact"):
        _, headers, _ = gateway.chat("small", prompt, stream=stream)
        row = gateway.row(headers["x-request-id"])
        spans = collector.trace(row["request_id"])
        told = attributes(spans["request"][0])
        assert row["source"] == source
        assert ("attempt" in spans) == (source == "upstream")
        assert {
            names.INPUT_TOKENS: row["prompt_tokens"],
            names.CACHED_TOKENS: row["cached_tokens"],
            names.OUTPUT_TOKENS: row["completion_tokens"],
            names.AMOUNT: row["amount_nanousd"],
            names.COST_USD: row["amount_nanousd"] / 1e9,
            names.PRICE_VERSION: row["price_version"],
            names.SOURCE: row["source"],
            names.ORG: row["org"],
            names.PROJECT: row["project"],
            names.KEY_ID: row["key_id"],
            names.RESPONSE_MODEL: row["model"],
            names.ATTEMPTS: row["attempts"],
        }.items() <= told.items()
        assert told[names.CACHE] == headers["x-switchgear-cache"]
        assert told.get(names.CACHE_ENTRY) == headers.get("x-switchgear-cache-entry")
        bills = [
            name for found in spans.values() for one in found for name in attributes(one) if "usage" in name
        ]
        assert len(bills) == 4, "a backend that sums must find the bill once"


def test_an_attempt_that_failed_is_to_be_seen_and_always_kept(unsampled: House) -> None:
    gateway, upstreams, collector = unsampled
    tag = unique()
    _, headers, _ = gateway.chat("small", script("503-after", "ok", tag=tag), stream=True)
    spans = collector.trace(headers["x-request-id"])
    first, second = spans["attempt"]
    assert (first.status.code, second.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert attributes(first)[names.ERROR_TYPE] == "status_503"
    assert attributes(first)[names.REPLICA] != attributes(second)[names.REPLICA]
    assert len(spans["queue"]) == 2
    assert ("stream" in spans, len(spans.get("stream", []))) == (True, 1)
    sent = [one["headers"]["traceparent"] for one in upstreams.seen(tag)["requests"]]
    trace_id = first.trace_id.hex()
    assert sent == [f"00-{trace_id}-{one.span_id.hex()}-00" for one in (first, second)], (
        "unsampled, says the header"
    )
    nested(spans)


def test_errors_and_dear_requests_are_kept_and_the_rest_is_not(unsampled: House) -> None:
    gateway, _, collector = unsampled
    dear = gateway.chat("small", script("ok", n=20))[1]
    cheap = gateway.chat("small", script("ok", n=1))[1]
    mistaken = gateway.chat("absent", "x")[1]
    until(gateway.ready)
    failed = gateway.chat("large", script("500", "500", "500", "500"), stream=True)[1]
    spans = collector.trace(failed["x-request-id"])
    request = spans["request"][0]
    assert request.status.code == Status.STATUS_CODE_ERROR
    assert attributes(request)[names.ERROR_TYPE] == "upstream_error"
    collector.trace(dear["x-request-id"])
    kept = {attributes(one).get(names.REQUEST_ID) for one in collector.spans}
    assert kept.isdisjoint({cheap["x-request-id"], mistaken["x-request-id"]})


def test_slow_requests_are_kept_as_soon_as_that_is_configured(unsampled: House) -> None:
    gateway, _, collector = unsampled
    before = gateway.config.read_text()
    gateway.write(before.replace("slow_s = 1000", "slow_s = 0"))
    gateway.process.send_signal(signal.SIGHUP)
    sent: set[str] = set()

    def kept() -> bool:
        sent.add(gateway.chat("small", script("ok", n=1))[1]["x-request-id"])
        return any(attributes(one).get(names.REQUEST_ID) in sent for one in list(collector.spans))

    until(kept)
    gateway.write(before)
    gateway.process.send_signal(signal.SIGHUP)


def test_a_client_that_left(house: House) -> None:
    gateway, upstreams, collector = house
    tag = unique()
    with gateway.connect() as bare:
        bare.sendall(chat_request("large", script("hang", tag=tag)))
        until(lambda: upstreams.states(tag) == ["running"])
    (seen,) = upstreams.seen(tag)["requests"]
    spans = collector.trace(seen["headers"]["x-request-id"])
    told = attributes(spans["request"][0])
    assert (told[names.STATUS_CODE], told[names.ERROR_TYPE]) == (499, "client_left")
    assert attributes(spans["attempt"][0])[names.OUTCOME] == "given_up"
    assert "settle" not in spans
    nested(spans)


def test_what_never_reached_a_model(house: House) -> None:
    gateway, _, collector = house
    unknown = collector.trace(gateway.chat("absent", "x")[1]["x-request-id"])
    assert set(unknown) == {"request", "authenticate"}
    assert attributes(unknown["request"][0])[names.STATUS_CODE] == 404
    stranger = gateway.chat("small", "x", headers={"authorization": "Bearer sk-wrong"})[1]["x-request-id"]
    spans = collector.trace(stranger)
    assert set(spans) == {"request"}
    assert names.ORG not in attributes(spans["request"][0])


def test_neither_content_nor_secrets_are_in_a_span(house: House) -> None:
    gateway, _, collector = house
    planted = f"planted-{unique()}"
    replies = [
        gateway.chat("small", f"{planted} {script('ok')}"),
        gateway.chat("small", f"{planted} {script('400')}"),
        gateway.chat("large", f"{planted} {script('error:1')}", stream=True),
    ]
    for _, headers, _ in replies:
        collector.trace(headers["x-request-id"])
    for one in collector.spans:
        written = one.SerializeToString()
        assert planted.encode() not in written
        assert KEY.encode() not in written
        assert b"engine died" not in written, "the text of an upstream's error may hold content"


@pytest.mark.parametrize("stream", [False, True])
def test_content_is_in_the_traces_of_a_tenant_that_wants_it_and_of_nobody_else(
    house: House, stream: bool
) -> None:
    gateway, _, collector = house
    secrets = ("jane.doe@example.com", "4111 1111 1111 1111", "sk-planted-abcdefgh1234", "ACME-4711")
    prompt = f"{script('ok', tag=unique(), n=4)} my {' and '.join(secrets)} are secret"
    as_noted = {"authorization": f"Bearer {LIMITED}"}
    for cache in ("miss", "hit-exact"):
        headers = gateway.chat("small", prompt, stream=stream, headers=as_noted)[1]
        request = collector.trace(headers["x-request-id"])["request"][0]
        told = attributes(request)
        assert told[names.CACHE] == cache
        (asked,) = json.loads(told[names.INPUT_MESSAGES])
        (said,) = json.loads(told[names.OUTPUT_MESSAGES])
        assert asked["role"] == "user"
        assert "my [email] and [card] and [key] and [redacted] are secret" in asked["parts"][0]["content"]
        assert said["parts"] == [{"type": "text", "content": text(4)}]
        assert said["finish_reason"] == "stop"
    other = gateway.chat("small", prompt, stream=stream)[1]["x-request-id"]
    assert names.INPUT_MESSAGES not in attributes(collector.trace(other)["request"][0])
    everything = b"".join([one.SerializeToString() for one in collector.spans])
    shown = everything.decode(errors="replace") + gateway.logged()
    shown += gateway.call("GET", "/metrics")[2].decode()
    assert not [secret for secret in (*secrets, LIMITED) if secret in shown]


class Receiver(http.server.ThreadingHTTPServer):
    """A receiver that answers as it was told, or never."""

    def __init__(self, status: int | None) -> None:
        self.status, self.asked, self.release = status, threading.Semaphore(0), threading.Event()
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.release()
        if self.server.status is None:
            self.server.release.wait(60)
            return
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
        return


@pytest.mark.parametrize("status", [500, 503, None], ids=["500", "503", "silent"])
def test_a_bad_receiver_costs_traces_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, status: int | None
) -> None:
    directory, upstreams = tmp_path_factory.mktemp("receiver"), Upstreams(3)
    with Receiver(status) as receiver:
        serving = threading.Thread(target=receiver.serve_forever)
        serving.start()
        gateway = Gateway(
            directory,
            settings(directory, upstreams),
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.server_address[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT="2",
        )
        try:
            with running(gateway, upstreams):
                until(gateway.ready)
                for n in range(1, 4):
                    assert gateway.chat("small", script("ok", n=n))[0] == 200
                assert receiver.asked.acquire(timeout=30)
                assert gateway.chat("small", script("ok", n=9))[0] == 200, "while the receiver is at fault"
                until(lambda: gateway.metric("switchgear_traces_total", outcome="failed") >= 3)
                assert gateway.metric("switchgear_traces_total", outcome="exported") == 0
        finally:
            receiver.release.set()
            receiver.shutdown()
            serving.join()


def test_what_the_semantic_cache_decided(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory, upstreams = tmp_path_factory.mktemp("likeness"), Upstreams(3)
    with collecting() as collector:
        written = settings(directory, upstreams).replace(
            "exact_ttl_s = 3600", "exact_ttl_s = 3600\nsemantic = { error_bound = 0.01 }"
        )
        gateway = Gateway(
            directory, written, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, SWITCHGEAR_ADMIN_KEY=ADMIN
        )
        with running(gateway, upstreams):
            until(gateway.ready)
            headers = gateway.chat("small", "How do I clean the kettle?")[1]
            spans = collector.trace(headers["x-request-id"])
            assert {"cache", "embed", "likeness"} <= set(spans)
            nested(spans)
            told = attributes(spans["request"][0])
            assert told[names.CACHE_VERDICT] == "nothing_near"
            assert told[names.CACHE_SIMILARITY] == 0.0
            as_admin = {"authorization": f"Bearer {ADMIN}"}
            path = f"/admin/v1/requests/{headers['x-request-id']}"
            decision = json.loads(gateway.call("GET", path, headers=as_admin)[2])["decision"]
            assert (decision["similarity"], decision["verdict"]) == (0.0, "nothing_near")
            assert (decision["cache"], decision["replicas"], decision["outcomes"]) == (
                "miss", [headers["x-switchgear-replica"]], ["ok"]
            )  # fmt: skip


def test_without_a_receiver_named_the_headers_pass_through(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory, upstreams = tmp_path_factory.mktemp("untraced"), Upstreams(3)
    with running(Gateway(directory, settings(directory, upstreams)), upstreams) as (gateway, _):
        until(gateway.ready)
        tag = unique()
        sent = {"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01", "tracestate": "vendor=1"}
        gateway.chat("small", script("ok", tag=tag), headers=sent)
        (seen,) = upstreams.seen(tag)["requests"]
        assert {name: seen["headers"][name] for name in sent} == sent
        assert b"switchgear_traces_total{" not in gateway.call("GET", "/metrics")[2]
