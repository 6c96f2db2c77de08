"""The buffer between requests and exporter, with an exporter that hangs, refuses or raises."""

import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.exporting import period_s
from gateway.passage import Passage
from gateway.settings import TracingSettings
from gateway.telemetry import Telemetry
from gateway.tracecontext import Sampler
from gateway.tracing import BUFFER_REQUESTS, METRIC, Tracing, tracing_from
from tests.fakes.processes import until


class Scripted:
    """An exporter that does what it is told, as soon as it is let."""

    def __init__(self, *answers: bool | Exception, held: bool = False) -> None:
        self.answers = list(answers)
        self.sent: list[int] = []
        self.let = threading.Event()
        if not held:
            self.let.set()

    def send(self, data: bytes) -> bool:
        self.let.wait(60)
        (one,) = ExportTraceServiceRequest.FromString(data).resource_spans
        self.sent.append(len(one.scope_spans[0].spans))
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def shutdown(self) -> None:
        self.let.set()


def made(exporter: Scripted, sampler: Sampler | None = None) -> tuple[Tracing, Telemetry]:
    telemetry = Telemetry()
    clocks = (lambda: 100.0, lambda: 1e9)
    return Tracing(exporter, {"service.name": "t"}, sampler or Sampler(), telemetry, clocks), telemetry


def offer(tracing: Tracing, **facts: float) -> None:
    passage = Passage("req_1", "chat", 100.0, trace=tracing.begin({}), ended_s=101.0)
    for name, value in facts.items():
        setattr(passage, name, value)
    tracing.offer([passage])


def counted(telemetry: Telemetry) -> dict[str, float]:
    samples = [one for family in telemetry.collect() for one in family.samples if one.name == METRIC]
    return {one.labels["outcome"]: one.value for one in samples}


def test_a_receiver_that_hangs_fills_the_buffer_and_no_more() -> None:
    exporter = Scripted(held=True)
    tracing, telemetry = made(exporter)
    for _ in range(BUFFER_REQUESTS + 10):
        offer(tracing)
    assert counted(telemetry) == {"exported": 0, "failed": 0, "dropped": 10}
    tracing.start()
    exporter.let.set()
    until(lambda: counted(telemetry)["exported"] == BUFFER_REQUESTS)
    assert sum(exporter.sent) == BUFFER_REQUESTS
    tracing.close()


def test_what_is_left_goes_at_the_end_and_failures_are_counted() -> None:
    exporter = Scripted(False, RuntimeError("no"), True)
    tracing, telemetry = made(exporter)
    tracing.start()
    for total in ("failed", "failed", "exported"):
        before = counted(telemetry)[total]
        offer(tracing)
        until(lambda total=total, before=before: counted(telemetry)[total] == before + 1)  # type: ignore[misc]
    offer(tracing)
    tracing.close()
    assert counted(telemetry) == {"exported": 2, "failed": 2, "dropped": 0}


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({}, False),
        ({"status": 429}, False),
        ({"status": 499}, False),
        ({"status": 500}, True),
        ({"ended_s": 104.0}, True),
        ({"ended_s": 104.0, "first_byte_s": 101.0}, False),
        ({"first_byte_s": 103.0, "ended_s": 103.5}, True),
    ],
)
def test_what_is_kept_although_it_was_not_sampled(facts: dict[str, float], kept: bool) -> None:
    exporter = Scripted()
    tracing, telemetry = made(exporter, Sampler(bound=0))
    tracing.adopt(TracingSettings(slow_s=3.0))
    offer(tracing, **facts)
    tracing.start()
    tracing.close()
    assert counted(telemetry)["exported"] == kept


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_the_standard_variables_switch_it_on(environ: dict[str, str], on: bool) -> None:
    assert (tracing_from(environ, Telemetry(), (lambda: 0.0, lambda: 0.0)) is not None) == on


@pytest.mark.parametrize(
    ("text", "delay_s"), [("", 5.0), ("250", 0.25), ("soon", 5.0), ("-1", 5.0), ("nan", 5.0), ("1e99", 5.0)]
)
def test_how_long_finished_requests_wait(text: str, delay_s: float) -> None:
    assert period_s({"OTEL_BSP_SCHEDULE_DELAY": text}, "OTEL_BSP_SCHEDULE_DELAY", 5000) == delay_s
