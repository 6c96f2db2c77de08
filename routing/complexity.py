"""Which tier a query needs: the text to judge, its score, the choice, and the share kept on target.

Pure. A score in [0, 1] rises with the expected gain of the largest tier over the smallest (not with
difficulty: what both get wrong gains nothing). Scores are ranks: on the validation mix about 30 % lie above
0.7. Elsewhere they drift, so a threshold from one place does not hold a share in another; ShareController
does, over every stretch of queries.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.features import NAMES, clip

Floats = NDArray[np.float32]

# The level of open requests, in spreads of the prior's first part: less depends on their kind than where an
# answer is right or wrong, but a judge who compares two answers mostly prefers the larger model's.
_JUDGED = 0.8
# How the gain changes with difficulty, by item response theory (see routing.training.head): below the first
# it counts as falling, above the second as rising, and between them outcomes tell more.
FALLS, RISES = 0.03, 0.055
_TURNS = 0.15  # the most that the line may say of it, either way
_ASIDE = 10.0  # difficulty says nothing among open requests, from a tenth of openness on
MAX_QUERY_CHARS = 8_000
_ENOUGH_WORDS = 8  # a last turn shorter than this ("and why?") is read together with the user turns before it
_EARLIER_TURNS = 3
_EXAMPLE = re.compile(r"^[ \t]*(?:Q|Question|Problem)\s*\d*\s*[:.][ \t]*", re.IGNORECASE | re.MULTILINE)
_ANSWER_CUE = re.compile(r"\s*\b(?:A|Answer|Solution|Response|Output)[ \t]*:[ \t]*$", re.IGNORECASE)
_CUE_CHARS = 24  # more than the longest cue
_FOREIGN, _WORDS, _NUMBERS = (NAMES.index(name) for name in ("foreign", "words", "numbers"))
_NO_WORDS = 0.7  # the feature is log(2) then
_MOST_FOREIGN = 4.9  # a tenth of the characters is of a script that the table does not know
_OPTIONS, _ONE_OPTION = NAMES.index("options"), 0.6  # the feature is log(1 + options)
_MARKUP = re.compile(r"<\|[\w ]{1,30}\|>|\[/?[A-Z]{3,12}\]")


# ---- the text that is judged ----


def query_text(messages: object) -> str:
    """Give the text to judge: the last user turn without its template; a very short one with those before it.

    Reads messages as a client may send them (content as text, as parts, or missing) and never raises. System
    prompts and answers are left out: they belong to the application and say nothing about this query.
    """
    if isinstance(messages, str):
        return bare(messages)
    turns = messages if isinstance(messages, Sequence) and not isinstance(messages, bytes | bytearray) else ()
    chosen: list[str] = []
    words = 0
    for turn in reversed(turns):
        if not isinstance(turn, Mapping) or turn.get("role") != "user":
            continue
        text = bare(_content_text(turn.get("content")))
        if text:
            chosen.append(text)
            words += len(text.split(maxsplit=_ENOUGH_WORDS))
        if words >= _ENOUGH_WORDS or len(chosen) > _EARLIER_TURNS:
            break
    return clip("\n".join(reversed(chosen)), MAX_QUERY_CHARS)


def bare(text: str) -> str:
    """Give `text` without chat markup, solved examples before the last question, and the answer cue."""
    text = clip(text, MAX_QUERY_CHARS).strip()
    if "[" in text or "<|" in text:
        text = _MARKUP.sub(" ", text).strip()
    if text.endswith(":"):
        text = text[:-_CUE_CHARS] + _ANSWER_CUE.sub("", text[-_CUE_CHARS:])
    if "\n" not in text:
        asked = _EXAMPLE.match(text)
        return text[asked.end() :].strip() if asked else text
    questions = list(_EXAMPLE.finditer(text))
    if len(questions) > 2 or (len(questions) == 1 and not text[: questions[0].start()].strip()):
        text = text[questions[-1].end() :]
    return text.strip()


def _content_text(content: object) -> str:
    if isinstance(content, str):
        return clip(content, MAX_QUERY_CHARS)
    if not isinstance(content, Sequence) or isinstance(content, bytes | bytearray):
        return ""
    parts = (part.get("text") for part in content[:64] if isinstance(part, Mapping))
    return "\n".join(clip(part, MAX_QUERY_CHARS) for part in parts if isinstance(part, str))


# ---- the score ----


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The trained numbers. Columns are the lexical features, then the d of the vector.

    Three terms make a raw score. What is known of kinds of work beforehand: their gains by nearness, and the
    line `slopes`. What outcomes taught: the line `learned`, and trees that each ask `depth` questions. Open
    requests, of which no outcome was seen, hear nothing of either: they stand together at a level. And how
    difficult it is for its kind: a line of `hardness`, times how much the gain falls or rises with difficulty
    there (see FALLS), which nearness to kinds and the line `turning` tell, half each. `knots` turn raw scores
    into ranks.
    """

    slopes: Floats  # (features + d,)
    learned: Floats  # (features + d,)
    hardness: Floats  # (2, features + d) for kinds where the gain falls with difficulty, and where it rises
    turning: Floats  # (features + d,)
    middles: Floats  # (5,) the mean of each line (with what is added to it) over the training rows
    tree_features: NDArray[np.int32]  # (trees, depth)
    tree_thresholds: Floats  # (trees, depth)
    tree_leaves: Floats  # (trees, 2 ** depth)
    centres: Floats  # (kinds, d) unit rows
    values: Floats  # (kinds,) gain
    turns: Floats  # (kinds,) change of the gain with difficulty
    opens: Floats  # (kinds,) 1 for a kind without a right answer, else 0
    sharpness: Floats  # ()
    knots: NDArray[np.float64]  # (quantiles,) rising raw scores; the first and the last are out of reach


