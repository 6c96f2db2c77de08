"""Traffic for the simulator: seeded traces of several kinds, or one given as JSON lines.

A prompt is a sequence of segments, (name, tokens): two prompts share their beginning as far as they share
segments. The rate of a kind is given as a load, a share of what the fleet could do, so that a trace means the
same on fast and slow replicas.
"""

import math
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Segment = tuple[str, Annotated[int, Meta(ge=0, le=10**7)]]

MAX_PROMPT_TOKENS = 3_000
MAX_OUTPUT_TOKENS = 800


class TraceError(Exception):
    """A trace cannot be used; the text says which line and why."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request; ``answer`` names the segment that its output becomes in a later prompt."""

    at_s: Annotated[float, Meta(ge=0, le=1e9)]
    prompt: tuple[Segment, ...]
    output_tokens: Annotated[int, Meta(ge=1, le=10**7)]
    answer: str = ""
    tenant: str = ""
    band: Literal["interactive", "standard", "batch"] = "standard"

    @property
    def prompt_tokens(self) -> int:
        """The prompt's length."""
        return sum(tokens for _, tokens in self.prompt)


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of traffic. Lengths are lognormal: median and sigma.

    ``burst``: the rate in a burst, as a multiple of the mean; bursts last ``burst_s`` on average.
    ``systems``: system prompts that conversations share, 0 for none. ``turns``: requests of a conversation,
    on average.
    """

    load: float = 0.7
    prompt_tokens: float = 150.0
    prompt_sigma: float = 0.6
    output_tokens: float = 40.0
    output_sigma: float = 0.6
    burst: float = 1.0
    burst_s: float = 5.0
    systems: int = 0
    system_tokens: int = 600
    turns: float = 1.0
    think_s: float = 10.0
    tenants: int = 4


KINDS: Mapping[str, Kind] = {
    "poisson": Kind(),
    "bursty": Kind(load=0.5, burst=2.5),
    "heavy-tailed": Kind(load=0.6, prompt_tokens=90.0, prompt_sigma=1.3, output_sigma=1.2),
    "multi-turn": Kind(load=0.6, prompt_tokens=60.0, systems=6, turns=4.0),
}


def generate(kind: Kind, requests_per_s: float, count: int, seed: int) -> list[Request]:
    """Make a trace of ``count`` requests, in order of time."""
    draw = random.Random(seed)  # noqa: S311  # traffic, not secrets
    found: list[Request] = []
    for number, at_s in enumerate(_starts(kind, requests_per_s / kind.turns, draw)):
        if len(found) >= count and sum(one.at_s < at_s for one in found) >= count:
            break
        found += _conversation(kind, at_s, f"c{number}", draw)
    return sorted(found, key=lambda one: one.at_s)[:count]


def _starts(kind: Kind, rate: float, draw: random.Random) -> Iterator[float]:
    """Give the times of conversations: a Poisson process that switches between bursts and calm."""
    share = 1 / (2 * kind.burst - 1) if kind.burst > 1 else 0.0
    calm = (1 - share * kind.burst) / (1 - share)  # so that the mean rate stays
    at_s, bursting = 0.0, False
    switch_s = math.inf if kind.burst <= 1 else 0.0
    while True:
        step_s = draw.expovariate(rate * (kind.burst if bursting else calm))
        if at_s + step_s < switch_s:
            at_s += step_s
            yield at_s
            continue
        at_s, bursting = switch_s, not bursting
        mean_s = kind.burst_s if bursting else kind.burst_s * (1 - share) / share
        switch_s = at_s + draw.expovariate(1 / mean_s)


def _conversation(kind: Kind, at_s: float, name: str, draw: random.Random) -> Iterator[Request]:
    tenant = f"t{min(int(draw.expovariate(1.0)), kind.tenants - 1)}"
    prompt: list[Segment] = []
    if kind.systems:
        system = draw.randrange(kind.systems)
        prompt.append((f"s{system}", round(kind.system_tokens * (0.5 + system / kind.systems))))
        tenant = f"t{system % kind.tenants}"
    turn = 0
    while True:
        prompt.append((f"{name}q{turn}", _length(kind.prompt_tokens, kind.prompt_sigma, draw)))
        output = min(_length(kind.output_tokens, kind.output_sigma, draw), MAX_OUTPUT_TOKENS)
        if sum(tokens for _, tokens in prompt) > MAX_PROMPT_TOKENS:
            prompt = [(f"{name}q{turn}", MAX_PROMPT_TOKENS)]
        yield Request(at_s, tuple(prompt), output, f"{name}a{turn}", tenant)
        if draw.random() >= 1 - 1 / kind.turns:
            return
        prompt.append((f"{name}a{turn}", output))
        at_s += draw.expovariate(1 / kind.think_s)
        turn += 1


def _length(median: float, sigma: float, draw: random.Random) -> int:
    return max(1, round(median * math.exp(draw.gauss(0.0, sigma))))


def parse(data: bytes) -> list[Request]:
    """Read a trace, JSON lines of ``Request``; gives it in order of time. Raises TraceError."""
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Request))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TraceError(f"line {number}: {error}") from None
    if not found:
        raise TraceError("there are no requests; write one JSON object a line")
    return sorted(found, key=lambda one: one.at_s)
