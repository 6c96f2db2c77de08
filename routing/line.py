"""One model's requests and its ready replicas: who gets a slot where, and what is learnt from it.

Pure: events in (a request asks, a first byte comes, a slot is given back, the fleet or its load changes),
values out (a grant, a ticket, the next grants); the gateway's dispatcher and the simulator drive the same
code. Loads are this gateway's own counts, exact at every moment; what the engines tell (KV usage, other
gateways' requests) is as old as the last scrape and only added to them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from routing.decision import Candidate, Dispatch, Query, decide
from routing.policies import POLICIES, STREAM_TOKENS, Strategy
from routing.prefixes import WarmTable, tokens_of
from routing.scheduler import Scheduler, Ticket

REQUEST_TOKENS = 48
"""What a prefill costs beside its tokens, in tokens: the step itself."""
LEARNING = 0.2
LATENCY_MEMORY_S = 10.0


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A ready replica, as far as routing cares."""

    id: str
    limit: int
    weight: float = 1.0
    version: str = ""


class Load(msgspec.Struct, eq=False):
    """What is known of one replica; see ``Candidate`` for the meaning.

    ``ahead_tokens`` are of all that have no first byte yet, ``under_way_s`` is since when it works on them:
    when the first of them came, or the latest first byte.
    """

    running: int = 0
    tokens: int = 0
    ahead_tokens: int = 0
    outside: int = 0
    kv_usage: float = 0.0
    latency_s: float = 0.0
    pace_s: float = 0.0
    seen_s: float = 0.0
    under_way_s: float = 0.0


class Grant(msgspec.Struct, eq=False):
    """A slot on a replica: what it holds there, and what is asked of it before the first byte."""

    server: Server
    query: Query
    load: Load
    since_s: float
    own_tokens: int
    work_tokens: float
    begun: bool = False


