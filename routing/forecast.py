"""What an objective would give on some queries: share, quality and cost, and the curve it is a point of.

Pure. With both outcomes of each query known, the curve is theirs, beside a random choice and the oracle's;
else it is the one of the validation rows, and the oracle is not known.
"""

from collections.abc import Sequence
from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.complexity import quality_curve, share_for_quality
from routing.objectives import mean_cost, share_for_cost

Doubles = NDArray[np.float64]
STEPS = 20  # of the share, from 0 to 1
_DRAWS = 200


class Point(msgspec.Struct, frozen=True):
    """Quality (of the largest tier's, 1 = as good) at a share of it: by score, at random, by the oracle."""

    share: float
    quality: float
    random: float
    oracle: float | None
    cost_usd: float | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """``labelled``: from the outcomes of these queries; ``ci`` is the quality's 95 % interval."""

    queries: int
    labelled: bool
    share: float
    quality: float
    ci: tuple[float, float]
    cost_usd: float | None
    curve: list[Point]


class Known(msgspec.Struct, frozen=True):
    """The quality by share (even steps from 0 to 1) where no outcomes are known, and half its interval."""

    quality_by_share: Sequence[float]
    spread: float


def forecast(
    aim: tuple[str, float],
    scores: Doubles,
    outcomes: tuple[Doubles, Doubles] | None,
    known: Known,
    costs_usd: Sequence[float] | None,
) -> Forecast:
    """Give what an objective, by name and value, would do with queries of these scores (n,), n > 0.

    ``outcomes`` are the small and the large model's, ``costs_usd`` what a request of each tier costs. Raises
    ValueError for a cost without ``costs_usd``.
    """
    if outcomes is None:
        reached = np.asarray(known.quality_by_share, np.float64)
        oracle = None
    else:
        reached = quality_curve(scores, *outcomes)
        oracle = quality_curve(outcomes[1] - outcomes[0], *outcomes)
    share = _share(aim, scores, reached, costs_usd)
    quality = float(_at(reached, share))
    low, high = (quality - known.spread, quality + known.spread)
    if outcomes is not None:
        low, high = _interval(share, scores, outcomes)

    def point(part: float) -> Point:
        return Point(
            share=round(part, 4),
            quality=round(float(_at(reached, part)), 4),
            random=round(float(reached[0] + (reached[-1] - reached[0]) * part), 4),
            oracle=None if oracle is None else round(float(_at(oracle, part)), 4),
            cost_usd=None if costs_usd is None else mean_cost(part, costs_usd),
        )

    return Forecast(
        queries=len(scores),
        labelled=outcomes is not None,
        share=round(share, 4),
        quality=round(quality, 4),
        ci=(round(low, 4), round(high, 4)),
        cost_usd=None if costs_usd is None else mean_cost(share, costs_usd),
        curve=[point(step / STEPS) for step in range(STEPS + 1)],
    )


def spread_of(labels: int) -> float:
    """Give half the 95 % interval of a mean of so many outcomes in [0, 1], at its widest."""
    return min(1.0, 0.98 / sqrt(max(1, labels)))


def _share(
    aim: tuple[str, float], scores: Doubles, reached: Doubles, costs_usd: Sequence[float] | None
) -> float:
    name, value = aim
    if name == "quality":
        return share_for_quality(reached.tolist(), value - 1e-12)  # as a live route reads its curve
    if name == "threshold":
        return float((scores >= value).mean())
    if name == "cost_per_request_usd":
        if costs_usd is None:
            raise ValueError("a cost needs the prices of the tiers")
        return share_for_cost(value, costs_usd)
    return value


def _at(curve: Doubles, share: float) -> np.float64:
    value: np.float64 = np.interp(share, np.linspace(0, 1, len(curve)), curve)
    return value


def _interval(share: float, scores: Doubles, outcomes: tuple[Doubles, Doubles]) -> tuple[float, float]:
    """Give the quality's 95 % bootstrap interval at a share."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_DRAWS):
        drawn = rng.integers(0, len(scores), len(scores))
        found.append(_at(quality_curve(scores[drawn], outcomes[0][drawn], outcomes[1][drawn]), share))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


# ---- the picture ----

_WIDE, _HIGH, _EDGE = 640, 400, 56
_LINES = (("quality", "#1c6dd0", ""), ("random", "#888888", "6 4"), ("oracle", "#2b8a3e", "2 3"))


def picture(found: Forecast) -> str:
    """Draw the curve as SVG: quality over the share of the largest tier, and where the objective lies."""
    values = [
        value for one in found.curve for value in (one.quality, one.random, one.oracle) if value is not None
    ]
    low, high = min(values) - 0.02, max(values) + 0.02

    def x(share: float) -> float:
        return _EDGE + share * (_WIDE - 2 * _EDGE)

    def y(quality: float) -> float:
        return _HIGH - _EDGE - (quality - low) / (high - low) * (_HIGH - 2 * _EDGE)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" role="img"'
        ' font-family="sans-serif" font-size="12"><title>Quality by share of the largest tier</title>'
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="white"/>'
    ]
    for step in range(6):
        quality = low + (high - low) * step / 5
        parts.append(
            f'<path d="M{_EDGE} {y(quality):.1f}H{_WIDE - _EDGE}" stroke="#dddddd"/>'
            f'<text x="{_EDGE - 6}" y="{y(quality) + 4:.1f}" text-anchor="end">{quality:.2f}</text>'
            f'<text x="{x(step / 5):.1f}" y="{_HIGH - _EDGE + 18}" text-anchor="middle">{step * 20} %</text>'
        )
    for number, (name, colour, dashes) in enumerate(_LINES):
        drawn = [(one.share, getattr(one, name)) for one in found.curve]
        if drawn[0][1] is None:
            continue
        path = " ".join(f"{x(share):.1f},{y(quality):.1f}" for share, quality in drawn)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"'
            f' stroke-dasharray="{dashes}"/>'
            f'<text x="{_EDGE + 10}" y="{_EDGE - 30 + 15 * number}" fill="{colour}">{name}</text>'
        )
    parts.append(
        f'<circle cx="{x(found.share):.1f}" cy="{y(found.quality):.1f}" r="5" fill="#d9480f"/>'
        f'<text x="{_WIDE / 2}" y="{_HIGH - 10}" text-anchor="middle">share of the largest tier</text></svg>'
    )
    return "".join(parts)
