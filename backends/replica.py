"""One replica's life: the phases, the events, and the one table that ties them.

Pure: takes values and `now_s`, gives values. Only `step` changes a phase, and only by `TRANSITIONS`.
Requests that went wrong (`FAILED`, `REFUSED`) and probes that went unanswered (`MISSED`, `REFUSED`) feed the
same table. An answer below 500 is never a failure: the replica is well, the request was not.

A good probe does not wipe out failed requests, because engines exist that answer `/health` with 200 while
every request ends in a 500; a good request wipes out both. A replica that only turns requests away (429) is
no use either, but is given longer: it may have been busy.

That is a circuit breaker: closed (ready), open (ejected), half-open (ready again, on trial). After a recovery
a replica is trusted with one request, and with twice as many for each that it begins and serves, up to its
limit: what a probe does not find out costs one request, and a cold cache does not meet the whole crowd.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

EJECT_AFTER = 3
"""So many failures in a row take a replica out of routing."""
EJECT_AFTER_THROTTLED = 10
"""So many requests turned away (429) in a row do the same."""
READMIT_FIRST_S = 1.0
READMIT_MAX_S = 30.0
"""Back-off before an ejected replica may return: doubles with each ejection, up to this."""
STEADY_S = 60.0
"""Ready for so long, and earlier ejections are forgotten."""


class Phase(StrEnum):
    WAITING = "waiting"
    """Declared; has not answered yet, or is to be started (again)."""
    LOADING = "loading"
    """Its process runs and does not serve yet."""
    READY = "ready"
    """The only phase that gets requests."""
    EJECTED = "ejected"
    """Was ready, then failed; comes back by a good probe after its back-off."""
    DRAINING = "draining"
    """No new requests; running ones finish."""
    SLEEPING = "sleeping"
    """Its process runs without weights or KV cache, and can be woken."""
    STOPPED = "stopped"
    """Ended on purpose."""
    FAILED = "failed"
    """Crashed so often that it is tried again slowly only."""


class Event(StrEnum):
    LAUNCHED = "launched"
    """A process was started for it."""
    ANSWERED = "answered"
    """A probe was answered well (and the warm-up, where it was launched)."""
    MISSED = "missed"
    """A probe was not answered, or with 5xx."""
    BEGAN = "began"
    """A request got its first byte."""
    SUCCEEDED = "succeeded"
    """A request was served."""
    FAILED = "failed"
    """A request ended in 5xx, a time-out or a broken connection."""
    REFUSED = "refused"
    """The connection was refused: nobody listens, no need to ask three times."""
    THROTTLED = "throttled"
    """A request was turned away with 429."""
    LOST = "lost"
    """Enough failures in a row. `step` makes it from the four above; nobody sends it."""
    DRAIN = "drain"
    RESUME = "resume"
    SLEPT = "slept"
    """It gave back its memory."""
    EXITED = "exited"
    """Its process ended by itself."""
    GAVE_UP = "gave_up"
    """Its process ended by itself, too often and too soon."""
    STOPPED = "stopped"
    """Its process was ended, or it is no longer wanted."""


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.WAITING: {
        Event.LAUNCHED: Phase.LOADING,
        Event.ANSWERED: Phase.READY,
        Event.DRAIN: Phase.DRAINING,
        Event.GAVE_UP: Phase.FAILED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.LOADING: {
        Event.ANSWERED: Phase.READY,
        Event.DRAIN: Phase.DRAINING,
        Event.EXITED: Phase.WAITING,
        Event.GAVE_UP: Phase.FAILED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.READY: {
        Event.LOST: Phase.EJECTED,
        Event.DRAIN: Phase.DRAINING,
        Event.EXITED: Phase.WAITING,
        Event.GAVE_UP: Phase.FAILED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.EJECTED: {
        Event.ANSWERED: Phase.READY,
        Event.LAUNCHED: Phase.LOADING,
        Event.DRAIN: Phase.DRAINING,
        Event.EXITED: Phase.WAITING,
        Event.GAVE_UP: Phase.FAILED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.DRAINING: {
        Event.RESUME: Phase.WAITING,
        Event.SLEPT: Phase.SLEEPING,
        Event.EXITED: Phase.STOPPED,
        Event.GAVE_UP: Phase.STOPPED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.SLEEPING: {
        Event.RESUME: Phase.WAITING,
        Event.DRAIN: Phase.DRAINING,
        Event.EXITED: Phase.STOPPED,
        Event.GAVE_UP: Phase.STOPPED,
        Event.STOPPED: Phase.STOPPED,
    },
    Phase.STOPPED: {
        Event.RESUME: Phase.WAITING,
        Event.LAUNCHED: Phase.LOADING,
    },
    Phase.FAILED: {
        Event.LAUNCHED: Phase.LOADING,
        Event.DRAIN: Phase.DRAINING,
        Event.STOPPED: Phase.STOPPED,
    },
}
"""An event that a phase does not list leaves the phase as it is."""


class Replica(Struct, frozen=True, kw_only=True):
    """A snapshot of one serving process; `url` is its base and ends in `/v1`."""

    id: str
    model: str
    url: str = ""
    phase: Phase = Phase.WAITING
    since_s: float = 0.0
    consecutive_failures: int = 0
    """Failed requests since the last served one."""
    missed_probes: int = 0
    """Unanswered probes since the last answered one."""
    throttled: int = 0
    """Requests turned away since the last served one."""
    trust: int = 0
    """How many requests at once it gets after a recovery; 0 stands for all that it can take."""
    ejections: int = 0
    """How often it was ejected since it last stood firm for `STEADY_S`."""
    reason: str = ""
    spot: bool = False
    weight: float = 1.0
    version: str = ""
    max_concurrency: int = 64
    launched: bool = False
    """True where this gateway started its process."""

    @property
    def limit(self) -> int:
        """How many requests at once it gets now."""
        return min(self.trust, self.max_concurrency) if self.trust else self.max_concurrency

    @property
    def readmit_at_s(self) -> float:
        """The earliest time at which a good probe ends the ejection."""
        return self.since_s + min(READMIT_FIRST_S * 2.0 ** min(max(self.ejections - 1, 0), 30), READMIT_MAX_S)


def step(replica: Replica, event: Event, now_s: float, reason: str = "") -> Replica:
    """The replica after the event; the same object where nothing changed."""
    replica, event = _count(replica, event, now_s)
    after = TRANSITIONS[replica.phase].get(event, replica.phase)
    if replica.phase is Phase.EJECTED and after is Phase.READY and now_s < replica.readmit_at_s:
        return replica
    if after is replica.phase:
        return replica if not reason or reason == replica.reason else replace(replica, reason=reason)
    lost = event is Event.LOST
    return replace(
        replica,
        phase=after,
        since_s=now_s,
        reason=reason,
        consecutive_failures=replica.consecutive_failures if lost else 0,
        missed_probes=replica.missed_probes if lost else 0,
        throttled=replica.throttled if lost else 0,
        ejections=replica.ejections + 1 if lost else replica.ejections,
        trust=1 if replica.phase is Phase.EJECTED and after is Phase.READY else 0,
    )


def _count(replica: Replica, event: Event, now_s: float) -> tuple[Replica, Event]:
    """The counters after the event, and the event it amounts to."""
    failures, missed, throttled = replica.consecutive_failures, replica.missed_probes, replica.throttled
    ejections, trust = replica.ejections, replica.trust
    match event:
        case Event.SUCCEEDED:
            failures = missed = throttled = 0
            trust = _more(trust, replica.max_concurrency)
        case Event.BEGAN:
            trust = _more(trust, replica.max_concurrency)
        case Event.ANSWERED:
            missed = 0
            if replica.phase is Phase.READY and now_s - replica.since_s >= STEADY_S:
                ejections = 0
        case Event.FAILED:
            failures += 1
        case Event.THROTTLED:
            throttled += 1
        case Event.MISSED | Event.REFUSED:
            missed += 1
        case _:
            return replica, event
    counted = (failures, missed, throttled, ejections, trust)
    if counted != (
        replica.consecutive_failures,
        replica.missed_probes,
        replica.throttled,
        replica.ejections,
        replica.trust,
    ):
        replica = replace(
            replica,
            consecutive_failures=failures,
            missed_probes=missed,
            throttled=throttled,
            ejections=ejections,
            trust=trust,
        )
    return replica, Event.LOST if _is_lost(replica, event) else event


def _more(trust: int, max_concurrency: int) -> int:
    return 2 * trust if 2 * trust < max_concurrency else 0


def _is_lost(replica: Replica, event: Event) -> bool:
    """Whether an event that has been counted is the last straw; on trial (half-open), one request is."""
    on_trial = replica.trust == 1
    match event:
        case Event.REFUSED:
            return True
        case Event.FAILED | Event.MISSED:
            enough = replica.consecutive_failures + replica.missed_probes >= EJECT_AFTER
            return enough or (on_trial and event is Event.FAILED)
        case Event.THROTTLED:
            return on_trial or replica.throttled >= EJECT_AFTER_THROTTLED
        case _:
            return False