class Classifier:
    """Scores a query from its columns: about 20 us, no state."""

    def __init__(self, head: Head) -> None:
        """Take trained numbers. Raises ValueError where their shapes do not fit together."""
        trees, depth = head.tree_features.shape
        kinds = {len(head.centres), len(head.values), len(head.turns), len(head.opens)}
        lines = {head.slopes.shape, head.learned.shape, head.hardness.shape[1:], head.turning.shape}
        if head.tree_leaves.shape != (trees, 1 << depth) or len(kinds) != 1 or len(lines) != 1:
            raise ValueError("the head's arrays do not fit together")
        self.head = head
        # One question of every tree after the other, so that all trees are asked in three array operations.
        self._asked = np.ascontiguousarray(head.tree_features.T).astype(np.intp)
        self._limits = np.ascontiguousarray(head.tree_thresholds.T)
        self._powers = (1 << np.arange(depth)).astype(np.float32)
        self._offsets = (np.arange(trees) << depth).astype(np.float32)
        self._leaves = head.tree_leaves.ravel()
        self._centres = head.centres * head.sharpness
        self._lines = np.stack([head.slopes, head.learned, *head.hardness, head.turning])
        self._middles = head.middles.tolist()
        ones = np.ones(len(head.values), np.float32)
        self._told = np.stack([head.values, head.turns, ones], axis=1)
        self._opens = np.stack([head.opens, ones], axis=1)
        self._knots = head.knots.tolist()

    def score(self, columns: Floats) -> float:
        """Give the score in [0, 1] of a query's `columns` (features + d,), as an embedder gives them."""
        raw, knots = self.raw(columns), self._knots
        above = bisect_right(knots, raw)
        if above in (0, len(knots)):
            return 0.0 if above == 0 else 1.0
        low, high = knots[above - 1], knots[above]
        return float((above - 1 + (raw - low) / (high - low)) / (len(knots) - 1))

    def raw(self, columns: Floats) -> float:
        """Give the raw score of one row of columns (features + d,)."""
        prior, learned, difficulty, openness = self.terms(columns)
        total = (prior + learned) * (1 - openness) + difficulty + openness * _JUDGED
        return total if isfinite(total) else 0.0

    def terms(self, columns: Floats) -> tuple[float, float, float, float]:
        """Give what a raw score is made of: prior, learned, difficulty, and the openness in [0, 1]."""
        prior, learned, falling, rising, told = (self._lines @ columns).tolist()
        answers = (columns.take(self._asked) > self._limits).astype(np.float32)
        leaves = self._leaves.take((self._powers @ answers + self._offsets).astype(np.intp))
        near = np.exp(self._centres @ columns[-self._centres.shape[1] :] - self.head.sharpness)
        gain, turn, total = (near @ self._told).tolist()
        opens, all_kinds = (near * near @ self._opens).tolist()  # twice as sharp: it is a matter of yes or no
        asks_choice = float(columns[_OPTIONS]) > _ONE_OPTION
        middles = self._middles
        told = min(_TURNS, max(-_TURNS, told - middles[4]))
        turn = (turn / (total + 1e-12) + told) / 2
        difficulty = min(0.0, turn - FALLS) * (falling - middles[2])
        difficulty += max(0.0, turn - RISES) * (rising - middles[3])
        openness = 0.0 if asks_choice else opens / (all_kinds + 1e-24)
        return (
            prior + gain / (total + 1e-12) - middles[0],
            learned + float(np.add.reduce(leaves)) - middles[1],
            difficulty * max(0.0, 1.0 - _ASIDE * openness),
            openness,
        )


