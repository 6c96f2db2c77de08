"""Shadow traffic: a share of a route's requests is also asked of the other tier, later, and judged.

The answers of both tiers are compared: by their agreement, or by a judge model where the route names one. The
larger tier's answer is the reference. Shadows run one at a time in the batch band, at most _MOST wait, their
cost is counted and capped per route and day. The client neither waits nor pays, and no text is kept.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from gateway.bands import BANDS
from gateway.batching import Batching
from gateway.catalogue import Model, Target
from gateway.choosing import Reading, lacks, text_of
from gateway.learning import Learning, label_of
from gateway.openai import answers
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Form
from gateway.openai.schemas import Inference
from gateway.settings import Shadow
from gateway.telemetry import Telemetry
from gateway.tenancy.keys import Key
from gateway.tenancy.pricing import NANO
from gateway.trip import Call
from routing.decision import Query

TIMEOUT_S = 120.0
DAY_S = 86400.0
_MOST = 64
_MOST_CHARS = 8_000  # of a question or an answer, for the judge
_WORDS = re.compile(r"\w+")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_VERDICT = re.compile(r"[01](?:\.\d+)?")
_encode = msgspec.json.Encoder().encode

AnyReceiver = StreamReceiver | WholeReceiver
Make = Callable[[Model], tuple[Call, AnyReceiver]]


class Job(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request to be asked again: what was answered, by which tier, and what asks another model."""

    target: Target
    tenant: str
    reading: Reading
    question: str
    served: str
    large_served: bool
    make: Make
    usd_of: Callable[[Model, AnyReceiver], float]