class Line:
    """The requests of one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.scheduler = Scheduler(model, 0)
        self.servers: tuple[Server, ...] = ()
        self.slots = 0
        self._strategy = POLICIES["adaptive"]
        self._loads: dict[str, Load] = {}
        self._warm = WarmTable()
        self._sequence = 0
        self._resting: dict[str, float] = {}

    def configure(self, strategy: Strategy, limit: int, age_s: float) -> None:
        """Put settings in force; who waits goes on waiting."""
        self._strategy = strategy
        self.scheduler.limit, self.scheduler.age_s = limit, age_s

    def staff(self, servers: Iterable[Server]) -> None:
        """Take the ready replicas; of others, what is known is kept while requests run there."""
        self.servers = tuple(servers)
        self.slots = sum(one.limit for one in self.servers)
        ids = [one.id for one in self.servers]
        self._warm.keep(ids)
        self._loads = {id_: load for id_, load in self._loads.items() if id_ in ids or load.running}
        for id_ in ids:
            self._loads.setdefault(id_, Load())

    def observe(self, told: Mapping[str, tuple[int, float]]) -> None:
        """Take what engines tell: requests there in all, share of the KV cache in use. Silence is nothing."""
        for id_, load in self._loads.items():
            requests, load.kv_usage = told.get(id_, (0, 0.0))
            load.outside = max(0, requests - load.running)

    def rest(self, server: str, until_s: float) -> None:
        """Send nothing to a replica until then, as it asked (``retry-after``), while another has room."""
        self._resting[server] = until_s

    @property
    def reads_prefix(self) -> bool:
        """Whether the marks of a prompt make a difference now."""
        return self._strategy.reads_prefix and len(self.servers) > 1

    @property
    def running(self) -> int:
        """Requests on the ready replicas."""
        return sum(self._loads[one.id].running for one in self.servers)

    def running_on(self, server: str) -> int:
        """Requests on a replica, ready or not."""
        load = self._loads.get(server)
        return load.running if load is not None else 0

    def latency_s(self, now_s: float) -> float | None:
        """The longest recent time to the first byte of the ready replicas; None while unknown."""
        fresh = [
            load.latency_s
            for one in self.servers
            if (load := self._loads[one.id]).latency_s and now_s - load.seen_s <= LATENCY_MEMORY_S
        ]
        return max(fresh) if fresh else None

    @property
    def free(self) -> bool:
        """Whether any replica has room."""
        return any(self._loads[one.id].running < one.limit for one in self.servers)

    def place(self, query: Query, draw: float, now_s: float) -> Grant | None:
        """Take a free slot by the policy; None where every replica is full, or there is none."""
        servers = self.servers
        if len(servers) == 1:  # nothing to choose: no candidates, no policy
            only = servers[0]
            full = self._loads[only.id].running >= only.limit
            return None if full else self._take(only, query, 0, now_s)
        self._sequence += 1
        query = msgspec.structs.replace(query, sequence=self._sequence, draw=draw)
        candidates = [self._candidate(one, query, now_s) for one in servers]
        awake = candidates
        if self._resting and (resting := self._at_rest(now_s)):
            awake = [one for one in candidates if one.id not in resting and one.running < one.limit]
        decision = decide(query, awake or candidates, self._strategy.pick)
        if not isinstance(decision, Dispatch):
            return None
        chosen = next(index for index, one in enumerate(candidates) if one.id == decision.replica)
        self._warm.note(decision.replica, query.prefix)
        return self._take(servers[chosen], query, candidates[chosen].cached_tokens, now_s)

    def release(self, grant: Grant, now_s: float) -> None:
        """Give back a slot."""
        load = grant.load
        load.running -= 1
        load.tokens -= grant.query.prompt_tokens
        if not grant.begun:
            load.ahead_tokens -= grant.own_tokens
        self.scheduler.observe_service(now_s - grant.since_s)

    def undo(self, grant: Grant) -> None:
        """Give back a slot that nobody took up."""
        grant.load.running -= 1
        grant.load.tokens -= grant.query.prompt_tokens
        grant.load.ahead_tokens -= grant.own_tokens

    def next(self, draw: float, now_s: float) -> tuple[Ticket, Grant] | None:
        """Grant the next ticket, if there is one and room for it."""
        if not len(self.scheduler) or not self.free:
            return None
        ticket = self.scheduler.grant(now_s)
        if ticket is None:
            return None
        # Whoever has waited takes what is free, also a replica that it was tried on.
        anywhere = msgspec.structs.replace(ticket.query, exclude=frozenset())
        grant = self.place(ticket.query, draw, now_s) or self.place(anywhere, draw, now_s)
        assert grant is not None
        return ticket, grant

    def place_beside(self, query: Query, draw: float, now_s: float) -> Grant | None:
        """Take a free slot on a replica that the query was not tried on, if there is one."""
        spare = [one for one in self.servers if one.id not in query.exclude | self._at_rest(now_s)]
        free = [one for one in spare if self._loads[one.id].running < one.limit]
        return self._take_best(free, msgspec.structs.replace(query, draw=draw), now_s) if free else None

    def take_over(self, query: Query, version: str, draw: float, now_s: float) -> Grant | None:
        """Take a slot on a replica of the version, where all are full one more than there are.

        For an answer that is under way: it waits in no line. None where there is no such replica.
        """
        servers = [one for one in self.servers if one.version == version]
        if not servers:
            return None
        resting = self._at_rest(now_s)
        willing = [one for one in servers if one.id not in resting] or servers
        fresh = [one for one in willing if one.id not in query.exclude] or willing
        free = [one for one in fresh if self._loads[one.id].running < one.limit] or fresh
        return self._take_best(free, msgspec.structs.replace(query, draw=draw), now_s)

    def _take_best(self, servers: Sequence[Server], query: Query, now_s: float) -> Grant:
        """Take a slot on the one of them that the policy prefers, full or not."""
        chosen = self._strategy.pick(query, [self._candidate(one, query, now_s) for one in servers])
        server = next(one for one in servers if one.id == chosen.id)
        self._warm.note(chosen.id, query.prefix)
        return self._take(server, query, chosen.cached_tokens, now_s)

    def rests_s(self, now_s: float) -> float:
        """Give how long all replicas still want to be left alone; 0 where one does not, or there is none."""
        if not self._resting:
            return 0.0
        return max(0.0, min((self._resting.get(one.id, 0.0) - now_s for one in self.servers), default=0.0))

    def _at_rest(self, now_s: float) -> frozenset[str]:
        self._resting = {id_: until_s for id_, until_s in self._resting.items() if until_s > now_s}
        return frozenset(self._resting)

    def _take(self, server: Server, query: Query, cached_tokens: int, now_s: float) -> Grant:
        load = self._loads[server.id]
        own = REQUEST_TOKENS + max(0, query.prompt_tokens - cached_tokens)
        work = _left_tokens(load, now_s) + own + STREAM_TOKENS * (load.running + load.outside)
        if not load.ahead_tokens:
            load.under_way_s = now_s
        load.running += 1
        load.tokens += query.prompt_tokens
        load.ahead_tokens += own
        return Grant(server, query, load, now_s, own, work)

    def _candidate(self, server: Server, query: Query, now_s: float) -> Candidate:
        load = self._loads[server.id]
        cached = tokens_of(self._warm.depth(server.id, query.prefix)) if query.prefix else 0
        return Candidate(
            id=server.id,
            running=load.running,
            limit=server.limit,
            running_tokens=load.tokens,
            ahead_tokens=_left_tokens(load, now_s),
            cached_tokens=min(cached, query.prompt_tokens),
            outside=load.outside,
            kv_usage=load.kv_usage,
            latency_s=_latency_s(load, now_s),
            pace_s=load.pace_s,
            pace_age_s=now_s - load.seen_s,
            weight=server.weight,
            version=server.version,
        )


def began(grant: Grant, now_s: float) -> None:
    """Note that the first byte is there; learns how fast the replica is."""
    if grant.begun:
        return
    grant.begun = True
    load = grant.load
    load.ahead_tokens -= grant.own_tokens
    load.under_way_s = now_s
    took_s = max(now_s - grant.since_s, 1e-6)
    pace_s = took_s / grant.work_tokens
    load.pace_s += (pace_s - load.pace_s) * (LEARNING if load.pace_s else 1.0)
    faded_s = _latency_s(load, now_s)
    load.latency_s = took_s if took_s > faded_s else faded_s + LEARNING * (took_s - faded_s)
    load.seen_s = now_s


def _left_tokens(load: Load, now_s: float) -> float:
    """Give the work ahead, less the more has been done of it since, by the pace; at least a third is left.

    Not all is believed: an engine's step ends for all its prompts at once, and who is overdue may hang.
    """
    ahead = load.ahead_tokens
    if not ahead or not load.pace_s:
        return ahead
    done = (now_s - load.under_way_s) / load.pace_s
    return ahead / (1 + min(done / ahead, 2.0))


def _latency_s(load: Load, now_s: float) -> float:
    """Give the remembered peak, faded by its age."""
    return load.latency_s * math.exp((load.seen_s - now_s) / LATENCY_MEMORY_S) if load.latency_s else 0.0
