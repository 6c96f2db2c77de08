"""A text as numbers, fast enough for every request: a static table of word pieces, no transformer.

This is the one file in routing that reads files. The table (one int8 row and one float scale per word piece)
was distilled from all-MiniLM-L6-v2 by routing.training.distill; a text's vector is the normalised sum of its
pieces' rows. Pieces are those of the table's own vocabulary: lower case, accents off, then the longest
known prefix.

A word's vector and counts are computed once and kept in a memo of at most _MEMO_WORDS rows, which starts
anew when it is full: a text then costs one split, one look-up per word and one sum. The memo holds single
words and gives nothing but numbers. The time is bounded: at most MAX_CHARS characters of a text are read, its
head and its tail.
"""

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.complexity import Classifier, Head
from routing.explaining import Example
from routing.features import COUNTS, MAX_CHARS, MUTED, NAMES, NEUTRAL, clip, count, lexical, tokens

Floats = NDArray[np.float32]

WEIGHTS = Path(__file__).parent / "weights"
_MAX_WORD = 40  # characters; a longer run of letters is data, not a word, and is read as its first ones
_MEMO_WORDS = 16_384  # more than the words and tokens of one text, which are at most MAX_CHARS + 2
_COMMON_PIECES = 5_000  # the vocabulary begins with the commonest: those are known from the start
_UNKNOWN = "[UNK]"
_NOTHING = "\0"  # a word without tokens, in place of no word


class StaticEmbedder:
    """Reads one text at a time in the caller's thread. One instance serves the process."""

    def __init__(
        self, table: NDArray[np.int8], scales: NDArray[np.float32], vocabulary: Mapping[str, int]
    ) -> None:
        """Take `table` (pieces, d) and `scales` (pieces,); `vocabulary` tells each piece's row."""
        self.table = table
        self.scales = scales
        self.vocabulary = vocabulary
        self._unknown = self._vector((vocabulary[_UNKNOWN],))
        self._memo: dict[str, int] = {}
        self._none = np.zeros(0, np.intp)
        self._rows = np.zeros((_MEMO_WORDS, COUNTS + table.shape[1]), np.float32)
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
        embedder = cls(table, scales, {piece: row for row, piece in enumerate(pieces)})
        embedder._learn([piece for piece in pieces[:_COMMON_PIECES] if piece.isalpha()])
        return embedder

    def embed(self, text: str) -> Floats:
        """Give the unit vector (d,) of `text`; without any known piece, the vector of the unknown piece."""
        return self.unit(self.sums(text))

    def columns(self, text: str, sums: Floats | None = None) -> Floats:
        """Give the lexical features of `text` and its unit vector, in one row (features + d,)."""
        sums = self.sums(text) if sums is None else sums
        text = clip(text, MAX_CHARS)
        return np.concatenate((lexical(text, text.split() or [_NOTHING], sums[:COUNTS]), self.unit(sums)))

    def sums(self, text: str) -> Floats:
        """Add up the counts and the vectors of the words of `text`, in one row (COUNTS + d,)."""
        found = clip(text, MAX_CHARS).split() or [_NOTHING]
        slots = list(map(self._memo.get, found))
        if None in slots:
            slots = self._learn(found)
        rows = self._rows.take(slots, axis=0)  # type: ignore[arg-type]  # no None is left
        summed: Floats = np.add.reduce(rows, axis=0)
        return summed

    def unit(self, sums: Floats) -> Floats:
        """Give the unit vector (d,) of what ``sums`` gave."""
        vector = sums[COUNTS:]
        length = float(vector @ vector) ** 0.5
        if length < 1e-6:  # no known piece, or they cancel out
            vector, length = self._unknown, float(self._unknown @ self._unknown) ** 0.5
        unit: Floats = vector * np.float32(1.0 / length)
        return unit

    def _learn(self, found: list[str]) -> list[int | None]:
        """Give the memo's rows of the words after learning the new ones; a memo without room starts anew.

        Of a word longer than _MAX_WORD, as in a script without spaces, the tokens are kept instead.
        """
        if max(map(len, found)) > _MAX_WORD:
            found = [
                part[:_MAX_WORD]
                for word in found
                for part in ([word] if len(word) <= _MAX_WORD else tokens(word))
            ]
        memo, rows = self._memo, self._rows
        new = {word: tokens(word) for word in found if word not in memo}
        if len(memo) + len(new) + sum(map(len, new.values())) > _MEMO_WORDS:
            memo.clear()
            new = {word: tokens(word) for word in found}
        for word, parts in new.items():
            slots = [self._slot(token) for token in parts]
            if word not in memo:
                np.add.reduce(rows.take(slots or self._none, axis=0), axis=0, out=rows[len(memo)])
                memo[word] = len(memo)
        return list(map(memo.get, found))

    def _slot(self, token: str) -> int:
        """Give the memo's row of one token, after filling it where the token is new."""
        slot = self._memo.get(token)
        if slot is None:
            slot = self._memo[token] = len(self._memo)
            read = NEUTRAL if token.lower() in MUTED else token
            pieces = self.pieces(read)
            row = self._rows[slot]
            row[:] = 0.0
            count(read, len(pieces), row)
            row[COUNTS:] = self._vector(pieces)
        return slot

    def _vector(self, pieces: tuple[int, ...]) -> Floats:
        if len(pieces) == 1:
            single: Floats = self.table[pieces[0]] * self.scales[pieces[0]]
            return single
        index = np.array(pieces, np.intp)
        vector: Floats = self.scales[index] @ self.table[index].astype(np.float32)
        return vector

    def pieces(self, token: str) -> tuple[int, ...]:
        """Give the table's rows of the longest known pieces; nothing where a rest of the token is unknown."""
        word = token.lower()
        if not word.isascii():
            word = "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")
        whole = self.vocabulary.get(word)
        if whole is not None:
            return (whole,)
        rows: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                row = self.vocabulary.get(word[start:end] if start == 0 else f"##{word[start:end]}")
                if row is not None:
                    rows.append(row)
                    start = end
                    break
            else:
                return ()
        return tuple(rows)


