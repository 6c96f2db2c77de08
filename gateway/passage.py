"""What is known of one request on its way: for its response headers, its metrics and its trace.

It may wait in a buffer after the request, so it holds no bytes of a body but of tenants that want those seen.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from gateway.catalogue import Target
from gateway.choosing import Choice, Reading
from gateway.content import Content
from gateway.errors import CODES, SHUT_DOWN, ShuttingDown, translate
from gateway.kinds import MOST_KINDS, Kind, kind_of
from gateway.metrics import FIRST_TOKEN_SECONDS, REQUEST_SECONDS, SECONDS, TOKEN_SECONDS, TOKENS
from gateway.openai.schemas import Common, Inference
from gateway.telemetry import Telemetry
from gateway.tenancy.charge import Charge
from gateway.tenancy.keys import Key
from gateway.tracecontext import Trace
from gateway.trip import Trip
from semantic_cache.cache import Found
from semantic_cache.stores.base import Entry


class Hit(msgspec.Struct, frozen=True):
    """The kept answer that was served: its id, the model that gave it, when it was kept."""

    id: str
    model: str
    stored_s: float


class Passage(msgspec.Struct, eq=False):
    """One request; times on the monotonic clock, 0 where the moment has not come.

    ``steps`` are the names and ends of what the gateway did itself, in order.
    """

    request_id: str
    operation: str
    started_s: float
    trace: Trace | None = None
    steps: list[tuple[str, float]] = []
    key: Key | None = None
    target: Target | None = None
    name: str = "unknown"
    """The model or route that was asked for."""
    route: str = ""
    """The route, empty where a model was named."""
    streamed: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    reading: Reading | None = None
    choice: Choice | None = None
    trip: Trip | None = None
    cache: str = "none"
    cache_key: bytes | None = None
    tags: tuple[str, ...] = ()
    found_near: Found | None = None
    to_check: Found | None = None
    """What is known of an exact repeat whose kept answer is served, and asked for again beside."""
    stand_in: Entry | None = None
    """The kept answer of an exact repeat that is asked anew, for where no model answers."""
    hit: Hit | None = None
    charge: Charge | None = None
    finish_reasons: Sequence[str] = ()
    status: int = 200
    error: str = ""
    first_byte_s: float = 0.0
    answered_s: float = 0.0
    ended_s: float = 0.0
    content: Content | None = None
    kind: Kind | None = None
    """Once it has ended."""

    def begin(self, key: Key, target: Target, request: Inference) -> None:
        """Note who asks for what, once that is known to be valid."""
        self.key = key
        self.target, self.name, self.route = target, target.name, target.route
        self.streamed = request.stream
        typed = request.typed
        if isinstance(typed, Common):
            self.max_tokens = typed.max_tokens
            self.temperature = typed.temperature

    def found(self, entry: Entry) -> None:
        """Note the kept answer that is served."""
        self.hit = Hit(entry.id, entry.model, entry.stored_s)

    def failed(self, error: BaseException) -> None:
        """Note how it ended: 499 stands for a client that left."""
        if SHUT_DOWN in error.args:
            self.status, self.error = ShuttingDown.status, ShuttingDown.code
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.status, self.error = 499, "client_left"
            return
        known = translate(error)
        self.status, self.error = known.status, known.code or known.type

    @property
    def model(self) -> str:
        """The model that answers, or the name that was asked for while none is chosen."""
        if self.hit is not None:
            return self.hit.model
        return self.choice.model.name if self.choice is not None else self.name

    def of(self) -> tuple[Key, Target, Charge]:
        """Give who asks for what, and the bill, of a request that was admitted."""
        assert self.key is not None
        assert self.target is not None
        assert self.charge is not None
        return self.key, self.target, self.charge

    def first_line(self, kind: bytes) -> bytes:
        """Give the lines of every head: what kind of body, whose request."""
        return b"%bx-request-id: %b\r\n" % (kind, self.request_id.encode())

    def lines(self, now_s: float, wall_s: float) -> bytes:
        """Give the ``x-switchgear-*`` lines of the head that are known by now."""
        total_ms = (now_s - self.started_s) * 1000
        choice, trip, hit = self.choice, self.trip, self.hit
        more, away_ms = b"", 0.0
        if self.route:
            more = b"x-switchgear-route: %b\r\n" % self.route.encode()
            if choice is not None:
                if choice.score is not None:
                    more += b"x-switchgear-score: %.4f\r\nx-switchgear-threshold: %.4f\r\n" % (
                        choice.score,
                        choice.threshold or 0.0,
                    )
                more += b"x-switchgear-reason: %b\r\n" % choice.reason.encode()
        if hit is not None:
            age_s = max(0.0, wall_s - hit.stored_s)
            if self.cache == "hit-semantic" and self.found_near is not None:
                more += b"x-switchgear-cache-similarity: %.4f\r\n" % self.found_near.similarity
            more += b"x-switchgear-cache-entry: %b\r\nx-switchgear-cache-age-s: %.0f\r\n" % (
                hit.id.encode(),
                age_s,
            )
        if trip is not None and trip.tried:
            away_ms = (trip.queue_s + trip.upstream_s) * 1000
            more += (
                b"x-switchgear-replica: %b\r\nx-switchgear-attempts: %d\r\nx-switchgear-queue-ms: %.1f\r\n"
                % (trip.tried[-1].encode(), len(trip.tried), trip.queue_s * 1000)
            )
        return (
            b"openai-processing-ms: %.0f\r\nx-switchgear-model: %b\r\nx-switchgear-cache: %b\r\n"
            b"%bx-switchgear-overhead-ms: %.2f\r\n"
            % (total_ms, self.model.encode(), self.cache.encode(), more, max(0.0, total_ms - away_ms))
        )

    def observe(self, telemetry: Telemetry) -> None:
        """Count the request: one look-up for all that requests of its kind count."""
        choice, charge, trip = self.choice, self.charge, self.trip
        kind = self.kind = kind_of(self)
        row = telemetry.rows.get(kind)
        if row is None:
            if len(telemetry.rows) >= MOST_KINDS:  # of kinds that nobody remembers
                telemetry.rows.clear()
            row = telemetry.rows[kind] = _row(telemetry, kind)
        values, note = telemetry.values, telemetry.note
        values[row[0]] += 1.0
        note(row[1], REQUEST_SECONDS, self.ended_s - self.started_s)
        if kind.error:
            values[row[2]] += 1.0
        if kind.reason:
            values[row[3]] += 1.0
        if charge is not None:
            usage = charge.usage
            note(row[4], TOKENS, usage.prompt_tokens)
            note(row[5], TOKENS, usage.completion_tokens)
            values[row[6]] += usage.prompt_tokens
            values[row[7]] += usage.completion_tokens
            if charge.source != "upstream":
                values[row[11]] += charge.saved_nanousd
            if self.streamed and self.first_byte_s:
                note(row[8], FIRST_TOKEN_SECONDS, self.first_byte_s - self.started_s)
                if self.answered_s and usage.completion_tokens > 1:
                    spent_s = self.answered_s - self.first_byte_s
                    note(row[9], TOKEN_SECONDS, spent_s / (usage.completion_tokens - 1))
        if trip is not None:
            note(row[10], SECONDS, trip.queue_s)
        if choice is not None and choice.score is not None:
            telemetry.observe("switchgear_routing_score", (self.route,), choice.score)


def _row(telemetry: Telemetry, kind: Kind) -> tuple[int, ...]:
    """Give where the numbers stand that a kind of request counts; those that it never counts share one."""
    model, route, reason, status = kind.model, kind.route, kind.reason, str(kind.status)
    error = (kind.error if kind.error in CODES else "upstream") if kind.error else ""
    asked, at = (kind.operation, kind.provider, kind.name, model), telemetry.at
    requests = at("switchgear_requests_total", (model, route, status, kind.cache))
    return (
        requests,
        at("gen_ai_server_request_duration_seconds", (*asked, status if error else "")),
        at("switchgear_refusals_total", (error,)) if error else requests,
        at("switchgear_route_decisions_total", (route, model, reason)) if reason else requests,
        at("gen_ai_client_token_usage", (*asked, "input")),
        at("gen_ai_client_token_usage", (*asked, "output")),
        at("switchgear_tokens_total", (model, "prompt")),
        at("switchgear_tokens_total", (model, "completion")),
        at("gen_ai_server_time_to_first_token_seconds", asked),
        at("gen_ai_server_time_per_output_token_seconds", asked),
        at("switchgear_queue_seconds", (model,)),
        at("switchgear_saved_nanousd_total", (model, kind.source))
        if kind.source not in ("", "upstream")
        else requests,
    )
