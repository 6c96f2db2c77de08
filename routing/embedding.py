"""A text as a unit vector, fast enough for every request: a static table of word pieces, no transformer.

This is the one file in routing that reads files. The table (one int8 row and one float scale per word piece)
was distilled from all-MiniLM-L6-v2 by routing.training.distill; a text's vector is the normalised sum of its
pieces' rows. Pieces are those of the table's own vocabulary: lower case, accents off, marks apart, then the
longest known prefix.

The time is bounded: at most MAX_CHARS characters of a text are read, its head and its tail.
"""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier, Head
from routing.features import clip

WEIGHTS = Path(__file__).parent / "weights"
MAX_CHARS = 8_000
_MAX_WORD = 40  # characters; a longer run of letters is data, not a word, and is read as its first ones
_MEMO_WORDS = 20_000
_UNKNOWN = "[UNK]"
_PIECES = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\W_\u2e80-\u9fff\uf900-\ufaff]+|[^\w\s]|_")


class StaticEmbedder:
    """Embeds one text at a time in the caller's thread. One instance serves the process."""

    def __init__(
        self, table: NDArray[np.int8], scales: NDArray[np.float32], vocabulary: Mapping[str, int]
    ) -> None:
        """Take `table` (pieces, d) and `scales` (pieces,); `vocabulary` tells each piece's row."""
        self._table = table
        self._scales = scales
        self._vocabulary = vocabulary
        self._memo: dict[str, tuple[int, ...]] = {}
        self._fallback = (vocabulary[_UNKNOWN],)
        self.dimensions = int(table.shape[1])

    @classmethod
    def load(cls, directory: Path | None = None) -> Self:
        """Load the table from `directory`, by default the shipped one.

        Raises OSError or ValueError where it is missing or broken.
        """
        directory = directory or WEIGHTS
        table = np.load(directory / "table.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        scales = np.load(directory / "scales.npy", allow_pickle=False).astype(np.float32)
        pieces = (directory / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        if table.dtype != np.int8 or table.ndim != 2 or not len(table) == len(scales) == len(pieces):
            raise ValueError(f"the embedding table in {directory} does not fit its vocabulary")
        return cls(table, scales, {piece: row for row, piece in enumerate(pieces)})

    def embed(self, text: str) -> NDArray[np.float32]:
        """Give the unit vector (d,) of `text`; without any known piece, the vector of the unknown piece."""
        rows = self.rows(text) or self._fallback
        index = np.fromiter(rows, np.intp, len(rows))
        vector: NDArray[np.float32] = self._scales[index] @ self._table[index].astype(np.float32)
        length = float(np.sqrt(vector @ vector))
        if length < 1e-9:  # only where the pieces cancel out
            vector = self._table[self._fallback[0]].astype(np.float32)
            length = float(np.sqrt(vector @ vector))
        return vector / np.float32(length)

    def rows(self, text: str) -> list[int]:
        """Give the table rows of the pieces of `text`, in order; unknown ones are left out."""
        text = clip(text, MAX_CHARS).lower()
        if not text.isascii():
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        memo, rows = self._memo, list[int]()
        for word in _PIECES.findall(text):
            known = memo.get(word)
            rows += self._learn(word) if known is None else known
        return rows

    def _learn(self, word: str) -> tuple[int, ...]:
        rows = self._split(word[:_MAX_WORD])
        if len(self._memo) < _MEMO_WORDS and len(word) <= _MAX_WORD:
            self._memo[word] = rows
        return rows

    def _split(self, word: str) -> tuple[int, ...]:
        """Split greedily into the longest known pieces; nothing where the rest of a word is unknown."""
        rows: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                row = self._vocabulary.get(word[start:end] if start == 0 else f"##{word[start:end]}")
                if row is not None:
                    rows.append(row)
                    start = end
                    break
            else:
                return ()
        return tuple(rows)


def load_classifier(directory: Path | None = None) -> Classifier:
    """Load the head from `directory`, by default the shipped one.

    Raises OSError or ValueError where it is missing or broken.
    """
    directory = directory or WEIGHTS
    with np.load(directory / "head.npz", allow_pickle=False) as arrays:
        return Classifier(Head(**{name: arrays[name] for name in Head.__struct_fields__}))


class Facts(msgspec.Struct, frozen=True):
    """What training noted beside the head. A threshold belongs to one `version` of the weights."""

    version: str
    score_quantiles: list[float]  # at even steps from 0 to 1, on validation rows
    quality_by_share: list[float]  # at even steps of the share of the large model, on the same rows


def load_facts(directory: Path | None = None) -> Facts:
    """Load the notes from `directory`, by default the shipped ones."""
    return msgspec.json.decode(((directory or WEIGHTS) / "facts.json").read_bytes(), type=Facts)