def join(columns: Floats, vectors: Floats) -> Floats:
    """Give the precise grade's columns: `columns` (n, features + d) with the encoder's `vectors` (n, e).

    Both vectors together are a unit vector again, and each half of it.
    """
    half = np.float32(0.5**0.5)
    return np.concatenate((columns[:, : len(NAMES)], columns[:, len(NAMES) :] * half, vectors * half), axis=1)


def load_classifier(directory: Path | None = None, name: str = "head.npz") -> Classifier:
    """Load a head from `directory`, by default the shipped one: head.npz (fast) or precise.npz.

    Raises OSError or ValueError where it is missing or broken.
    """
    directory = directory or WEIGHTS
    with np.load(directory / name, allow_pickle=False) as arrays:
        return Classifier(Head(**{field: arrays[field] for field in Head.__struct_fields__}))


class Facts(msgspec.Struct, frozen=True):
    """What training noted beside the head. A threshold belongs to one `version` of the weights."""

    version: str
    score_quantiles: list[float]  # at even steps from 0 to 1, on validation rows
    quality_by_share: list[float]  # at even steps of the share of the large model, on the same rows
    quality_spread: float = 0.0  # half the 95 % interval of that quality, at its widest
    typical: list[float] = []  # the mean lexical features of the rows that the head learnt from


def load_examples(directory: Path | None = None) -> list[Example]:
    """Load the requests written for the kinds of work, by default the shipped ones."""
    return msgspec.json.decode(((directory or WEIGHTS) / "examples.json").read_bytes(), type=list[Example])


def load_facts(directory: Path | None = None) -> Facts:
    """Load the notes from `directory`, by default the shipped ones."""
    return msgspec.json.decode(((directory or WEIGHTS) / "facts.json").read_bytes(), type=Facts)
