"""Scores of many texts offline, in two grades, with or without labels of one's own traffic.

*fast* reads texts with the static table, as the gateway does; *precise* adds the sentence encoder's vector.
The encoder runs in the engine's environment, as a process: this one never imports torch.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backends.engines import encode
from routing.complexity import Classifier, readable
from routing.embedding import StaticEmbedder, join, load_classifier
from routing.feedback import Feedback

Floats = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Floats]


class ScoringError(Exception):
    """Texts cannot be scored as asked; the text says why and what to do."""


class Scorer:
    """An embedder, a classifier and what feedback taught."""

    def __init__(self, classifier: Classifier, encoder: Encode | None = None) -> None:
        self.batch = 256 if encoder is None else 100_000  # texts at once: an encoder's start takes seconds
        self._embedder = StaticEmbedder.load()
        self._classifier = classifier
        self._encode = encoder
        self._feedback: Feedback | None = None

    @classmethod
    def fast(cls) -> Self:
        """Give the grade that the gateway computes itself."""
        return cls(load_classifier())

    @classmethod
    def precise(cls, engine: Path, model: Path) -> Self:
        """Give the grade of the sentence encoder `model` in the environment `engine`. Raises ScoringError."""
        python = engine / "bin" / "python"
        for path, remedy in (
            (python, "`make up` builds the engine's environment; or name one with --engine"),
            (
                model / "config.json",
                "`make up` prepares the embedding model; or name a folder with --encoder",
            ),
        ):
            if not path.exists():
                raise ScoringError(f"the precise grade needs {path}, which does not exist: {remedy}")
        return cls(load_classifier(name="precise.npz"), lambda texts: _encoded(python, model, texts))

    def learn(self, texts: Sequence[str], gain: NDArray[np.float64]) -> None:
        """Adapt to labelled queries. Raises ScoringError where they are too few."""
        columns = self._columns(texts)
        try:
            self._feedback = Feedback(columns, self._base(columns), gain)
        except ValueError as error:
            raise ScoringError(str(error)) from None

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Give the scores of `texts` in [0, 1], (n,)."""
        return self._scores(self._columns(texts))

    def needs(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the scores, and what a live route goes by: 1 of a text that cannot be read, (n,) each."""
        columns = self._columns(texts)
        scores = self._scores(columns)
        return scores, np.where([readable(row) for row in columns], scores, 1.0)

    def _scores(self, columns: Floats) -> NDArray[np.float64]:
        base = self._base(columns)
        return base if self._feedback is None else self._feedback.score(columns, base)

    def _base(self, columns: Floats) -> NDArray[np.float64]:
        return np.array([self._classifier.score(row) for row in columns])

    def _columns(self, texts: Sequence[str]) -> Floats:
        columns = np.stack([self._embedder.columns(text) for text in texts])
        if self._encode is not None:
            columns = join(columns, self._encode(texts))
        if columns.shape[1] != (wanted := len(self._classifier.head.slopes)):
            raise ScoringError(
                "the encoder is not the one of the precise grade, all-MiniLM-L6-v2: its vectors"
                f" have {384 + columns.shape[1] - wanted} numbers, not 384"
            )
        return columns


def _encoded(python: Path, model: Path, texts: Sequence[str]) -> Floats:
    """Give the encoder's vectors (n, d) from a process. Raises ScoringError with the last it said."""
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(  # noqa: S603 - the path of the environment is the operator's own
        [str(python), "-P", encode.__file__, str(model)],
        input=lines,
        capture_output=True,
        env=kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "no reason given")
        raise ScoringError(f"the encoder failed: {last[-400:]}")
    return np.frombuffer(done.stdout, "<f4").reshape(len(texts), -1)
