"""Trace context and head sampling agree with OpenTelemetry's own, which serve as the oracle."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.tracecontext import Sampler, Trace, passed_on, sampler_from

HEX = "0123456789abcdef"


def hexes(length: int) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(HEX, min_size=length, max_size=length), st.just("0" * length), st.just("f" * length)
    )


HEADERS = st.one_of(
    st.builds(
        "{}-{}-{}-{}{}".format,
        hexes(2),
        hexes(32),
        hexes(16),
        hexes(2),
        st.sampled_from(["", "-", "-x", "x"]),
    ),
    st.builds(
        "00-{}-{}-{}".format, hexes(32), hexes(16), st.sampled_from(["00", "01", "03", "ff", "0G", "1"])
    ),
    st.text("0123456789abcdefABCDEF-", max_size=60),
)


@given(HEADERS)
def test_a_clients_header_is_taken_as_the_sdk_takes_it(header: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": header})
    parent = trace.get_current_span(context).get_span_context()
    found = Sampler().begin({b"traceparent": header.encode()}, random.getrandbits)
    if parent.is_valid:
        assert (found.trace_id, found.parent_id) == (parent.trace_id, parent.span_id)
        assert found.sampled == parent.trace_flags.sampled
    else:
        assert found.parent_id == 0
        assert found.sampled, "a trace that begins here"


@given(st.integers(1, 2**128 - 1), st.integers(0, 2**62 - 1), st.booleans(), st.integers(0, 100))
def test_the_upstream_reads_what_was_meant(trace_id: int, bits: int, sampled: bool, child: int) -> None:
    own = Trace(trace_id, (1 << 62) + bits, 0, sampled, b"a=1")
    headers = {name.decode(): value.decode() for name, value in own.headers(child)}
    seen = trace.get_current_span(TraceContextTextMapPropagator().extract(headers)).get_span_context()
    assert seen.is_valid
    assert (seen.trace_id, seen.span_id, seen.trace_flags.sampled) == (trace_id, own.span_id + child, sampled)
    assert seen.trace_state["a"] == "1"


@given(st.integers(1, 2**128 - 1), st.sampled_from([0.0, 0.001, 0.25, 0.5, 0.9, 1.0]))
def test_the_ratio_samples_the_traces_that_the_sdk_would(trace_id: int, share: float) -> None:
    theirs = (
        TraceIdRatioBased(share).should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE
    )
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(share)}
    drawn = iter([1, trace_id])
    assert sampler_from(environ).begin({}, lambda _: next(drawn)).sampled == theirs


SAMPLED, UNSAMPLED = (f"00-{'a' * 32}-{'b' * 16}-0{flag}".encode() for flag in (1, 0))


@pytest.mark.parametrize(
    ("name", "share", "expected"),
    [
        ("", "", (True, True, False)),
        ("always_on", "", (True, True, True)),
        ("always_off", "", (False, False, False)),
        ("parentbased_always_on", "", (True, True, False)),
        ("parentbased_always_off", "", (False, True, False)),
        ("parentbased_traceidratio", "0", (False, True, False)),
        ("parentbased_traceidratio", "1", (True, True, False)),
        ("traceidratio", "0", (False, False, False)),
        ("traceidratio", "", (True, True, True)),
        ("traceidratio", "2", (True, True, True)),
        ("traceidratio", "many", (True, True, True)),
        ("jaeger_remote", "", (True, True, False)),
    ],
)
def test_the_samplers_by_their_names(name: str, share: str, expected: tuple[bool, bool, bool]) -> None:
    sampler = sampler_from({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": share})
    cases: list[dict[bytes, bytes]] = [{}, {b"traceparent": SAMPLED}, {b"traceparent": UNSAMPLED}]
    assert tuple(sampler.begin(one, random.getrandbits).sampled for one in cases) == expected


def test_state_goes_with_a_good_parent_only() -> None:
    state = {b"tracestate": b"v=1"}
    assert Sampler().begin({b"traceparent": SAMPLED, **state}, random.getrandbits).state == b"v=1"
    assert Sampler().begin({b"traceparent": b"junk", **state}, random.getrandbits).state == b""
    assert Sampler().begin(state, random.getrandbits).headers(1)[1:] == []
    assert passed_on({b"host": b"x", **state}) == [(b"tracestate", b"v=1")]
