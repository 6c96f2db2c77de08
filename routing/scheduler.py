"""The bounded queue before each model: who waits, who is next, who is shed. Pure: time comes in.

- Bands: a lower ``band`` goes first. Inside a band the tenant that was granted the fewest tokens for its
  weight goes first (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI
  2024); a tenant's own tickets keep their order. Who comes back after a pause gets no credit for it. Tenants
  may stand in groups, and these in others: shares are first between groups, then within them.
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
from collections.abc import Sequence

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
    def cost(self) -> int:
        """Its tokens."""
        return 1 + self.query.prompt_tokens + OUTPUT_WEIGHT * self.query.output_tokens


Path = Sequence[tuple[str, float]]


def path_of(query: Query) -> Path:
    """Give the names and weights that lead to a tenant, widest group first."""
    return (*query.within, (query.tenant, query.weight))


class Share:
    """Who waits in a band or a group: fair between its members, or a tenant's tickets in their order."""

    def __init__(self) -> None:
        self.size = 0
        self._weight = 1.0
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        self._members: dict[str, Share] = {}
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._prune_at = 64

    def add(self, ticket: Ticket, path: Path) -> None:
        """Put a ticket behind its tenant's others."""
        self.size += 1
        if not path:
            self._tickets[ticket.number] = ticket
            return
        name, weight = path[0]
        member = self._members.get(name)
        if member is None:
            member = self._members[name] = Share()
            self._served[name] = max(self._served.get(name, 0.0), self._floor)
        member._weight = weight
        member.add(ticket, path[1:])

    def first(self) -> Ticket | None:
        """Give the ticket whose turn it is, and leave it in."""
        if not self._members:
            return next(iter(self._tickets.values()), None)
        name = min(self._members, key=self._served.__getitem__)
        self._floor = max(self._floor, self._served[name])
        return self._members[name].first()

    def charge(self, ticket: Ticket, path: Path) -> None:
        """Count a ticket as served, against the weight of each of its groups."""
        if path:
            name, weight = path[0]
            self._served[name] += ticket.cost / weight
            self._members[name].charge(ticket, path[1:])

    def remove(self, ticket: Ticket, path: Path) -> None:
        """Take a ticket out."""
        self.size -= 1
        if not path:
            del self._tickets[ticket.number]
            return
        name = path[0][0]
        self._members[name].remove(ticket, path[1:])
        if not self._members[name].size:
            del self._members[name]
            self._prune()

    def ahead(self, path: Path) -> int:
        """Give how many tickets go before a new one, were all of the same size."""
        if not path:
            return self.size
        (name, weight), *inner = path
        mine = self._members.get(name)
        found = own = mine.ahead(inner) if mine is not None else 0
        for other, member in self._members.items():
            if other != name:
                found += min(member.size, math.ceil((own + 1) * member._weight / weight))
        return found

    def youngest(self) -> Ticket:
        """Give the youngest ticket of whoever has the most; somebody waits."""
        if not self._members:
            return next(reversed(self._tickets.values()))
        return self._greediest().youngest()

    def too_many(self, path: Path) -> Ticket | None:
        """Give the youngest ticket of whoever has more places than a newcomer will have, if anybody."""
        if not path or not self._members:
            return None
        mine, greediest = self._members.get(path[0][0]), self._greediest()
        if greediest is not mine and greediest.size > (mine.size if mine is not None else 0) + 1:
            return greediest.youngest()
        return mine.too_many(path[1:]) if mine is not None else None

    def _greediest(self) -> "Share":
        return max(self._members.values(), key=lambda one: one.size)

    def _prune(self) -> None:
        """Forget members whose count makes no difference any more."""
        if not self._members:
            self._served.clear()
            self._floor, self._prune_at = 0.0, 64
        elif len(self._served) > self._prune_at:
            kept = {t: s for t, s in self._served.items() if t in self._members or s > self._floor}
            self._served, self._prune_at = kept, 2 * len(kept) + 64


class Scheduler:
    """The waiting tickets of one model."""

    def __init__(self, model: str, limit: int, age_s: float = 30.0) -> None:
        self._model = model
        self.limit = limit
        self.age_s = age_s
        self._bands = [Share() for _ in range(BAND_COUNT)]
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
            victim = self._victim(band, query)
            if victim is None:
                raise self.full(slots)
            self.withdraw(victim)
        ticket = Ticket(next(self._numbers), query, band, now_s, deadline_s)
        self._arrivals[ticket.number] = ticket
        self._bands[band].add(ticket, path_of(query))
        return ticket, victim

    def grant(self, now_s: float) -> Ticket | None:
        """Take the next ticket that is still in time; None if there is none."""
        while self._arrivals:
            ticket = self._aged(now_s) or self._first()
            in_time = ticket.deadline_s >= now_s
            if in_time:
                self._bands[ticket.band].charge(ticket, path_of(ticket.query))
            self.withdraw(ticket)
            if in_time:
                return ticket
        return None

    def withdraw(self, ticket: Ticket) -> bool:
        """Take back a ticket; False if it had already left."""
        if self._arrivals.pop(ticket.number, None) is None:
            return False
        self._bands[ticket.band].remove(ticket, path_of(ticket.query))
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
        ahead = sum(better.size for better in self._bands[:band])
        return (ahead + self._bands[band].ahead(path_of(query)) + 1) * self._turn_s(slots)

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

    def _victim(self, band: int, query: Query) -> Ticket | None:
        """Give the ticket that makes room for a newcomer, or None."""
        worst = next((n for n in range(BAND_COUNT - 1, -1, -1) if self._bands[n].size), -1)
        if worst > band:
            return self._bands[worst].youngest()
        return self._bands[band].too_many(path_of(query)) if worst == band else None