def readable(columns: Floats) -> bool:
    """Tell whether a text with these columns can be judged: it says something, in letters that are known.

    What cannot counts as a query that needs the largest tier.
    """
    said = float(columns[_WORDS]) > _NO_WORDS or float(columns[_NUMBERS]) > 0.0
    return said and float(columns[_FOREIGN]) < _MOST_FOREIGN


# ---- the choice ----


def choose(score: float, thresholds: Sequence[float]) -> int:
    """Give the tier's place, 0 the cheapest: how many of the rising `thresholds` (one fewer) it reaches."""
    return bisect_right(thresholds, score)


def tier_shares(large_share: float, tiers: int) -> list[float]:
    """Give for each boundary the share of queries above it: even steps in logarithm down to `large_share`."""
    return [large_share ** (boundary / (tiers - 1)) for boundary in range(1, tiers)]


class Choice(msgspec.Struct, frozen=True):
    """Whether a query goes above the boundary, and the threshold that its score was held against."""

    above: bool
    threshold: float


WINDOW = 512
SLACK = 9.0  # of a process that decides alone
PARTED_SLACK = 28.0  # of all together that part one stream: what others decide is known late
_NUDGE = 75.0  # queries over which what is owed is paid back
_MOST_OWED = 500.0  # of what was forced, more is not paid back


