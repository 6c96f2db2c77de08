"""The bounded queue before each model: who waits, who is next, who is shed. Pure: time comes in.

- Bands: a lower ``band`` goes first. Inside a band the tenant that was granted the fewest tokens for its
  weight goes first (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI
  2024); a tenant's own tickets keep their order. Who comes back after a pause gets no credit for it.
- Ageing: every ``AGED_EVERY``-th grant goes to whoever has waited longest, once that is more than ``age_s``:
  nothing starves, and a backlog of batch work never takes more than that share from the bands above it.
- A full queue makes room for a better band, or for a tenant with fewer places, by pushing out the youngest
  ticket of the tenant with the most places in the worst band.
- A ticket leaves exactly once: granted, expired, pushed out or withdrawn. While somebody waits in time,
  ``grant`` gives somebody.
"""

import itertools
import math
from collections import OrderedDict

import msgspec

from routing.decision import Query

BAND_COUNT = 3
AGED_EVERY = 8
OUTPUT_WEIGHT = 2
"""What an output token weighs against a token of the prompt, as in the paper."""
LEARNING = 0.1
UNKNOWN_TURN_S = 1.0
"""Said as ``retry_after_s`` while nothing is known of the service."""


class Overload(Exception):
    """The request is not queued; ``retry_after_s`` is when the queue is expected to have room for it."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Overload):
    """The queue before a model has no room."""

    def __init__(self, model: str, limit: int, retry_after_s: float) -> None:
        super().__init__(f"The queue of model {model!r} is full ({limit} requests wait).", retry_after_s)


class WaitTooLong(Overload):
    """The request would wait longer than it may."""

    def __init__(self, model: str, expected_s: float, retry_after_s: float) -> None:
        message = f"Model {model!r} is overloaded: the wait would be about {expected_s:.1f} s."
        super().__init__(message, retry_after_s)


class WaitExpired(Exception):
    """A request waited for a replica up to its deadline; ``retry_after_s`` as in ``Overload``."""

    def __init__(self, model: str, waited_s: float, retry_after_s: float) -> None:
        super().__init__(f"No replica of model {model!r} became free within {waited_s:.1f} s.")
        self.retry_after_s = retry_after_s


class Ticket(msgspec.Struct, eq=False):
    """One waiting request."""

    number: int
    query: Query
    band: int
    enqueued_s: float
    deadline_s: float

    @property
    def cost(self) -> float:
        """Its tokens, against its tenant's weight."""
        query = self.query
        return (1 + query.prompt_tokens + OUTPUT_WEIGHT * query.output_tokens) / query.weight


class Band:
    """The tickets of one band, fair between its tenants."""

    def __init__(self) -> None:
        self.tenants: dict[str, OrderedDict[int, Ticket]] = {}
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._prune_at = 64

    def add(self, ticket: Ticket) -> None:
        """Put a ticket behind its tenant's others."""
        tenant = ticket.query.tenant
        mine = self.tenants.get(tenant)
        if mine is None:
            mine = self.tenants[tenant] = OrderedDict()
            self._served[tenant] = max(self._served.get(tenant, 0.0), self._floor)
        mine[ticket.number] = ticket

    def first(self) -> Ticket | None:
        """Give the ticket whose turn it is, and leave it in."""
        if not self.tenants:
            return None
        tenant = min(self.tenants, key=self._served.__getitem__)
        self._floor = max(self._floor, self._served[tenant])
        return next(iter(self.tenants[tenant].values()))

    def charge(self, ticket: Ticket) -> None:
        """Count a ticket as served."""
        self._served[ticket.query.tenant] += ticket.cost

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        tenant = ticket.query.tenant
        mine = self.tenants[tenant]
        del mine[ticket.number]
        if not mine:
            del self.tenants[tenant]
            self._prune()

    def ahead(self, tenant: str, weight: float) -> int:
        """Give how many tickets go before a new one of the tenant, were all of the same size."""
        mine = len(self.tenants.get(tenant, ()))
        found = mine
        for name, some in self.tenants.items():
            if name != tenant:
                share = next(iter(some.values())).query.weight / weight
                found += min(len(some), math.ceil((mine + 1) * share))
        return found

    def greediest(self) -> OrderedDict[int, Ticket]:
        """Give the tickets of the tenant that has the most; the band is not empty."""
        return max(self.tenants.values(), key=len)

    def _prune(self) -> None:
        """Forget tenants whose count makes no difference any more."""
        if not self.tenants:
            self._served.clear()
            self._floor, self._prune_at = 0.0, 64
        elif len(self._served) > self._prune_at:
            kept = {t: s for t, s in self._served.items() if t in self.tenants or s > self._floor}
            self._served, self._prune_at = kept, 2 * len(kept) + 64


