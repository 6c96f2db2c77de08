"""The outcomes that the head learns from: one row per query, from the dev set described in its README."""

import gzip
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routing.explaining import Example

# Not for shipped weights: the data's licence is CC BY-NC. It is scored, never learned from.
EXCLUDED = frozenset({"alpaca_eval"})

# For leave-one-family-out: what is left out together.
FAMILIES = {
    "mmlu": ("mmlu", "ulab_mmlu"),
    "gsm+math": ("ulab_gsm8k", "ulab_math"),
    "arc": ("ulab_arc_challenge",),
    "csqa": ("ulab_commonsense_qa",),
    "mbpp": ("ulab_mbpp",),
    "openbook": ("ulab_openbook_qa",),
    "crux": ("zeroeval_crux",),
    "alpaca": ("alpaca_eval",),
}


class Queries(NamedTuple):
    """Queries with their outcomes under the primary pair; all arrays (n,)."""

    ids: list[str]
    prompts: list[str]
    datasets: NDArray[np.str_]
    units: NDArray[np.str_]  # the dataset; in MMLU, with its 45 subjects, dataset and subject
    small: NDArray[np.float64]
    large: NDArray[np.float64]
    target: NDArray[np.float64]  # what learners fit: see targets()
    difficulty: NDArray[np.float64]  # 1 - the mean score of all models that answered
    pairs: NDArray[np.float64]  # (n, 2) as small and large, the mean over pairs of models: see pairs()
    validation: NDArray[np.bool_]

    @property
    def gain(self) -> NDArray[np.float64]:
        """The score of the large model minus that of the small one, in [-1, 1]."""
        return self.large - self.small

    @property
    def groups(self) -> NDArray[np.str_]:
        """The rows of the score table: the small tasks of one source count as one."""
        return np.array([name.split("_")[0] if name.startswith("ulab") else name for name in self.datasets])

    def learnable(self) -> NDArray[np.bool_]:
        """Tell which rows shipped weights may learn from."""
        return ~self.validation & self.sound()

    def sound(self) -> NDArray[np.bool_]:
        """Tell which rows may be learned from at all: a free licence, and graded right.

        A subject that the large model fails nearly always, and the small one does not, was graded wrong.
        """
        wrong = [
            unit
            for unit in set(self.units)
            if self.large[self.units == unit].mean() < min(0.1, self.small[self.units == unit].mean())
        ]
        return ~np.isin(self.datasets, list(EXCLUDED)) & ~np.isin(self.units, wrong)


def read(folder: Path) -> Queries:
    """Read train and val of `folder`, primary pairs only, without contaminated rows."""
    rows = [row for split in ("train", "val") for row in lines(folder / f"{split}.jsonl.gz")]
    rows = [row for row in rows if row["primary_pair"] and not row["contaminated"]]
    datasets = np.array([row["dataset"] for row in rows])
    small = np.array([row["weak_score"] for row in rows], np.float64)
    large = np.array([row["strong_score"] for row in rows], np.float64)
    outcomes = {row["id"]: row["scores"] for row in lines(folder / "outcomes.jsonl.gz")}
    ids = [row["id"] for row in rows]
    return Queries(
        ids=ids,
        prompts=[row["prompt"] for row in rows],
        datasets=datasets,
        units=np.array(
            [
                f"{row['dataset']} {row['category']}" if row["dataset"] == "mmlu" else row["dataset"]
                for row in rows
            ]
        ),
        small=small,
        large=large,
        target=targets(ids, datasets, large - small, outcomes),
        difficulty=np.array(
            [
                1 - (fmean(outcomes[name].values()) if name in outcomes else (low + high) / 2)
                for name, low, high in zip(ids, small, large, strict=True)
            ]
        ),
        pairs=pairs(ids, datasets, np.stack([small, large], axis=1), outcomes),
        validation=np.array([row["split"] == "val" for row in rows]),
    )