class Shadows:
    """One for the process; ``draw`` gives chance in [0, 1), ``wall`` seconds since the epoch."""

    def __init__(
        self,
        attempts: Batching,
        learning: Learning,
        telemetry: Telemetry,
        draw: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._attempts = attempts
        self._learning = learning
        self._telemetry = telemetry
        self._draw, self._wall = draw, wall
        self._jobs: deque[Job] = deque(maxlen=_MOST)
        self._spent_usd: defaultdict[tuple[str, int], float] = defaultdict(float)
        self.models: Mapping[str, Model] = {}
        self.processes: Callable[[], int] = lambda: 1
        """How many have a part each of what a day may cost."""

    def wanted(self, target: Target, key: Key) -> bool:
        """Tell whether the next answer of a route is to be asked again: never of what the key may not use."""
        shadow = target.settings.shadow if target.settings is not None else None
        if shadow is None or not _may(key, target, shadow) or self._draw() >= shadow.share:
            return False
        if self._spent_usd[target.route, self._day()] >= shadow.max_usd_per_day / self.processes():
            self._telemetry.count("switchgear_shadow_total", (target.route, "capped"))
            return False
        return True

    def offer(self, job: Job) -> None:
        """Take a request to be asked again; the oldest goes where too many wait."""
        if len(self._jobs) == _MOST:
            self._telemetry.count("switchgear_shadow_total", (self._jobs[0].target.route, "dropped"))
        self._jobs.append(job)

    def due(self) -> bool:
        """Whether any wait."""
        return bool(self._jobs)

    async def step(self) -> None:
        """Run the shadows that wait. Raises what the model's failure raised; that shadow is gone."""
        while self._jobs:
            job = self._jobs.popleft()
            try:
                await self._run(job)
            except Exception:
                self._telemetry.count("switchgear_shadow_total", (job.target.route, "failed"))
                raise

    async def _run(self, job: Job) -> None:
        target, settings = job.target, job.target.settings
        assert settings is not None
        assert settings.shadow is not None
        other = target.models[0] if job.large_served else target.models[-1]
        call, receiver = job.make(other)
        await self._ask(call, receiver)
        self._spent(target, job.usd_of(other, receiver))
        said = said_by(receiver)
        small, large = (said, job.served) if job.large_served else (job.served, said)
        value = await self._judged(job, settings.shadow, small, large)
        self._telemetry.count("switchgear_shadow_total", (target.route, "judged"))
        label = label_of(
            job.reading,
            ts=self._wall(),
            route=target.route,
            tenant=job.tenant,
            source="shadow",
            large_served=job.large_served,
        )
        self._learning.note(msgspec.structs.replace(label, small=value, large=1.0))

    async def _judged(self, job: Job, shadow: Shadow, small: str, large: str) -> float:
        """Give how good the small tier's answer is beside the large one's, in [0, 1]."""
        judge = self.models.get(shadow.judge) if shadow.judge is not None else None
        if judge is None:
            return agreement(small, large)
        call, receiver = _question_to(judge, job, small, large)
        await self._ask(call, receiver)
        self._spent(job.target, job.usd_of(judge, receiver))
        found = _VERDICT.search(said_by(receiver))
        return min(1.0, float(found[0])) if found else agreement(small, large)

    async def _ask(self, call: Call, receiver: AnyReceiver) -> None:
        now_s = self._attempts.now()
        call.band, call.deadline_s = BANDS["batch"], now_s + TIMEOUT_S

        async def keep(piece: bytes) -> bool:
            receiver.keep(piece)
            return True

        await self._attempts.run(call, keep)

    def _spent(self, target: Target, usd: float) -> None:
        day = self._day()
        for key in [one for one in self._spent_usd if one[1] != day]:
            del self._spent_usd[key]
        self._spent_usd[target.route, day] += usd
        self._telemetry.count("switchgear_shadow_nanousd_total", (target.route,), usd * NANO)

    def _day(self) -> int:
        return int(self._wall() // DAY_S)


def _may(key: Key, target: Target, shadow: Shadow) -> bool:
    """Tell whether a key may use both ends of a route and, where it names tiers, the judge."""
    if len(target.allowed((target.models[0], target.models[-1]), key)) < 2:
        return False
    names = key.models
    return shadow.judge is None or names is None or names.isdisjoint(target.names) or shadow.judge in names


def said_by(receiver: Form) -> str:
    """Give the words of a whole answer that was kept; nothing where it was not."""
    kept = b"".join(receiver.kept or ())
    if not kept:
        return ""
    return answers.text_of(answers.from_stream(kept) if isinstance(receiver, StreamReceiver) else kept)


def job_of(
    target: Target, tenant: str, reading: Reading, request: Inference, receiver: Form, served: Model
) -> "partial[Job] | None":
    """Give a job but for how to ask again; None where the answers could not be compared, or not be had."""
    text, large_served = said_by(receiver), served is target.models[-1]
    if lacks([target.models[0] if large_served else target.models[-1]], request)[0]:
        return None
    if not text or served not in (target.models[0], target.models[-1]) or request.choices != 1:
        return None
    return partial(
        Job, target=target, tenant=tenant, reading=reading, question=text_of(request)[:_MOST_CHARS],
        served=text[:_MOST_CHARS], large_served=large_served,
    )  # fmt: skip


def agreement(one: str, other: str) -> float:
    """Give how far two answers say the same, in [0, 1]: the last number where both have one, else words."""
    if one.strip() == other.strip():
        return 1.0
    numbers = [_NUMBER.findall(text) for text in (one, other)]
    if numbers[0] and numbers[1]:
        ends = [float(found[-1].replace(",", "")) for found in numbers]
        return 1.0 if ends[0] == ends[1] else 0.0
    words = [Counter(_WORDS.findall(text.lower())) for text in (one, other)]
    shared = sum((words[0] & words[1]).values())
    total = sum(words[0].values()) + sum(words[1].values())
    return 2 * shared / total if total else 0.0


def _question_to(judge: Model, job: Job, small: str, large: str) -> tuple[Call, AnyReceiver]:
    asked = (
        "Judge an answer. Reply with one number from 0 (useless) to 1 (as good as the reference), nothing"
        f" else.\n\n<question>\n{job.question}\n</question>\n"
        f"<reference>\n{large[:_MOST_CHARS]}\n</reference>\n<answer>\n{small[:_MOST_CHARS]}\n</answer>"
    )
    body = {
        "model": judge.settings.upstream_name,
        "messages": [{"role": "user", "content": asked}],
        "temperature": 0,
        "max_tokens": 8,
    }
    receiver = WholeReceiver(judge.name, limit_bytes=1024 * 1024)
    settings = judge.settings
    tokens = len(asked) // 4
    query = Query(model=judge.name, tenant=job.tenant, prompt_tokens=tokens, output_tokens=8)
    return Call(
        model=judge.name,
        path="/chat/completions",
        body=_encode(body),
        headers=[],
        receiver=receiver,
        query=query,
        band=BANDS["batch"],
        deadline_s=0.0,
        first_byte_s=settings.first_byte_timeout_s,
        idle_s=settings.stall_timeout_s,
        max_attempts=settings.max_attempts,
    ), receiver
