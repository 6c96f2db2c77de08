"""The spans of one finished request, encoded: pure, run off the event loop.

One span for the request, which alone bears its bill (a backend that sums costs must find them once), and
below it one for each step of the gateway, each wait in the queue, each attempt, and an attempt's time to the
first token and stream. What few requests share is encoded anew, the rest is remembered.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from gateway import otlp
from gateway import semconv as names
from gateway.kinds import Kind, kind_of
from gateway.otlp import CLIENT, SERVER, Key
from gateway.passage import Passage
from gateway.tenancy.pricing import NANO
from gateway.trip import Try

STEPS = (
    "authenticate",
    "admit",
    "cache",
    "embed",
    "likeness",
    "classify",
    "queue",
    "first token",
    "stream",
    "settle",
)
_WRITES = {name: otlp.step(name) for name in STEPS}

_REQUEST_ID, _CACHE_ENTRY = Key(names.REQUEST_ID), Key(names.CACHE_ENTRY)
_SCORE, _THRESHOLD = Key(names.SCORE), Key(names.THRESHOLD)
_FIRST_CHUNK = Key(names.TIME_TO_FIRST_CHUNK)
_SIMILARITY, _VERDICT = Key(names.CACHE_SIMILARITY), Key(names.CACHE_VERDICT)
_INPUT, _CACHED, _OUTPUT = Key(names.INPUT_TOKENS), Key(names.CACHED_TOKENS), Key(names.OUTPUT_TOKENS)
_AMOUNT, _COST = Key(names.AMOUNT), Key(names.COST_USD)


def spans(passage: Passage, offset_s: float) -> list[bytes]:
    """Encode the spans of one request; ``offset_s`` turns its times into seconds since the epoch."""
    trace = passage.trace
    assert trace is not None
    offset_ns = int(offset_s * 1e9)
    lead, below = otlp.lead(trace.trace_id), otlp.below(trace.span_id)
    parent = otlp.below(trace.parent_id) if trace.parent_id else otlp.NO_PARENT
    start_ns, end_ns = int(passage.started_s * 1e9) + offset_ns, int(passage.ended_s * 1e9) + offset_ns
    request = otlp.span(lead, trace.span_id, parent, start_ns, end_ns, _request(passage))
    made: list[bytes] = []
    child = trace.span_id  # attempts are numbered upwards from here, see Trace.headers; all else downwards
    for name, end_s in passage.steps:
        child -= 1
        step_ns = int(end_s * 1e9) + offset_ns
        made.append(_WRITES[name](lead, child, below, start_ns, step_ns))
        start_ns = step_ns
    for number, one in enumerate(passage.trip.tries if passage.trip is not None else (), 1):
        child -= 3
        if not one.sent_s:
            asked_ns = int(one.asked_s * 1e9) + offset_ns
            made.append(_WRITES["queue"](lead, child, below, asked_ns, end_ns))
            continue
        made += _tried(one, number, (lead, trace.span_id, below), child, offset_ns)
    if passage.answered_s:
        start_ns = int(passage.answered_s * 1e9) + offset_ns
        made.append(_WRITES["settle"](lead, child - 1, below, start_ns, end_ns))
    made.append(request)  # last, so that whoever has it has the whole trace
    return made


def _tried(
    one: Try, number: int, family: tuple[bytes, int, bytes], child: int, offset_ns: int
) -> list[bytes]:
    """Encode the wait for a replica and the attempt on it; ``child`` and the next two ids are free."""
    lead, root, below = family
    asked_ns, end_ns = int(one.asked_s * 1e9) + offset_ns, int(one.ended_s * 1e9) + offset_ns
    sent_ns, own = int(one.sent_s * 1e9) + offset_ns, root + number
    made = [
        _WRITES["queue"](lead, child, below, asked_ns, sent_ns),
        otlp.span(lead, own, below, sent_ns, end_ns, _attempt(one, number)),
    ]
    if one.first_byte_s:
        first_ns, inner = int(one.first_byte_s * 1e9) + offset_ns, otlp.below(own)
        made.append(_WRITES["first token"](lead, child + 1, inner, sent_ns, first_ns))
        made.append(_WRITES["stream"](lead, child + 2, inner, first_ns, end_ns))
    return made


def _request(passage: Passage) -> bytes:
    """Encode all of a request's span that comes after its times."""
    choice, hit, charge = passage.choice, passage.hit, passage.charge
    kind = passage.kind or kind_of(passage)
    if not kind.span:
        kind.span = _decided(kind)
    pieces = [kind.span, _REQUEST_ID.text(passage.request_id)]
    if choice is not None and choice.score is not None:
        pieces.append(_SCORE.double(choice.score))
        pieces.append(_THRESHOLD.double(choice.threshold or 0.0))
    if passage.first_byte_s and passage.streamed:
        pieces.append(_FIRST_CHUNK.double(passage.first_byte_s - passage.started_s))
    if hit is not None:
        pieces.append(_CACHE_ENTRY.text(hit.id))
    if (found := passage.found_near) is not None:
        pieces += (_SIMILARITY.double(found.similarity), _VERDICT.text(found.verdict.told))
    if charge is not None:
        usage = charge.usage
        pieces.append(
            _bill(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, charge.booked_nanousd)
        )
    if passage.content is not None:
        pieces.append(otlp.attributes(passage.content.attributes()))
    if passage.trace is not None and passage.trace.state:
        pieces.append(otlp.sized(b"\x1a", passage.trace.state))
    return b"".join(pieces)


