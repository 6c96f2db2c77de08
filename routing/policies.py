"""How one replica is picked among those with room: one pure function each, listed in POLICIES.

Every function gets a non-empty sequence, in the config's order, and gives one of its items.
"""

from collections.abc import Mapping, Sequence

from routing.decision import Candidate, Policy, Query


def round_robin(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Take turns."""
    return candidates[query.sequence % len(candidates)]


def least_requests(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Fewest running requests for its weight; equals take turns."""
    start = query.sequence % len(candidates)
    turned = [*candidates[start:], *candidates[:start]]
    return min(turned, key=lambda one: one.running / one.weight)


def least_tokens(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """Fewest tokens under way for its weight; equals take turns."""
    start = query.sequence % len(candidates)
    turned = [*candidates[start:], *candidates[:start]]
    return min(turned, key=lambda one: one.running_tokens / one.weight)


def power_of_two(query: Query, candidates: Sequence[Candidate]) -> Candidate:
    """The less loaded of two that are drawn (Mitzenmacher 2001)."""
    count = len(candidates)
    if count == 1:
        return candidates[0]
    pair = int(query.draw * count * (count - 1))
    first, other = divmod(pair, count - 1)
    second = other if other < first else other + 1
    return min(candidates[first], candidates[second], key=lambda one: one.running / one.weight)


POLICIES: Mapping[str, Policy] = {
    "adaptive": least_tokens,
    "round_robin": round_robin,
    "least_requests": least_requests,
    "least_tokens": least_tokens,
    "power_of_two": power_of_two,
}
