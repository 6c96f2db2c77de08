"""W3C trace context of one request, and head sampling: what must be known before the upstream is called.

Ids are numbers here. The spans below a request's are numbered after its own, so that the header of an attempt
can name a span that is made only later (``gateway.tracing``). Source: W3C Trace Context, OpenTelemetry's
"General SDK configuration" for the sampler's variables.
"""

import logging
import re
from collections.abc import Callable, Mapping

import msgspec

log = logging.getLogger("switchgear.tracing")

_HEADER = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ALL = 1 << 64


class Trace(msgspec.Struct, frozen=True):
    """The trace of a request; no ``parent_id``: it began here. ``state`` is the ``tracestate`` as it came."""

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool
    state: bytes = b""

    def headers(self, child: int) -> list[tuple[bytes, bytes]]:
        """Give the headers by which the upstream's span becomes a child of the span numbered ``child``."""
        flags = 1 if self.sampled else 0
        found = [(b"traceparent", b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id + child, flags))]
        if self.state:
            found.append((b"tracestate", self.state))
        return found


class Sampler(msgspec.Struct, frozen=True):
    """Head sampling: traces whose id's low half is below ``bound``, unless the parent decides."""

    bound: int = _ALL
    follows_parent: bool = True

    def begin(self, headers: Mapping[bytes, bytes], bits: Callable[[int], int]) -> Trace:
        """Join the client's trace, or begin one; ``bits`` gives so many random bits."""
        span_id = (1 << 62) + bits(62)  # leaves room for the children's numbers on both sides
        traceparent = headers.get(b"traceparent")
        found = _HEADER.fullmatch(traceparent) if traceparent is not None else None
        if found is not None and found[1] != b"ff" and not (found[1] == b"00" and found[5]):
            trace_id, parent_id = int(found[2], 16), int(found[3], 16)
            if trace_id and parent_id:
                sampled = bool(int(found[4], 16) & 1) if self.follows_parent else self._wants(trace_id)
                return Trace(trace_id, span_id, parent_id, sampled, headers.get(b"tracestate", b""))
        trace_id = bits(128) or 1
        return Trace(trace_id, span_id, 0, self._wants(trace_id))

    def _wants(self, trace_id: int) -> bool:
        return self.bound == _ALL or trace_id % _ALL < self.bound


def passed_on(headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Give the client's trace headers as they came, for a gateway that does not trace."""
    return [(name, headers[name]) for name in (b"traceparent", b"tracestate") if name in headers]


def sampler_from(environ: Mapping[str, str]) -> Sampler:
    """Read ``OTEL_TRACES_SAMPLER`` and its argument; what cannot be read is logged and taken as unset."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    shares = {"always_on": 1.0, "always_off": 0.0, "traceidratio": 1.0}
    if kind not in shares:
        log.warning("OTEL_TRACES_SAMPLER=%s is not known here; parentbased_always_on is used", name)
        return Sampler()
    share = shares[kind]
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if kind == "traceidratio" and text:
        try:
            share = float(text)
            if not 0 <= share <= 1:
                raise ValueError
        except ValueError:
            log.warning("OTEL_TRACES_SAMPLER_ARG=%s is not a share from 0 to 1; 1 is used", text)
            share = 1.0
    return Sampler(int(share * _ALL), follows_parent=name != kind)
