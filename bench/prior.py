"""python -m bench.prior --data FOLDER: makes the weights of semantic_cache/prior.py from question streams.

Every stream is replayed with the cache closed, so that each question is a judged comparison; a logistic
regression over the dense evidence, each stream counting alike, gives one weight for each sign. Words are not
part of it: what a word means is learned on its route. ``--without`` leaves streams out, to measure on them.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from routing.embedding import StaticEmbedder
from semantic_cache.judge import Judge
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds
from semantic_cache.prior import PRIOR
from semantic_cache.replay import Question, replay
from semantic_cache.verify import NAMES, Evidence, Floats

_ROWS = 6_000  # of each stream
_PULL = 3.0  # to the start, in comparisons


class Recorder(Learner):
    """A learner that also keeps what it was shown."""

    def __init__(self, prior: Floats) -> None:
        super().__init__(prior)
        self.seen: list[tuple[Floats, bool]] = []

    def learn(self, judged: Sequence[tuple[Evidence, bool]], weight: float) -> None:
        """Keep and learn."""
        self.seen += [(np.array(evidence.dense), right) for evidence, right in judged]
        super().learn(judged, weight)


def comparisons(rows: Sequence[dict[str, Any]], embedder: StaticEmbedder) -> tuple[Floats, Floats]:
    """Give the evidence (n, len(NAMES)) of all comparisons of a stream, and which were right."""
    classes = {row["id"]: row["cls"] for row in rows}
    recorder = Recorder(PRIOR)
    closed = Judge(Bounds(error=1e-9), recorder, embedder.dimensions)
    questions = [msgspec.json.decode(json.dumps(row), type=Question) for row in rows]
    for _ in replay(questions, lambda a, b: classes[a] == classes[b], closed, embedder.embed, 1):
        pass
    evidence, right = zip(*recorder.seen, strict=True)
    return np.array(evidence), np.array(right, float)


def fit(streams: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Give the weights by Newton's method."""
    start = np.where(np.array(NAMES) == "bias", -2.0, 0.0) + np.where(np.array(NAMES) == "cosine", 1.5, 0.0)
    x, y = (np.concatenate([stream[part] for stream in streams]) for part in (0, 1))
    share = np.concatenate([np.full(len(right), 1000 / len(right)) for _, right in streams])
    weights = start.copy()
    for _ in range(40):
        chance = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (share * (chance - y)) + _PULL * (weights - start)
        bend = (x * (share * chance * (1 - chance))[:, None]).T @ x + _PULL * np.eye(len(start))
        weights -= np.linalg.solve(bend, slope)
    return weights


def main() -> None:
    """Print the table of prior.py."""
    parser = argparse.ArgumentParser(prog="python -m bench.prior", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with *.jsonl.gz")
    parser.add_argument("--without", nargs="*", default=[], help="streams to leave out")
    options = parser.parse_args()
    embedder, streams = StaticEmbedder.load(), []
    for path in sorted(options.data.glob("*.jsonl.gz")):
        if path.name.removesuffix(".jsonl.gz") not in options.without:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                streams.append(comparisons([json.loads(line) for line in file][:_ROWS], embedder))
    for name, weight in zip(NAMES, fit(streams), strict=True):
        print(f'    "{name}": {weight:.2f},')


if __name__ == "__main__":
    main()
