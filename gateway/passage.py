"""What is known of one request on its way: for its response headers, its metrics and its log line."""

import asyncio

import msgspec

from gateway.attempts import Call
from gateway.choosing import Choice
from gateway.errors import translate
from gateway.telemetry import Telemetry
from gateway.tenancy.billing import Charge
from semantic_cache.stores.base import Entry


class Passage(msgspec.Struct, eq=False):
    """One request; times on the monotonic clock, 0 where the moment has not come."""

    request_id: str
    operation: str
    started_s: float
    key_id: str = ""
    name: str = "unknown"
    route: str = ""
    choice: Choice | None = None
    call: Call | None = None
    cache: str = "none"
    cache_key: bytes | None = None
    entry: Entry | None = None
    charge: Charge | None = None
    status: int = 200
    first_byte_s: float = 0.0
    ended_s: float = 0.0

    def begin(self, key_id: str, name: str, route: str) -> None:
        """Note who asks for what, once that is known to be valid."""
        self.key_id = key_id
        self.name = name
        self.route = route

    def failed(self, error: BaseException) -> None:
        """Note how it ended: 499 stands for a client that left."""
        left = isinstance(error, asyncio.CancelledError | GeneratorExit)
        self.status = 499 if left else translate(error).status

    @property
    def model(self) -> str:
        """The model that answers, or the name that was asked for while none is chosen."""
        if self.entry is not None:
            return self.entry.model
        return self.choice.model.name if self.choice is not None else self.name

    def headers(self, now_s: float, wall_s: float) -> list[tuple[bytes, bytes]]:
        """Give the ``x-switchgear-*`` headers that are known by now."""
        total_ms = (now_s - self.started_s) * 1000
        headers = [
            (b"openai-processing-ms", str(round(total_ms)).encode()),
            (b"x-switchgear-model", self.model.encode()),
            (b"x-switchgear-cache", self.cache.encode()),
        ]
        if self.route:
            headers.append((b"x-switchgear-route", self.route.encode()))
        choice, call, entry = self.choice, self.call, self.entry
        if choice is not None and choice.score is not None:
            headers.append((b"x-switchgear-score", f"{choice.score:.4f}".encode()))
        if choice is not None and self.route:
            headers.append((b"x-switchgear-reason", choice.reason.encode()))
        if entry is not None:
            age_s = max(0.0, wall_s - entry.stored_s)
            headers.append((b"x-switchgear-cache-entry", entry.id.encode()))
            headers.append((b"x-switchgear-cache-age-s", str(round(age_s)).encode()))
        away_ms = 0.0
        if call is not None and call.tried:
            away_ms = (call.queue_s + call.upstream_s) * 1000
            headers.append((b"x-switchgear-replica", call.tried[-1].encode()))
            headers.append((b"x-switchgear-attempts", str(len(call.tried)).encode()))
            headers.append((b"x-switchgear-queue-ms", b"%.1f" % (call.queue_s * 1000)))
        headers.append((b"x-switchgear-overhead-ms", b"%.2f" % max(0.0, total_ms - away_ms)))
        return headers

    def observe(self, telemetry: Telemetry) -> None:
        """Count the request."""
        model = self.model
        telemetry.count("switchgear_requests_total", (model, self.route, str(self.status), self.cache))
        telemetry.observe("switchgear_request_duration_seconds", (model,), self.ended_s - self.started_s)
        if self.first_byte_s:
            telemetry.observe(
                "switchgear_time_to_first_byte_seconds", (model,), self.first_byte_s - self.started_s
            )
        if self.charge is not None:
            usage = self.charge.usage
            telemetry.count("switchgear_tokens_total", (model, "prompt"), usage.prompt_tokens)
            telemetry.count("switchgear_tokens_total", (model, "completion"), usage.completion_tokens)
        if self.call is not None:
            telemetry.observe("switchgear_queue_seconds", (model,), self.call.queue_s)
