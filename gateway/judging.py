"""What an attempt says of its replica: counted by outcome, and told to whoever takes replicas out of routing.

A client's own mistake or hurry blames nobody. Neither does a request that fails wherever it is tried: its
first failure is told at once, those after it only when another replica has served it after all. One that
failed everywhere is suspected for a while (``restraint.Suspects``), and blames nobody until it succeeds.
"""

from collections.abc import Callable
from typing import Protocol

from backends.clients.base import ConnectFailed, ReplyTimeout, Withdrawn
from backends.replica import Event
from gateway.metrics import REQUEST_SECONDS
from gateway.openai.continuation import Mismatch
from gateway.restraint import Suspects
from gateway.telemetry import Telemetry
from gateway.trip import Call, Try, UpstreamError

MOST_REST_S = 60.0


class Report(Protocol):
    """Hears how an attempt on a replica went; see ``Supervisor.report``."""

    def __call__(self, replica_id: str, event: Event, reason: str = "") -> None:
        """Take note."""


class Judge:
    """Judges attempts; ``rest`` has a model's replica left alone for some seconds."""

    def __init__(
        self,
        report: Report,
        rest: Callable[[str, str, float], None],
        telemetry: Telemetry,
        now: Callable[[], float],
    ) -> None:
        self.tell = report
        self._rest = rest
        self._telemetry = telemetry
        self._now = now
        self._suspects = Suspects()

    def failed(self, call: Call, this: Try, error: Exception) -> None:
        """An attempt failed in a way in which another replica may not."""
        outcome, event = _verdict(error)
        self.count(call, this, outcome)
        now_s = self._now()
        if event is None or now_s >= call.deadline_s:
            return
        if event is Event.THROTTLED and isinstance(error, UpstreamError):
            wait_s = error.refusal.retry_after_s
            if wait_s:
                self._rest(call.model, this.replica, min(wait_s, MOST_REST_S))
        trip = call.trip
        if event is not Event.FAILED:
            self.tell(this.replica, event, str(error))
        elif trip.held or trip.breaks or trip.barren or self.suspected(call):
            trip.held.append((this.replica, event, str(error)))
        else:
            self.tell(this.replica, event, str(error))

    def served(self, call: Call, this: Try) -> None:
        """An attempt gave a whole answer: whoever failed before was to blame."""
        self.count(call, this, "ok")
        self.tell(this.replica, Event.SUCCEEDED)
        for held in call.trip.held:
            self.tell(*held)
        if self._suspects:
            self._suspects.clear(call.path, call.body, self._now())

    def refused(self, call: Call, this: Try) -> None:
        """The replica found fault with the request: it works."""
        self.count(call, this, "refused")
        self.tell(this.replica, Event.SUCCEEDED)

    def given_up(self, call: Call) -> None:
        """Nothing more is tried."""
        if call.trip.held:
            call.trip.held = []
            self._suspects.add(call.path, call.body, self._now())

    def suspected(self, call: Call) -> bool:
        """Whether the request is suspected to be the cause of its failures itself."""
        return bool(self._suspects) and self._suspects.holds(call.path, call.body, self._now())

    def count(self, call: Call, this: Try, outcome: str) -> None:
        """Count an attempt by its outcome, and how long it took."""
        this.outcome = outcome
        telemetry, kind = self._telemetry, (call.model, this.replica, outcome)
        row = telemetry.rows.get(kind)
        if row is None:
            error = "" if outcome == "ok" else outcome
            row = telemetry.rows[kind] = (
                telemetry.at("switchgear_upstream_attempts_total", (call.model, outcome)),
                telemetry.at("gen_ai_client_operation_duration_seconds", (call.model, this.replica, error)),
            )
        telemetry.values[row[0]] += 1.0
        telemetry.note(row[1], REQUEST_SECONDS, self._now() - this.sent_s)


def _verdict(error: Exception) -> tuple[str, Event | None]:
    match error:
        case ConnectFailed():
            return "unreachable", Event.REFUSED
        case ReplyTimeout():
            return "timeout", Event.FAILED
        case Mismatch():
            return "mismatch", None
        case Withdrawn():
            return "withdrawn", None
        case UpstreamError(status=status):
            return f"status_{status}", _of_status(status, error.refusal.retry_after_s)
        case _:
            return "broken", Event.FAILED


def _of_status(status: int, retry_after_s: float | None) -> Event | None:
    if status == 429 or (status == 503 and retry_after_s is not None):
        return Event.THROTTLED
    return Event.FAILED if status >= 500 else None
