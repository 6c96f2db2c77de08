"""APGR with bootstrap intervals: the validation table, and leaving a dataset, a family or subjects out.

Also what labels add where a head never saw what they are about.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routing.feedback import Feedback
from routing.training.data import FAMILIES, Queries

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]
Fit = Callable[[Mask], Doubles]  # rows to learn from -> the scores of all rows

LEAST_GAIN = 0.02  # mean gain below which a share of the gain means nothing
_SUBJECT_FOLDS = 6
MOST_LABELS = 500
_SPLITS = 12


class Measured(NamedTuple):
    """A score's worth on some rows."""

    rows: int
    small: float  # mean quality of each model
    large: float
    apgr: float
    low: float  # the ends of its 95 % bootstrap interval
    high: float
    cpt50: float  # the least share of large calls that reaches half of the gain, 80 %, and 95 %
    cpt80: float
    cpt95: float
    pgr25: float  # the share of the gain reached with a quarter of the calls, and half
    pgr50: float
    oracle: float

    def __str__(self) -> str:
        quality = f"{self.rows:6d} {self.small:6.3f} {self.large:6.3f}" if self.rows else " " * 20
        return (
            f"{quality} {self.apgr:6.3f} [{self.low:.3f}, {self.high:.3f}]"
            f" {self.cpt50:6.1%} {self.cpt80:6.1%} {self.cpt95:6.1%}"
            f" {self.pgr25:6.3f} {self.pgr50:6.3f} {self.oracle:6.3f}"
        )


HEADINGS = f"{'rows':>6s} {'small':>6s} {'large':>6s} {'APGR':>6s} {'95 % interval':16s}" + "".join(
    f" {name:>6s}" for name in ("CPT50", "CPT80", "CPT95", "PGR@25", "PGR@50", "oracle")
)


def reached(scores: Doubles, gain: Doubles) -> Doubles:
    """Give the share of the gain reached by the k highest-scored queries, (n + 1,); ties as their mean."""
    _, place = np.unique(-scores, return_inverse=True)
    levels = np.bincount(place, gain) / np.bincount(place)
    total = np.concatenate([[0.0], np.cumsum(levels[np.sort(place)])])
    return np.asarray(total / total[-1])


def apgr(scores: Doubles, gain: Doubles) -> float:
    """Give the area under the share of the gain reached, over the share sent to the large model."""
    curve = reached(scores, gain)
    return float((curve[1:] + curve[:-1]).sum() / 2 / len(gain))


def samples(scores: Doubles, gain: Doubles, draws: int = 300) -> Doubles:
    """Give bootstrap APGRs, (draws,); draws whose total gain is about none repeat the whole's value."""
    rng = np.random.default_rng(0)
    whole = apgr(scores, gain)
    values = np.full(draws, whole)
    for number in range(draws):
        chosen = rng.integers(0, len(gain), len(gain))
        if gain[chosen].mean() > 1e-3:
            values[number] = apgr(scores[chosen], gain[chosen])
    return values


