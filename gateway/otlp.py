"""OTLP's protobuf for traces, written as bytes.

The SDK's span objects and encoder take about 400 us of CPU for the spans of one request, protobuf's own
objects 120, joining bytes 20. Only what the gateway says is here: no links, no events, no limits. Source:
opentelemetry-proto 1.x, ``trace.proto``, ``common.proto``, ``collector/trace/v1``; field numbers never
change.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

Value = str | bool | int | float | Sequence[str] | None

INTERNAL, SERVER, CLIENT = 1, 2, 3  # Span.kind
NO_PARENT = b""

_times = struct.Struct("<BQBQ").pack  # fields 7 and 8, fixed64: start and end in Unix nanoseconds
_double = struct.Struct("<d").pack
_SMALL = [bytes([number]) for number in range(0x80)]
_SMALL += [bytes([number & 0x7F | 0x80, number >> 7]) for number in range(0x80, 0x4000)]


def varint(number: int) -> bytes:
    """Encode a number; a negative one as its 64-bit complement."""
    if 0 <= number < 0x4000:
        return _SMALL[number]
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def sized(tag: bytes, data: bytes) -> bytes:
    """Encode a field with a length; ``tag`` is its key byte."""
    return tag + varint(len(data)) + data


class Key:
    """The name of a span's attribute, ready to be written with a value."""

    def __init__(self, name: str) -> None:
        self._key = sized(b"\x0a", name.encode())
        self._for_double = sized(b"\x4a", self._key + b"\x12\x09\x21" + bytes(8))[:-8]
        self._for_integers = [b""] + [self._lead(b"\x18", size, b"") for size in range(1, 11)]
        self._for_texts = [self._lead(b"\x0a", size, varint(size)) for size in range(0x80)]

    def text(self, value: str) -> bytes:
        """Encode a text."""
        data = value.encode()
        size = len(data)
        lead = self._for_texts[size] if size < 0x80 else self._lead(b"\x0a", size, varint(size))
        return lead + data

    def integer(self, value: int) -> bytes:
        """Encode a whole number."""
        data = _SMALL[value] if 0 <= value < 0x4000 else varint(value)
        return self._for_integers[len(data)] + data

    def double(self, value: float) -> bytes:
        """Encode a number."""
        return self._for_double + _double(value)

    def _lead(self, tag: bytes, size: int, its_size: bytes) -> bytes:
        """Give all that stands before a value of so many bytes."""
        value = tag + its_size
        inner = self._key + b"\x12" + varint(len(value) + size) + value
        return b"\x4a" + varint(len(inner) + size) + inner


Write = Callable[[bytes, int, bytes, int, int], bytes]
"""Encodes a span of a ``lead`` by ``lead``, an id, a ``parent`` by ``below``, its start and end in ns."""


def step(name: str) -> Write:
    """Give what writes spans without attributes of this name, whose ids are told to nobody."""
    known = head(name, INTERNAL)
    packer = struct.Struct(f"<20sQ10s{len(known)}sBQBQ")
    size = b"\x12" + varint(packer.size)
    pack = struct.Struct(f"<{len(size)}s20sQ10s{len(known)}sBQBQ").pack

    def write(lead: bytes, span_id: int, parent: bytes, start_ns: int, end_ns: int) -> bytes:
        return pack(size, lead, span_id, parent, known, 0x39, start_ns, 0x41, end_ns)

    return write


def head(name: str, kind: int) -> bytes:
    """Encode a span's name and kind."""
    return sized(b"\x2a", name.encode()) + b"\x30" + varint(kind)


def lead(trace_id: int) -> bytes:
    """Encode a trace's id, and say that a span's id follows."""
    return b"\x0a\x10" + trace_id.to_bytes(16, "big") + b"\x12\x08"


def below(parent_id: int) -> bytes:
    """Encode the parent's id."""
    return b"\x22\x08" + parent_id.to_bytes(8, "big")


def span(lead: bytes, span_id: int, parent: bytes, start_ns: int, end_ns: int, rest: bytes) -> bytes:
    """Encode any span; ``rest`` is its head, attributes and all else."""
    times = _times(0x39, start_ns, 0x41, end_ns)
    size = len(lead) + 8 + len(parent) + 18 + len(rest)
    return b"".join((b"\x12", varint(size), lead, span_id.to_bytes(8, "big"), parent, times, rest))


def error(message: str) -> bytes:
    """Encode a span's status: an error."""
    return sized(b"\x7a", sized(b"\x12", message.encode()) + b"\x18\x02")


def attributes(pairs: Iterable[tuple[str, Value]], tag: bytes = b"\x4a") -> bytes:
    """Encode attributes of a span (or of a resource: tag ``0x0a``); None and what is empty is left out."""
    return b"".join(
        [
            sized(tag, sized(b"\x0a", name.encode()) + sized(b"\x12", _any_value(value)))
            for name, value in pairs
            if value not in (None, "", ())
        ]
    )


def request(resource: Mapping[str, Value], scope: tuple[str, str], spans: Sequence[bytes]) -> bytes:
    """Encode an ``ExportTraceServiceRequest`` with one resource and one scope (name, version).

    ``spans`` are copied once: they may be a megabyte.
    """
    origin = sized(b"\x0a", attributes(resource.items(), b"\x0a"))
    source = sized(b"\x0a", sized(b"\x0a", scope[0].encode()) + sized(b"\x12", scope[1].encode()))
    size = sum(map(len, spans))
    before = b"".join((origin, b"\x12", varint(len(source) + size), source))
    return b"".join((b"\x0a", varint(len(before) + size), before, *spans))


def _any_value(value: Value) -> bytes:
    if isinstance(value, str):
        return sized(b"\x0a", value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return sized(b"\x2a", b"".join([sized(b"\x0a", _any_value(one)) for one in value or ()]))
