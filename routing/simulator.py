"""Discrete events: a trace through the gateway's own line and policies onto simulated replicas.

The replica is vLLM as far as scheduling sees it: continuous batching in steps, prefills cut into the step's
token budget and first come first served, one token a step for each stream, a KV cache whose full blocks are
found again by later prompts until the oldest are evicted. ``Engine`` holds its constants, measured by
``bench/calibrate.py``. Pure: the same trace, policy and seed give the same result.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b

import msgspec

from routing.decision import Query
from routing.line import Grant, Line, Server, began
from routing.policies import POLICIES
from routing.prefixes import BYTES_PER_TOKEN, ENDS_BYTES, MARK_BYTES
from routing.scheduler import Overload
from routing.traces import Kind, Request

Event = Callable[[float], None]

SCRAPE_S = 2.0
BANDS = ("interactive", "standard", "batch")


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's constants.

    Measured on 2026-11-22: SmolLM2-135M in bf16 on vLLM 0.32 (CPU build, eager), one shared Xeon core.
    A prefill of 32 tokens took 0.17 s, 512 1.95 s, 2048 8.8 s; a step of 1 stream 58 ms, 8 88 ms, 16 118 ms.
    """

    step_s: float = 0.055
    decode_stream_s: float = 0.0041
    prefill_token_s: float = 0.0030
    prefill_square_s: float = 6.9e-7
    step_tokens: int = 2048
    max_streams: int = 64
    kv_tokens: int = 46_000
    block_tokens: int = 128

    def request_s(self, kind: Kind) -> float:
        """Give about how long a replica is kept busy by one request of a kind, all of it cold."""
        own = kind.prompt_tokens * math.exp(kind.prompt_sigma**2 / 2)
        history = (own + kind.output_tokens) * (kind.turns - 1) + (kind.system_tokens if kind.systems else 0)
        output = kind.output_tokens * math.exp(kind.output_sigma**2 / 2)
        return self.step_s + self.prefill_token_s * (own + 0.5 * history) + output * 2 * self.decode_stream_s


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas: one speed each, 1.0 as measured; the gateway's limits."""

    speeds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    engine: Engine = Engine()
    max_concurrency: int = 16
    queue_limit: int = 1000
    patience_s: float = 600.0
    age_s: float = 30.0

    def rate(self, kind: Kind) -> float:
        """Give the requests a second that load the fleet as the kind says."""
        return kind.load * sum(self.speeds) / self.engine.request_s(kind)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a trace: seconds, and shares in [0, 1]."""

    ttft_p50_s: float
    ttft_p99_s: float
    total_p50_s: float
    total_p99_s: float
    requests_per_s: float
    output_tokens_per_s: float
    prefix_hits: float
    """Share of the prompt tokens that was found in a KV cache."""
    fairness: float
    """Jain's index of the tenants' mean times to the first token: 1 is equal."""
    refused: int


class Job(msgspec.Struct, eq=False):
    """A request on its way."""

    request: Request
    query: Query
    blocks: list[int]
    arrived_s: float
    grant: Grant | None = None
    to_prefill: int = 0
    prefilled: int = 0
    left: int = 0
    cached: int = 0
    first_s: float = 0.0
    ended_s: float = 0.0


class Step(msgspec.Struct, frozen=True, eq=False):
    """What a replica does now: so many equal steps of so long, and which prompts get how many tokens."""

    started_s: float
    step_s: float
    steps: int
    chunks: list[tuple[Job, int]]


class SimulatedReplica:
    """One inference server; the caller says when a step is over."""

    def __init__(self, engine: Engine, speed: float) -> None:
        self._engine, self._speed = engine, speed
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self._cache: dict[int, None] = {}
        self.step: Step | None = None

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that running requests hold."""
        return min(1.0, self._held() / self._engine.kv_tokens)

    def submit(self, job: Job, now_s: float) -> Step | None:
        """Take a request; gives the step to wait for where that is new."""
        job.left = job.request.output_tokens
        self.waiting.append(job)
        if self.step is None:
            return self.begin(now_s)
        done = int((now_s - self.step.started_s) / self.step.step_s) + 1
        if done >= self.step.steps:
            return None
        self.step = msgspec.structs.replace(self.step, steps=done)  # a newcomer ends a run of equal steps
        return self.step

    def begin(self, now_s: float) -> Step | None:
        """Begin the next step, or as many equal ones as nothing interrupts; None where there is no work."""
        engine = self._engine
        while self.waiting and len(self.running) < engine.max_streams:
            job = self.waiting[0]
            if self.running and self._held() + job.request.prompt_tokens > engine.kv_tokens:
                break
            self.running.append(self.waiting.pop(0))
            self._admit(job)
        self.step = None
        if not self.running:
            return None
        budget, chunks, cost_s, streams = engine.step_tokens, [], engine.step_s, 0
        for job in self.running:
            if job.to_prefill:
                tokens = min(budget, job.to_prefill)
                budget -= tokens
                end = job.prefilled + tokens
                cost_s += engine.prefill_token_s * tokens
                cost_s += engine.prefill_square_s * (end**2 - job.prefilled**2)
                if tokens:
                    chunks.append((job, tokens))
            else:
                streams += 1
        cost_s += engine.decode_stream_s * streams
        count = 1 if chunks else min(job.left for job in self.running)
        self.step = Step(now_s, cost_s / self._speed, count, chunks)
        return self.step

    def end(self, step: Step) -> tuple[list[Job], list[Job]]:
        """End the step under way; gives who got a first token, and who is done."""
        fresh = {id(job) for job, _ in step.chunks}
        first = []
        for job, tokens in step.chunks:
            job.prefilled += tokens
            job.to_prefill -= tokens
            if not job.to_prefill:
                self._remember(job.blocks[: job.request.prompt_tokens // self._engine.block_tokens])
                job.left -= 1
                first.append(job)
        for job in self.running:
            if id(job) not in fresh and not job.to_prefill:
                job.left -= step.steps
        done = [job for job in self.running if job.left <= 0]
        if done:
            self.running = [job for job in self.running if job.left > 0]
            for job in done:
                self._remember(job.blocks)
        return first, done

    def _admit(self, job: Job) -> None:
        """Find what of the prompt is cached: leading full blocks, never all of it."""
        size = self._engine.block_tokens
        usable = (job.request.prompt_tokens - 1) // size
        hits = next((n for n, block in enumerate(job.blocks[:usable]) if block not in self._cache), usable)
        self._remember(job.blocks[:hits])
        job.cached = job.prefilled = hits * size
        job.to_prefill = job.request.prompt_tokens - job.cached

    def _remember(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._cache.pop(block, None)
            self._cache[block] = None
        while len(self._cache) * self._engine.block_tokens > self._engine.kv_tokens:
            del self._cache[next(iter(self._cache))]

    def _held(self) -> int:
        return sum(
            job.request.prompt_tokens - job.cached + job.request.output_tokens - job.left
            for job in self.running
        )


def simulate(trace: Sequence[Request], policy: str, fleet: Fleet, seed: int) -> Result:
    """Run a trace under a policy."""
    jobs = [_job(request, fleet.engine) for request in trace]
    _Run(policy, fleet, seed).play(jobs)
    return _result(jobs)


class _Run:
    """The events, the gateway's line and the replicas."""

    def __init__(self, policy: str, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._draw = random.Random(seed).random  # noqa: S311  # traffic, not secrets
        self._replicas = {
            f"r{n}": SimulatedReplica(fleet.engine, speed) for n, speed in enumerate(fleet.speeds)
        }
        self._line = Line("m")
        self._line.configure(POLICIES[policy], fleet.queue_limit, fleet.age_s)
        self._line.staff(Server(id=id_, limit=fleet.max_concurrency) for id_ in self._replicas)
        self._events: list[tuple[float, int, Event]] = []
        self._numbers = itertools.count()
        self._waiting: dict[int, Job] = {}

    def play(self, jobs: Sequence[Job]) -> None:
        """Let the requests arrive, and everything happen that follows."""
        for job in jobs:
            self._at(job.arrived_s, partial(self._arrive, job))
        scrape_s = 0.0
        while self._events:
            now_s, _, event = heapq.heappop(self._events)
            if now_s >= scrape_s:
                self._scrape()
                scrape_s = now_s + SCRAPE_S
            event(now_s)

    def _at(self, when_s: float, event: Event) -> None:
        heapq.heappush(self._events, (when_s, next(self._numbers), event))

    def _scrape(self) -> None:
        self._line.observe(
            {id_: (len(one.running) + len(one.waiting), one.kv_usage) for id_, one in self._replicas.items()}
        )

    def _arrive(self, job: Job, now_s: float) -> None:
        grant = self._line.place(job.query, self._draw(), now_s)
        if grant is not None:
            self._submit(job, grant, now_s)
            return
        try:
            ticket, displaced = self._line.scheduler.enqueue(
                job.query,
                band=BANDS.index(job.request.band),
                now_s=now_s,
                deadline_s=now_s + self._fleet.patience_s,
                patience_s=self._fleet.patience_s,
                slots=self._line.slots,
            )
        except Overload:
            return
        self._waiting[ticket.number] = job
        if displaced is not None:
            del self._waiting[displaced.number]

    def _submit(self, job: Job, grant: Grant, now_s: float) -> None:
        job.grant = grant
        id_ = grant.server.id
        self._plan(id_, self._replicas[id_].submit(job, now_s))

    def _plan(self, id_: str, step: Step | None) -> None:
        if step is not None:
            self._at(step.started_s + step.steps * step.step_s, partial(self._stepped, id_, step))

    def _stepped(self, id_: str, step: Step, now_s: float) -> None:
        replica = self._replicas[id_]
        if replica.step is not step:
            return  # it was cut short by a newcomer
        first, done = replica.end(step)
        for job in first:
            assert job.grant is not None
            job.first_s = now_s
            began(job.grant, now_s)
        self._plan(id_, replica.begin(now_s))
        for job in done:
            assert job.grant is not None
            job.ended_s = now_s
            self._line.release(job.grant, now_s)
        while done and (granted := self._line.next(self._draw(), now_s)) is not None:
            ticket, grant = granted
            self._submit(self._waiting.pop(ticket.number), grant, now_s)


def _job(request: Request, engine: Engine) -> Job:
    whole = (*request.prompt, (request.answer, request.output_tokens))
    ends = [end // BYTES_PER_TOKEN for end in ENDS_BYTES]
    marks = [
        blake2b(repr((request.tenant, place)).encode(), digest_size=MARK_BYTES).digest()
        for place in _places(request.prompt, ends)
    ]
    sizes = range(engine.block_tokens, 10**9, engine.block_tokens)
    query = Query(
        model="m",
        tenant=request.tenant,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        prefix=tuple(marks),
    )
    return Job(request, query, [hash(place) for place in _places(whole, sizes)], request.at_s)


def _places(prompt: Sequence[tuple[str, int]], ends: Sequence[int]) -> list[tuple[object, ...]]:
    """Name each of the positions within a prompt, so that equal names mean equal text before them."""
    found: list[tuple[object, ...]] = []
    path: list[str] = []
    start = 0
    remaining = iter(ends)
    end = next(remaining, None)
    for name, tokens in prompt:
        path.append(name)
        while end is not None and end <= start + tokens:
            found.append((*path, end))
            end = next(remaining, None)
        start += tokens
    return found


def _result(jobs: Sequence[Job]) -> Result:
    served = [job for job in jobs if job.ended_s]
    ttft = sorted(job.first_s - job.arrived_s for job in served)
    total = sorted(job.ended_s - job.arrived_s for job in served)
    took_s = max((job.ended_s for job in served), default=1.0) - jobs[0].arrived_s
    tenants: dict[str, list[float]] = {}
    for job in served:
        tenants.setdefault(job.request.tenant, []).append(job.first_s - job.arrived_s)
    means = [sum(some) / len(some) for some in tenants.values()] or [1.0]
    return Result(
        ttft_p50_s=_quantile(ttft, 0.5),
        ttft_p99_s=_quantile(ttft, 0.99),
        total_p50_s=_quantile(total, 0.5),
        total_p99_s=_quantile(total, 0.99),
        requests_per_s=len(served) / took_s,
        output_tokens_per_s=sum(job.request.output_tokens for job in served) / took_s,
        prefix_hits=sum(job.cached for job in served)
        / max(1, sum(job.request.prompt_tokens for job in served)),
        fairness=sum(means) ** 2 / (len(means) * sum(mean * mean for mean in means)),
        refused=len(jobs) - len(served),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