@lru_cache(1024)  # a kept answer costs the same each time
def _bill(prompt_tokens: int, cached_tokens: int, completion_tokens: int, amount_nanousd: int) -> bytes:
    """Encode what a request used and costs."""
    return b"".join(
        (
            _INPUT.integer(prompt_tokens),
            _CACHED.integer(cached_tokens),
            _OUTPUT.integer(completion_tokens),
            _AMOUNT.integer(amount_nanousd),
            _COST.double(amount_nanousd / NANO),
        )
    )


def _decided(kind: Kind) -> bytes:
    """Encode what all requests of a kind say."""
    attributes = (
        (names.OPERATION, kind.operation),
        (names.PROVIDER, kind.provider),
        (names.REQUEST_MODEL, kind.name),
        (names.RESPONSE_MODEL, kind.model if kind.answered else None),
        (names.REQUEST_STREAM, kind.streamed),
        (names.REQUEST_MAX_TOKENS, kind.max_tokens),
        (names.REQUEST_TEMPERATURE, kind.temperature),
        (names.FINISH_REASONS, kind.finish_reasons),
        (names.ORG, kind.org),
        (names.PROJECT, kind.project),
        (names.KEY_ID, kind.key_id),
        (names.ROUTE, kind.route),
        (names.REASON, kind.reason),
        (names.CANDIDATES, kind.candidates),
        (names.CACHE, kind.cache),
        (names.PRICE_VERSION, kind.price_version),
        (names.SOURCE, kind.source),
        (names.ESTIMATED, kind.estimated),
        (names.ATTEMPTS, len(kind.tried)),
        (names.REPLICA, kind.tried[-1] if kind.tried else None),
        (names.STATUS_CODE, kind.status),
        (names.ERROR_TYPE, kind.error),
    )
    encoded = otlp.head(f"{kind.operation} {kind.name}", SERVER) + otlp.attributes(attributes)
    return encoded + otlp.error(kind.error) if kind.status >= 500 else encoded


def _attempt(one: Try, number: int) -> bytes:
    # An attempt that neither succeeded nor failed was given up: its client left, or the gateway ends.
    return _attempt_at(one.replica, one.url, number, one.outcome or "given_up")


@lru_cache(1024)
def _attempt_at(replica: str, url: str, number: int, outcome: str) -> bytes:
    address = urlsplit(url)
    failed = outcome not in ("ok", "refused")
    encoded = otlp.head("attempt", CLIENT) + otlp.attributes(
        [
            (names.REPLICA, replica),
            (names.SERVER_ADDRESS, address.hostname),
            (names.SERVER_PORT, address.port),
            (names.ATTEMPT, number),
            (names.OUTCOME, outcome),
            (names.ERROR_TYPE, outcome if failed else None),
        ]
    )
    return encoded + otlp.error(outcome) if failed else encoded
