"""How one replica is picked among those with room: one pure function each, listed in POLICIES.

Every function gets a non-empty sequence, in the config's order, and gives one of its items. ``weight`` is a
replica's share where replicas are of unequal power; every policy but ``round_robin`` heeds it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from routing.decision import Candidate, Policy, Query

OVERLOAD = 1.25
"""How much over its share a replica may get for affinity's sake (Mirrokni, Thorup, Zadimoghaddam 2018)."""
PACE_MEMORY_S = 20.0
"""An observed pace counts less and less, so that a replica that was slow once is tried again."""
PACE_NOISE = 0.3
"""Replicas whose paces differ by less than this share are equally fast: so much is chance."""
KV_FULL = 0.9
"""Above this share of the KV cache in use an engine soon queues or preempts."""
STREAM_TOKENS = 8
"""What a running stream delays a newcomer by, in tokens of prefill."""
IDLE_TOKENS = 256
"""The prompt length that an idle replica counts as having."""


def round_robin(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Take turns."""
    return candidates[query.sequence % len(candidates)]


def least_requests(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Fewest running requests for its weight; equals take turns."""
    return _least(query, candidates, lambda one: one.running / one.weight)


def least_tokens(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Fewest tokens under way for its weight; equals take turns."""
    return _least(query, candidates, lambda one: one.running_tokens / one.weight)


def power_of_two(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """The less loaded of two that are drawn (Mitzenmacher 2001)."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    pair = int(query.draw * count * (count - 1))
    first, other = divmod(pair, count - 1)
    second = other if other < first else other + 1
    return min(candidates[first], candidates[second], key=lambda one: one.running / one.weight)


def peak_ewma(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Least latency times load; latency remembers its peaks (Twitter's Finagle). Unknown ones go first."""
    return _least(query, candidates, lambda one: one.latency_s * (one.running + 1) / one.weight)


def prefix_affine(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Most of the prompt warm; a cold prompt goes to its home by consistent hashing; loads are bounded.

    The home follows from the prompt's first mark and the replicas' names alone, so that several gateways, and
    a gateway after a restart, agree on it (rendezvous hashing).
    """
    near = _bounded(candidates)
    warm = max(one.cached_tokens for one in near)
    if warm:
        return least_requests(query, [one for one in near if one.cached_tokens == warm])
    if not query.prefix:
        return least_requests(query, near)
    return max(near, key=lambda one: _affinity(query.prefix[0], one))


def similar_length(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """The replica whose prompts are about as long, on a logarithmic scale; loads are bounded."""

    def distance(one: Candidate) -> float:
        mean = one.running_tokens / one.running if one.running else IDLE_TOKENS
        return abs(math.log((query.prompt_tokens + 1) / (mean + 1)))

    return _least(query, _bounded(candidates), distance)


def adaptive(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """The earliest first token, as far as can be told.

    Work before it (prompts ahead that are not answered yet, the own one as far as it is not warm, streams
    that share the steps) times the replica's observed pace, more where its KV cache is nearly full.
    """
    paces = _paces(candidates)
    start = query.sequence % len(candidates)
    best, least_s = start, math.inf
    for index in (*range(start, len(candidates)), *range(start)):
        one = candidates[index]
        own = query.prompt_tokens - one.cached_tokens
        work = one.ahead_tokens + max(0, own) + STREAM_TOKENS * (one.running + one.outside + 1)
        expected_s = work * paces[index] / one.weight
        if one.kv_usage > KV_FULL:
            expected_s *= 1 + (one.kv_usage - KV_FULL) / (1 - KV_FULL)
        if expected_s < least_s:
            best, least_s = index, expected_s
    return candidates[best]


def weighted(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """The version that is wanted, else one drawn by its replicas' weights; within it ``adaptive``."""
    if query.version and (wanted := [one for one in candidates if one.version == query.version]):
        return adaptive(query, wanted)
    aim = query.draw * sum(one.weight for one in candidates)
    for drawn in candidates:
        aim -= drawn.weight
        if aim < 0:
            break
    return adaptive(query, [one for one in candidates if one.version == drawn.version])


class Strategy(msgspec.Struct, frozen=True):
    """A policy, and whether it reads the marks of the prompt's prefix, which cost a few microseconds."""

    pick: Policy
    reads_prefix: bool = False


POLICIES: Mapping[str, Strategy] = {
    "adaptive": Strategy(adaptive, reads_prefix=True),
    "round_robin": Strategy(round_robin),
    "least_requests": Strategy(least_requests),
    "least_tokens": Strategy(least_tokens),
    "power_of_two": Strategy(power_of_two),
    "peak_ewma": Strategy(peak_ewma),
    "prefix_affine": Strategy(prefix_affine, reads_prefix=True),
    "similar_length": Strategy(similar_length),
    "weighted": Strategy(weighted, reads_prefix=True),
}


def _paces(candidates: Sequence[Candidate]) -> list[float]:
    """Give seconds per token of work: what was observed, drawn to the usual pace as it grows old."""
    trusts = [math.exp(-one.pace_age_s / PACE_MEMORY_S) if one.pace_s else 0.0 for one in candidates]
    known = sum(trusts)
    if not known:
        return [1.0] * len(candidates)
    usual_s = sum([trust * one.pace_s for trust, one in zip(trusts, candidates, strict=True)]) / known
    noise_s = PACE_NOISE * usual_s
    return [
        usual_s if abs(over_s := one.pace_s - usual_s) < noise_s else usual_s + trust * over_s
        for trust, one in zip(trusts, candidates, strict=True)
    ]


def _least(query: Query, candidates: Sequence[Candidate], measure: Callable[[Candidate], float]) -> Candidate:
    """Give the one with the least measure; equals take turns."""
    start = query.sequence % len(candidates)
    return min([*candidates[start:], *candidates[:start]], key=measure)


def _bounded(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Leave out who would be loaded beyond ``OVERLOAD`` times its share of all requests; never everyone."""
    total = sum(one.running for one in candidates) + 1
    power = sum(one.weight for one in candidates)
    bound = OVERLOAD * total / power
    return [one for one in candidates if one.running < math.ceil(bound * one.weight)] or candidates


def _affinity(mark: bytes, one: Candidate) -> float:
    """Score a replica for a mark; the highest of all is its home (weighted rendezvous hashing)."""
    digest = blake2b(one.id.encode(), digest_size=7, key=mark).digest()
    unit = (int.from_bytes(digest) + 0.5) / 2**56
    return -one.weight / math.log(unit)
