"""The outcomes that the head learns from: one row per query, from the dev set described in its README."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    small: NDArray[np.float64]
    large: NDArray[np.float64]
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
        return ~self.validation & ~np.isin(self.datasets, list(EXCLUDED))


def read(folder: Path) -> Queries:
    """Read train and val of `folder`, primary pairs only, without contaminated rows."""
    rows = [row for split in ("train", "val") for row in lines(folder / f"{split}.jsonl.gz")]
    rows = [row for row in rows if row["primary_pair"] and not row["contaminated"]]
    return Queries(
        ids=[row["id"] for row in rows],
        prompts=[row["prompt"] for row in rows],
        datasets=np.array([row["dataset"] for row in rows]),
        small=np.array([row["weak_score"] for row in rows], np.float64),
        large=np.array([row["strong_score"] for row in rows], np.float64),
        validation=np.array([row["split"] == "val" for row in rows]),
    )


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
