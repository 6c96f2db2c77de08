"""What the answers are worth: quality, cost and latency of each way, with intervals, as data and as a table.

Intervals are 95 % bootstrap ones over tasks, the same draws for every way, so that differences are paired. A
choice at random is told in expectation, from what both models said. Cost is what the client pays; a cascade's
``spent`` adds what its first tier had used in vain.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.pair.tasks import Task

Doubles = NDArray[np.float64]
DRAWS = 2000
SHARE = 0.3  # of the choice at random
_NEAR = 0.05  # a part of the rounds may have drawn another one: then its latency is not that of SHARE
KINDS = ("arithmetic", "json", "code", "facts")


def interval(values: Doubles, figure: str = "mean") -> list[float]:
    """Give a figure of values (n,), and its interval: ``mean`` or a percentile such as ``p95``."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(0, len(values), (DRAWS, len(values)))]
    if figure == "mean":
        return [float(values.mean()), *np.percentile(drawn.mean(axis=1), [2.5, 97.5]).tolist()]
    point = float(figure[1:])
    found = np.percentile(np.percentile(drawn, point, axis=1), [2.5, 97.5]).tolist()
    return [float(np.percentile(values, point)), *found]


def weighed(tasks: Sequence[Task], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Weigh what is kept: ``rows`` by way and task (right, cost_usd, latency_s, served by the large model).

    ``scores`` are the classifier's, ``logprobs`` the small model's own, by task.
    """
    ids = [one.id for one in tasks]
    values = {way: np.array([row[one] for one in ids], np.float64) for way, row in kept["rows"].items()}
    vain = np.where(values["cascade"][:, 3] > 0, values["small"][:, 1], 0.0)
    found: dict[str, Any] = {}
    for way, columns in values.items():
        right, cost, latency, large = columns.T
        if way == "random":  # in expectation, which is the same with less noise; but for the latency
            latency = latency if abs(large.mean() - SHARE) < _NEAR else np.full(len(latency), np.nan)
            large = np.full(len(large), SHARE)
            right, cost = expected(values, SHARE), expected(values, SHARE, 1)
        spent = cost + vain if way == "cascade" else cost
        found[way] = {
            "quality": interval(right),
            "by_kind": {kind: float(right[[one.kind == kind for one in tasks]].mean()) for kind in KINDS},
            "share": float(large.mean()),
            "cost_usd": interval(cost),
            "spent_usd": interval(spent),
            "latency_s": interval(latency),
            "p50_s": interval(latency, "p50"),
            "p95_s": interval(latency, "p95"),
            "over_random": interval(right - expected(values, float(large.mean()))),
        }
    scores = np.array([kept["scores"][one] for one in ids])
    doubts = -np.array([kept["logprobs"][one] for one in ids])
    gains = values["large"][:, 0] - values["small"][:, 0]
    kinds = [one.kind for one in tasks]
    return {"ways": found, "order": ordered(gains, kinds, {"score": scores, "doubt": doubts})}


def expected(values: Mapping[str, Doubles], share: float, column: int = 0) -> Doubles:
    """Give what a choice at random of this share is right in, or costs, in expectation, by task."""
    return (1.0 - share) * values["small"][:, column] + share * values["large"][:, column]


def ordered(gain: Doubles, kinds: Sequence[str], orders: Mapping[str, Doubles]) -> dict[str, list[float]]:
    """Give how much of the gain each order reaches, as the area over the share sent up; at random 0.5.

    Beside ``orders``, (n,) each: ``kind``, what knows the kinds' own gains and nothing else, and the oracle.
    """
    of = np.array(kinds)
    means = {kind: gain[of == kind].mean() for kind in set(kinds)}
    by_kind = np.array([means[kind] for kind in kinds])
    draws = np.random.default_rng(0).integers(0, len(gain), (DRAWS, len(gain)))
    found = {}
    for name, order in {**orders, "kind": by_kind, "oracle": gain}.items():
        drawn = [_area(order[draw], gain[draw]) for draw in draws]
        found[name] = [_area(order, gain), *np.percentile(drawn, [2.5, 97.5]).tolist()]
    return found


def _area(order: Doubles, gain: Doubles) -> float:
    """Ties count as if they were in any order: each has the mean of its group."""
    levels, place = np.unique(-order, return_inverse=True)
    means = np.bincount(place, gain) / np.bincount(place)
    total = gain.sum()
    if abs(total) < 1e-9 or len(levels) == 1:
        return 0.5
    curve = np.concatenate([[0.0], np.cumsum(means[np.sort(place)])]) / total
    return float((curve[1:] + curve[:-1]).mean() / 2)


# ---- the table ----

_NAMES = {
    "small": "small alone",
    "large": "large alone",
    "routed": "routed (`auto`, large_share 0.3)",
    "random": "at random, 30 %",
    "cascade": "cascade (`min_logprob` -0.8)",
}


_ORDERS = {
    "score": "by the classifier's score",
    "doubt": "by the small model's own log-probability, its answer seen",
    "kind": "by the mean gain of the kind",
    "oracle": "oracle",
}


def table(results: Mapping[str, Any]) -> str:
    """Give the table as Markdown."""
    lines = [
        "| | right | share of large | paid, USD per 1,000 | spent | latency mean, s | p50 | p95 |"
        " right over random of its share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, row in results["ways"].items():
        cells = [
            _told(row["quality"], 100, "%"),
            f"{100 * row['share']:.0f} %",
            _told(row["cost_usd"], 1000, digits=4),
            _told(row["spent_usd"], 1000, digits=4),
            _told(row["latency_s"], digits=2),
            _told(row["p50_s"], digits=2),
            _told(row["p95_s"], digits=2),
            _told(row["over_random"], 100, "points"),
        ]
        lines.append(f"| {_NAMES[way]} | " + " | ".join(cells) + " |")
    lines += ["", "| right, % | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for way, row in results["ways"].items():
        cells = [f"{100 * row['by_kind'][kind]:.0f}" for kind in KINDS]
        lines.append(f"| {_NAMES[way]} | " + " | ".join(cells) + " |")
    lines += ["", "| order of the queries | share of the gain reached, at random 0.5 |", "|---|---|"]
    lines += [f"| {_ORDERS[name]} | {_told(row, digits=3)} |" for name, row in results["order"].items()]
    return "\n".join(lines)


def _told(value: Sequence[float], factor: float = 1.0, unit: str = "", digits: int = 1) -> str:
    point, low, high = (factor * one for one in value)
    if point != point:
        return "–"
    return f"{point:.{digits}f} {unit} [{low:.{digits}f}, {high:.{digits}f}]".replace("  ", " ")