class ShareController(msgspec.Struct):
    """Keeps the share of queries above one boundary on target over every stretch of the stream, in any order.

    The threshold is a quantile over the last WINDOW scores, nudged by what is owed. A hard bucket stands
    behind it: the number sent above never strays more than SLACK + 1 from share x queries, so any 2,000
    queries in a row keep within 2 x 10 / 2000 = 1 point (2.9 points of PARTED_SLACK). At first the window
    holds prior scores, which leave one by one.
    """

    share: float
    recent: list[float]  # a ring of scores
    ordered: list[float]  # the same, sorted
    oldest: int = 0
    owed: float = 0.0  # share x queries - sent above
    slack: float = SLACK

    @classmethod
    def start(cls, share: float, prior: Sequence[float], processes: int = 1) -> Self:
        """Give a controller for `share` in [0, 1]; `prior` are quantiles of scores at even steps.

        Each of several `processes` that part one stream among them has its part of their slack.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"a share lies in [0, 1], not {share}")
        count = WINDOW // 8  # enough for a sane start, soon outvoted by the stream itself
        scores = np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(prior)), prior).tolist()
        ring = [scores[step * 37 % count] for step in range(count)]
        slack = SLACK if processes == 1 else PARTED_SLACK / processes
        return cls(share, ring, sorted(scores), slack=slack)

    def decide(self, score: float, forced: bool = False) -> Choice:
        """Decide for the next query and remember it; one that is `forced` goes above, and is paid back."""
        threshold = self.threshold()
        above = forced or score >= threshold
        debt = self.owed + self.share
        if debt - above > self.slack:
            above = True
        elif debt - above < -self.slack:
            above = forced
        self.owed = max(debt - above, -_MOST_OWED)
        self._remember(score)
        return Choice(above, threshold)

    def hear(self, scores: Sequence[float]) -> None:
        """Remember scores of queries that other processes decided."""
        for score in scores[-WINDOW:]:
            self._remember(score)

    def threshold(self) -> float:
        """Give the score that the next query must reach."""
        if self.share in (0.0, 1.0):
            return 2.0 if self.share == 0.0 else 0.0
        goal = min(1.0, max(0.0, self.share + self.owed / _NUDGE))
        place = ceil((1.0 - goal) * len(self.ordered))
        return self.ordered[place] if place < len(self.ordered) else self.ordered[-1]

    def _remember(self, score: float) -> None:
        if len(self.recent) < WINDOW:
            self.recent.append(score)
        else:
            gone, self.recent[self.oldest] = self.recent[self.oldest], score
            self.oldest = (self.oldest + 1) % WINDOW
            del self.ordered[bisect_left(self.ordered, gone)]
        insort(self.ordered, score)


# ---- calibration on labelled queries ----


class Calibration(msgspec.Struct, frozen=True):
    """A threshold with what it gave: the share above it, the quality, and the quality's 95 % interval.

    Quality is the mean score of the routed answers over the mean score of the large model's: 1.0 = as good as
    it.
    """

    threshold: float
    share: float
    quality: float
    ci: tuple[float, float]


def calibrate(
    scores: Sequence[float], small: Sequence[float], large: Sequence[float], **goal: float
) -> Calibration:
    """Give the threshold for `large_share=` or `quality=` on queries whose outcomes with both are known.

    For a quality it is the highest threshold that reaches it; where none does, all go to the large model.
    """
    s, low, high = (np.asarray(values, np.float64) for values in (scores, small, large))
    if not len(s) == len(low) == len(high) > 0:
        raise ValueError("calibration needs a score and both outcomes for at least one query")
    order = np.argsort(-s, kind="stable")
    qualities = quality_curve(s, low, high)
    if "large_share" in goal:
        count = round(goal["large_share"] * len(s))
    else:
        enough = np.flatnonzero(qualities >= goal["quality"] - 1e-12)
        count = int(enough[0]) if len(enough) else len(s)
    threshold = float(s[order[count - 1]]) if count else float(np.nextafter(s.max(), 2.0))
    above = s >= threshold
    routed = np.where(above, high, low)
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, len(s), len(s)) for _ in range(500))
    samples = [routed[draw].mean() / max(1e-9, high[draw].mean()) for draw in draws]
    bounds = np.percentile(samples, [2.5, 97.5])
    quality = float(routed.mean() / max(1e-9, high.mean()))
    return Calibration(threshold, float(above.mean()), quality, (float(bounds[0]), float(bounds[1])))


def quality_curve(
    scores: NDArray[np.float64], small: NDArray[np.float64], large: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Give the quality with the k highest-scored queries sent to the large model, (n + 1,) for k = 0 .. n."""
    order = np.argsort(-scores, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum((large - small)[order])])
    curve: NDArray[np.float64] = (small.sum() + gained) / max(1e-9, float(large.sum()))
    return curve


def share_for_quality(curve: Sequence[float], quality: float) -> float:
    """Give the smallest share whose quality on `curve` (even steps from 0 to 1) reaches `quality`, else 1."""
    for step, value in enumerate(curve):
        if value >= quality:
            if step == 0:
                return 0.0
            before = curve[step - 1]
            return (step - 1 + (quality - before) / (value - before)) / (len(curve) - 1)
    return 1.0
