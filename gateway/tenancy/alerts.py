"""When a budget or a credit is half, four fifths or wholly used up. Pure.

A gauge is what one level may spend and has spent: of a budget within its period, of a credit since money was
last put in (which begins a new one, so that its thresholds count anew). A threshold is crossed once per
level, kind and period, whatever the limit does meanwhile. A budget of nothing is a closed door and warns of
nothing; a credit that ran out without being used, because it expired, is used up. So is what has too little
left for a request that was refused for it: reservations leave a rest that nobody can spend.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec

from gateway.state.limits import Bound
from gateway.state.periods import Span, spans
from gateway.tenancy.keys import Key

THRESHOLDS = (50, 80, 100)
REST_PERCENT = (
    20  # of a limit: a request that is refused while more is left was too large, the limit is not used up
)
LATE_S = 3600.0  # so long after its end a period is still looked at: rows may come late into the books

Kind = Literal["budget", "credit"]
Mark = tuple[str, Kind, str, int]  # account, kind, period, threshold: what is crossed once


class Level(msgspec.Struct, frozen=True):
    """An organisation, a project of it (``project`` named) or a key (``key_id`` too), and its limits."""

    bound: Bound
    org: str
    project: str = ""
    key_id: str = ""


class Credit(msgspec.Struct, frozen=True):
    """What a balance says: put in and used in all, the last movement that put in, and used before that."""

    transferred_nanousd: int = 0
    used_nanousd: int = 0
    opened_by: str = ""
    used_before_nanousd: int = 0


class Gauge(msgspec.Struct, frozen=True):
    """How much of which limit is used, in nano-dollars; ``refused_nanousd`` is what did not fit any more."""

    level: Level
    kind: Kind
    period: str
    limit_nanousd: int
    used_nanousd: int
    refused_nanousd: int = 0

    def mark(self, threshold: int) -> Mark:
        """Name the crossing of a threshold, in per cent."""
        return (self.level.bound.account, self.kind, self.period, threshold)


class Sums(msgspec.Struct, frozen=True):
    """What SQL knows: spent by account and span, and credits by account; and what this process refused."""

    spent: Mapping[tuple[str, Span], int]
    credits: Mapping[str, Credit]
    refused: Mapping[str, int] = {}


def levels(keys: Iterable[Key]) -> dict[str, Level]:
    """Give the levels whose money is limited, by account."""
    found: dict[str, Level] = {}
    for key in keys:
        for bound in key.bounds:
            if bound.account not in found and (bound.credit or bound.budget_nanousd):
                kind = bound.account.partition(":")[0]
                project = "" if kind == "org" else key.project
                found[bound.account] = Level(bound, key.org, project, key.id if kind == "key" else "")
    return found


def spans_to_look_at(level: Level, now_s: float) -> set[Span]:
    """Give the running period of a level's budget, and the one before while rows of it may come."""
    if not level.bound.budget_nanousd:
        return set()
    period = level.bound.budget_period
    return {spans(now_s)[period], spans(max(0.0, now_s - LATE_S))[period]}


def gauges(found: Iterable[Level], sums: Sums, now_s: float) -> list[Gauge]:
    """Give what all levels have used of what they may."""
    result = []
    for level in found:
        bound = level.bound
        refused = sums.refused.get(bound.account, 0)
        for span in spans_to_look_at(level, now_s):
            used = sums.spent.get((bound.account, span), 0)
            short = refused if now_s < span.end_s else 0
            result.append(Gauge(level, "budget", span.label, bound.budget_nanousd or 0, used, short))
        if bound.credit:
            credit = sums.credits.get(bound.account, Credit())
            limit = credit.transferred_nanousd - credit.used_before_nanousd - bound.floor_nanousd
            used = credit.used_nanousd - credit.used_before_nanousd
            if credit.opened_by or limit > 0:
                result.append(Gauge(level, "credit", credit.opened_by, limit, used, refused))
    return result


def crossed(gauge: Gauge) -> list[int]:
    """Give the thresholds, in per cent, that are reached or passed."""
    limit, used, refused = max(0, gauge.limit_nanousd), gauge.used_nanousd, gauge.refused_nanousd
    if refused and used + refused > limit and used * 100 >= (100 - REST_PERCENT) * limit:
        return list(THRESHOLDS)
    return [one for one in THRESHOLDS if used * 100 >= one * limit]


def room_nanousd(found: Iterable[Gauge]) -> float:
    """Give what all levels together may use before any of them can cross a threshold; infinity for none."""
    room = math.inf
    for gauge in found:
        limit, used = max(0, gauge.limit_nanousd), gauge.used_nanousd
        next_percent = min((one for one in THRESHOLDS if used * 100 < one * limit), default=None)
        if next_percent is not None:
            until_next = -(-next_percent * limit // 100) - used
            room = min(room, 0 if gauge.refused_nanousd else until_next)
    return room


def newly_crossed(found: Iterable[Gauge], known: Collection[Mark]) -> dict[Mark, Gauge]:
    """Give the crossings that are not known, lowest threshold first."""
    marks = {gauge.mark(threshold): gauge for gauge in found for threshold in crossed(gauge)}
    return {mark: gauge for mark, gauge in marks.items() if mark not in known}