def targets(
    ids: Sequence[str],
    datasets: NDArray[np.str_],
    gain: NDArray[np.float64],
    outcomes: Mapping[str, Mapping[str, float]],
) -> NDArray[np.float64]:
    """Give the gain of a typical larger model over a typical smaller one, (n,), where many models answered.

    One pair's outcome of one query is mostly noise, and a small model that fails on all of a dataset tells
    only what the large one can do. So: the mean of the best quarter of the models minus that of the lower
    half, without those under 0.1, about the dataset's mean gain of the primary pair. Without many models, the
    pair's own gain.
    """
    target = gain.copy()
    for dataset in sorted(set(datasets) - EXCLUDED):
        rows = [row for row in np.flatnonzero(datasets == dataset).tolist() if ids[row] in outcomes]
        if not rows:
            continue
        models = sorted(set.intersection(*(set(outcomes[ids[row]]) for row in rows)))
        scores = np.array([[outcomes[ids[row]][model] for model in models] for row in rows])
        able = scores[:, scores.mean(axis=0) >= 0.1]
        level = able.mean(axis=0)
        best, low = (float(share) for share in np.quantile(level, [0.75, 0.5]))
        if able.shape[1] < 5 or best - low < 0.02:
            continue
        typical = able[:, level >= best].mean(axis=1) - able[:, level <= low].mean(axis=1)
        target[rows] = typical - typical.mean() + gain[rows].mean()
    return target


def pairs(
    ids: Sequence[str],
    datasets: NDArray[np.str_],
    outcomes: NDArray[np.float64],
    known: Mapping[str, Mapping[str, float]],
) -> NDArray[np.float64]:
    """Give each query's mean outcome with the smaller and with the larger model of all pairs, (n, 2).

    Pairs are any two models of which the smaller one scores 0.3 of the best one's mean at least, and the
    larger one 0.08 more. To score heads by, with a fraction of one pair's noise; nothing is fitted to it.
    Where the outcomes of other models are not known, the primary pair's.
    """
    found = outcomes.copy()
    for dataset in sorted(set(datasets) - EXCLUDED):
        rows = [row for row in np.flatnonzero(datasets == dataset).tolist() if ids[row] in known]
        if not rows:
            continue
        models = sorted(set.intersection(*(set(known[ids[row]]) for row in rows)))
        scores = np.array([[known[ids[row]][model] for model in models] for row in rows])
        level = scores.mean(axis=0)
        both = np.argwhere((level[:, None] >= 0.3 * level.max()) & (level[None, :] - level[:, None] >= 0.08))
        if len(both):
            found[rows] = np.stack([scores[:, both[:, side]].mean(axis=1) for side in (0, 1)], axis=1)
    return found


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


class Requests(NamedTuple):
    """The requests written for this project, (n,), and what is known beforehand of their kinds, (kinds,)."""

    texts: list[str]
    kind: NDArray[np.intp]  # the number of each request's kind
    gain: NDArray[np.float64]  # how much more often a frontier model succeeds
    small: NDArray[np.float64]  # how often a small one does
    opens: NDArray[np.bool_]  # there is no right answer: a judge grades


def requests() -> Requests:
    """Give the written requests and their kinds."""
    kinds = _kinds()
    rows = [(text, number) for number, kind in enumerate(kinds) for text in kind["requests"]]
    texts, numbers = zip(*rows, strict=True)
    return Requests(
        texts=list(texts),
        kind=np.array(numbers),
        gain=np.array([kind["gain"] for kind in kinds], np.float64),
        small=np.array([kind["small"] for kind in kinds], np.float64),
        opens=np.array([kind.get("open", False) for kind in kinds]),
    )


def _kinds() -> list[dict[str, Any]]:
    text = (Path(__file__).parent / "priors.toml").read_text(encoding="utf-8")
    kinds: list[dict[str, Any]] = tomllib.loads(text)["kinds"]
    return kinds


def examples() -> list[Example]:
    """Give the written requests as they are shipped, to explain scores by."""
    return [Example(text, kind["name"], kind["gain"]) for kind in _kinds() for text in kind["requests"]]


def parts(texts: Sequence[str], most: int = 12_000) -> list[str]:
    """Give lines and sentences of three words and more, each once, in a fixed order: short texts."""
    found = {
        part.strip() for text in texts for part in re.split(r"\n|(?<=[.?!])\s", text) if part.count(" ") > 1
    }
    order = np.random.default_rng(0).permutation(len(found))[:most]
    return [part for part in map(sorted(found).__getitem__, order) if len(part) < 400]
