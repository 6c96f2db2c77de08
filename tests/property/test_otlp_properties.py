"""What is written as bytes is what OTLP's own messages read and write."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from gateway import otlp
from tests.integration.collector import attributes

IDS = st.integers(1, 2**64 - 2)
TIMES = st.integers(0, 2**63)
VALUES = st.one_of(
    st.text(min_size=1, max_size=300),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(st.text(max_size=20), min_size=1),
)


def read(data: bytes) -> Span:
    """Read one span by the official messages."""
    (span,) = ScopeSpans.FromString(data).spans
    assert isinstance(span, Span)
    return span


@given(st.dictionaries(st.text(min_size=1), VALUES))
def test_attributes(values: dict[str, otlp.Value]) -> None:
    span = Span.FromString(otlp.attributes(values.items()))
    assert attributes(span) == values
    assert {name: type(value) for name, value in attributes(span).items()} == {
        name: type(value) for name, value in values.items()
    }


@given(
    st.text(min_size=1, max_size=90), st.text(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
def test_the_fast_forms_are_the_plain_ones(name: str, text: str, number: int, ratio: float) -> None:
    key = otlp.Key(name)
    assert key.integer(number) == otlp.attributes([(name, number)])
    assert key.double(ratio) == otlp.attributes([(name, ratio)])
    assert attributes(Span.FromString(key.text(text))) == {name: text}


@given(st.integers(1, 2**128 - 1), IDS, IDS, TIMES, TIMES, st.text(min_size=1, max_size=200))
def test_spans(trace_id: int, own: int, parent: int, start: int, end: int, name: str) -> None:
    lead, below = otlp.lead(trace_id), otlp.below(parent)
    rest = otlp.head(name, otlp.SERVER) + otlp.error("why")
    whole, step = (
        read(otlp.span(lead, own, below, start, end, rest)),
        read(otlp.step(name)(lead, own, below, start, end)),
    )
    for span in (whole, step):
        assert span.trace_id == trace_id.to_bytes(16, "big")
        assert span.parent_span_id == parent.to_bytes(8, "big")
        assert (span.name, span.start_time_unix_nano, span.end_time_unix_nano) == (name, start, end)
        assert len(span.span_id) == 8
    assert whole.span_id == own.to_bytes(8, "big")
    assert (whole.kind, step.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL)
    assert (whole.status.code, whole.status.message) == (2, "why")


@given(st.dictionaries(st.text(min_size=1), VALUES), st.text(min_size=1), st.integers(0, 40))
def test_a_request_of_many_spans(resource: dict[str, otlp.Value], scope: str, count: int) -> None:
    lead, step = otlp.lead(7), otlp.step("step")
    spans = b"".join(step(lead, number, otlp.below(9), 1, 2) for number in range(1, count + 1))
    (told,) = ExportTraceServiceRequest.FromString(
        otlp.request(resource, (scope, "1"), [spans])
    ).resource_spans
    assert {one.key for one in told.resource.attributes} == set(resource)
    (scoped,) = told.scope_spans
    assert (scoped.scope.name, scoped.scope.version, len(scoped.spans)) == (scope, "1", count)
    assert len({span.span_id for span in scoped.spans}) == count