class Scheduler:
    """The waiting tickets of one model."""

    def __init__(self, model: str, limit: int, age_s: float = 30.0) -> None:
        self._model = model
        self.limit = limit
        self.age_s = age_s
        self._bands = [Band() for _ in range(BAND_COUNT)]
        self._arrivals: OrderedDict[int, Ticket] = OrderedDict()
        self._numbers = itertools.count()
        self._since_aged = 0
        self._held_s: float | None = None

    def __len__(self) -> int:
        return len(self._arrivals)

    def enqueue(
        self, query: Query, *, band: int, now_s: float, deadline_s: float, patience_s: float, slots: int
    ) -> tuple[Ticket, Ticket | None]:
        """Give a ticket, and the one that had to leave for it, if any.

        Raises WaitTooLong where the wait, with so many ``slots`` in all, is expected to be over
        ``patience_s``, or QueueFull.
        """
        expected_s = self.expected_wait_s(band, query, slots)
        if expected_s > patience_s:
            raise WaitTooLong(self._model, expected_s, max(expected_s - patience_s, self._turn_s(slots)))
        victim = None
        if len(self) >= self.limit:
            victim = self._victim(band, query.tenant)
            if victim is None:
                raise self.full(slots)
            self.withdraw(victim)
        ticket = Ticket(next(self._numbers), query, band, now_s, deadline_s)
        self._arrivals[ticket.number] = ticket
        self._bands[band].add(ticket)
        return ticket, victim

    def grant(self, now_s: float) -> Ticket | None:
        """Take the next ticket that is still in time; None if there is none."""
        while self._arrivals:
            ticket = self._aged(now_s) or self._first()
            in_time = ticket.deadline_s >= now_s
            if in_time:
                self._bands[ticket.band].charge(ticket)
            self.withdraw(ticket)
            if in_time:
                return ticket
        return None

    def withdraw(self, ticket: Ticket) -> bool:
        """Take back a ticket; False if it had already left."""
        if self._arrivals.pop(ticket.number, None) is None:
            return False
        self._bands[ticket.band].remove(ticket)
        return True

    def observe_service(self, held_s: float) -> None:
        """Learn how long one slot of this model is held."""
        known = self._held_s
        self._held_s = held_s if known is None else known + LEARNING * (held_s - known)

    @property
    def held_s(self) -> float | None:
        """How long one slot is held; None while nothing is known."""
        return self._held_s

    def expected_wait_s(self, band: int, query: Query, slots: int) -> float:
        """Estimate a newcomer's wait, in seconds; 0 while nothing is known of the service."""
        ahead = sum(len(some) for better in self._bands[:band] for some in better.tenants.values())
        return (ahead + self._bands[band].ahead(query.tenant, query.weight) + 1) * self._turn_s(slots)

    def full(self, slots: int) -> QueueFull:
        """Say that there is no room: it comes again when those who wait now have been served."""
        return QueueFull(self._model, self.limit, (len(self) + 1) * (self._turn_s(slots) or UNKNOWN_TURN_S))

    def _turn_s(self, slots: int) -> float:
        """Give the time between two grants while all slots are busy."""
        return (self._held_s or 0.0) / max(1, slots)

    def _first(self) -> Ticket:
        return next(ticket for band in self._bands if (ticket := band.first()) is not None)

    def _aged(self, now_s: float) -> Ticket | None:
        """Give the oldest ticket where it is its turn."""
        oldest = next(iter(self._arrivals.values()))
        if now_s - oldest.enqueued_s <= self.age_s:
            self._since_aged = 0
            return None
        self._since_aged += 1
        if self._since_aged < AGED_EVERY:
            return None
        self._since_aged = 0
        return oldest

    def _victim(self, band: int, tenant: str) -> Ticket | None:
        """Give the ticket that makes room for a newcomer, or None."""
        worst = next((n for n in range(BAND_COUNT - 1, -1, -1) if self._bands[n].tenants), -1)
        if worst < band:
            return None
        some = self._bands[worst].greediest()
        mine = len(self._bands[band].tenants.get(tenant, ()))
        if worst == band and len(some) <= mine + 1:
            return None
        return next(reversed(some.values()))