def measure(scores: Doubles, small: Doubles, large: Doubles) -> tuple[Measured, Doubles]:
    """Give what `scores` are worth on rows with these outcomes, and the bootstrap's APGRs."""
    gain = large - small
    curve, drawn = reached(scores, gain), samples(scores, gain)
    costs = (int((curve >= share - 1e-12).argmax()) / len(gain) for share in (0.5, 0.8, 0.95))
    shares = (float(curve[len(gain) // part]) for part in (4, 2))
    low, high = np.percentile(drawn, [2.5, 97.5])
    row = (apgr(scores, gain), float(low), float(high), *costs, *shares, apgr(gain, gain))
    return Measured(len(gain), float(small.mean()), float(large.mean()), *row), drawn


def table(parts: Mapping[str, Mask], scores: Mapping[str, Doubles], queries: Queries) -> dict[str, Measured]:
    """Give each part's rows measured with the scores of its name, and `macro`, their plain mean."""
    found = {
        name: measure(scores[name][rows], queries.small[rows], queries.large[rows])
        for name, rows in parts.items()
        if queries.gain[rows].mean() > LEAST_GAIN
    }
    rows = {name: measured for name, (measured, _) in found.items()}
    drawn = np.mean([samples for _, samples in found.values()], axis=0)
    means = np.mean([measured[3:] for measured in rows.values()], axis=0).tolist()
    low, high = np.percentile(drawn, [2.5, 97.5])
    rows["macro"] = Measured(0, 0.0, 0.0, means[0], float(low), float(high), *means[3:])
    return rows


def validation(scores: Doubles, queries: Queries) -> dict[str, Measured]:
    """Give the validation rows by group, their macro mean, and `pooled`: one threshold over all."""
    parts = {name: queries.validation & (queries.groups == name) for name in sorted(set(queries.groups))}
    rows = table(parts, dict.fromkeys(parts, scores), queries)
    pooled = queries.validation
    return rows | {"pooled": measure(scores[pooled], queries.small[pooled], queries.large[pooled])[0]}


def left_out(fit: Fit, left: Mapping[str, Mask], queries: Queries) -> dict[str, Doubles]:
    """Give for each part in `left` the scores of a head fitted on the other parts' training rows."""
    return {name: fit(queries.learnable() & ~rows) for name, rows in left.items()}


def leave_one_out(
    scores: Mapping[str, Doubles], left: Mapping[str, Mask], queries: Queries
) -> dict[str, Measured]:
    """Give all rows of each part in `left`, measured with the scores of its name."""
    rows = table(left, scores, queries)
    total = np.logical_or.reduce(list(left.values()))
    merged = np.zeros(len(total))
    for name, part in left.items():
        merged[part] = scores[name][part]
    return rows | {"pooled": measure(merged[total], queries.small[total], queries.large[total])[0]}


class Lifted(NamedTuple):
    """The APGR on the rows that have no label, without and with what labels taught; means over splits."""

    labels: int
    shipped: float
    taught: float
    spread: float  # of the difference, between splits
    better: int  # splits where the labels helped

    def __str__(self) -> str:
        return (
            f"{self.labels:6d} {self.shipped:8.3f} {self.taught:8.3f}"
            f" {self.taught - self.shipped:+8.3f} {self.spread:8.3f} {self.better:5d} of {_SPLITS}"
        )


LIFTED_HEADINGS = "".join(
    f"{name:>{width}s}"
    for name, width in (
        ("labels", 6),
        ("shipped", 9),
        ("taught", 9),
        ("lift", 9),
        ("spread", 9),
        ("better", 12),
    )
)


def with_labels(
    scores: Mapping[str, Doubles], left: Mapping[str, Mask], columns: NDArray[np.float32], queries: Queries
) -> dict[str, Lifted]:
    """Give what labels add for each part in `left` to the scores of its name, and `macro`, the plain mean.

    Labels are those of half of a part's rows, MOST_LABELS at most; measured is the rest.
    """
    found = {}
    for name, rows in left.items():
        if queries.gain[rows].mean() > LEAST_GAIN:
            ranks = scores[name].argsort().argsort() / len(rows)
            found[name] = _splits(columns[rows], ranks[rows], queries.gain[rows])
    rows_of = {name: min(MOST_LABELS, int(left[name].sum()) // 2) for name in found}
    lifted = {name: _lifted(rows_of[name], apgrs) for name, apgrs in found.items()}
    return lifted | {"macro": _lifted(0, np.mean(list(found.values()), axis=0))}


def _splits(columns: NDArray[np.float32], scores: Doubles, gain: Doubles) -> Doubles:
    """Give the APGRs without and with labels, (splits, 2)."""
    count, found = min(MOST_LABELS, len(gain) // 2), []
    for split in range(_SPLITS):
        order = np.random.default_rng(split).permutation(len(gain))
        told, rest = order[:count], order[count:]
        taught = Feedback(columns[told], scores[told], gain[told]).score(columns[rest], scores[rest])
        found.append((apgr(scores[rest], gain[rest]), apgr(taught, gain[rest])))
    return np.array(found)


def _lifted(labels: int, apgrs: Doubles) -> Lifted:
    lift = apgrs[:, 1] - apgrs[:, 0]
    shipped, taught = apgrs.mean(axis=0).tolist()
    return Lifted(labels, shipped, taught, float(lift.std(ddof=1)), int((lift > 0).sum()))


def datasets(queries: Queries) -> dict[str, Mask]:
    """Give the rows of each dataset."""
    return {name: queries.datasets == name for name in sorted(set(queries.datasets))}


def families(queries: Queries) -> dict[str, Mask]:
    """Give the rows of each family of datasets that ask alike."""
    return {name: np.isin(queries.datasets, members) for name, members in FAMILIES.items()}


def subjects(queries: Queries) -> dict[str, Mask]:
    """Give the rows of six parts of MMLU's subjects; outcomes of the other subjects are learned from."""
    names = sorted(unit for unit in set(queries.units) if unit.startswith("mmlu "))
    order = np.random.default_rng(3).permutation(len(names)) % _SUBJECT_FOLDS
    return {
        f"subjects {fold + 1}": np.isin(
            queries.units, [n for n, o in zip(names, order, strict=True) if o == fold]
        )
        for fold in range(_SUBJECT_FOLDS)
    }
