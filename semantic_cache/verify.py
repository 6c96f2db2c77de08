"""Is this the same question? What two readings have in common and what sets them apart, in numbers. Pure.

The numbers are evidence for a verifier that learns what they mean on its route; none of them is a veto.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from semantic_cache.reading import Reading, listed

Floats = NDArray[np.float64]
_MOST_TWINS = 400  # pairs of differing words; beyond that two texts have little to do with each other
_SHORTEST = 4  # letters of a word that may be another one misspelt or inflected
AGREEING = 0.85  # cosine of two answers
BUCKETS = 1 << 14  # hashed words: how they count where they differ, and where they agree
MOST_BUCKETS = 32  # of one comparison
_MOST_HASHED = 1 << 16  # words
MOST_COUNTED = 4_000  # texts with a word
_LOGS = [math.log(n + 1.0) for n in range(MOST_COUNTED + 1)]

_PAIRS = (
    "increase decrease,increasing decreasing,best worst,better worse,good bad,advantages disadvantages,"
    "pros cons,more less,most least,largest smallest,big small,bigger smaller,highest lowest,high low,on off,"
    "open close,start stop,before after,up down,cheap expensive,cheapest priciest,easy hard,first last,"
    "north south,east west,left right,buy sell,enable disable,add remove,gain lose,male female,men women,"
    "husband wife,boy girl,mother father,minimum maximum,early late,earliest latest,legal illegal,"
    "possible impossible,love hate,true false,win lose,old new,oldest newest,hot cold,import export,"
    "borrow lend,arrive depart,arrival departure,longest shortest,tallest shortest,fast slow,fastest slowest,"
    "raise lower,send receive,deposit withdraw,lock unlock,accept reject,include exclude,from to"
)
_OPPOSITE: dict[str, set[str]] = {}
for _pair in _PAIRS.split(","):
    _one, _other = _pair.split()
    _OPPOSITE.setdefault(_one, set()).add(_other)
    _OPPOSITE.setdefault(_other, set()).add(_one)
_OPPOSITES = frozenset(_OPPOSITE)
_TIMES = listed(
    "today tomorrow yesterday tonight now morning afternoon evening night noon midnight am pm monday tuesday"
    " wednesday thursday friday saturday sunday january february march april may june july august september"
    " october november december week weeks month months year years day days hour hours minute minutes weekend"
    " last next this ago"
)
_LANGUAGES = listed(
    "french german spanish italian japanese chinese portuguese russian arabic hindi korean dutch english"
    " polish turkish swedish"
)
_FORMATS = listed(
    "answer sentence sentences words word number only explain list bullet bullets table json yaml short brief"
    " detail details steps summarize paragraph"
)


_TOLD = _TIMES | _LANGUAGES | _FORMATS


_EITHER_WAY = listed("and or the a")


class Nearness(msgspec.Struct, frozen=True):
    """Where an answer stands among the answers near a question, as the embedding sees it.

    Cosines are those of its nearest text; margins are what it is ahead of the best other answer.
    """

    cosine: float
    margin: float
    share: float  # of the votes of all near texts, weighted by nearness
    odds: float  # log of its votes over those of the best other answer
    learned: float  # cosine in the learned metric
    learned_margin: float
    centre: float  # cosine to the centre of its texts in the learned metric
    centre_margin: float
    rivals: int  # how many answers are near
    texts: int  # how many texts are known to share it
    agreed: float  # share of the times that it was the right one when it was judged
    judged: int


class Evidence(msgspec.Struct, frozen=True):
    """The verifier's input: dense numbers of about unit size, and hashed words with their weights."""

    dense: list[float]  # one for each of NAMES
    buckets: list[int]  # MOST_BUCKETS at the most, differing words first
    weights: list[float]


class _Hashed(dict[str, int]):
    """The bucket of each word, as one that differs or as one that is shared; kept once it was asked for."""

    def __init__(self, sign: str) -> None:
        self._sign = sign

    def __missing__(self, word: str) -> int:
        if len(self) >= _MOST_HASHED:
            self.clear()
        bucket = self[word] = zlib.crc32((self._sign + word).encode()) % BUCKETS
        return bucket


_differing_of, _shared_of = _Hashed("-").__getitem__, _Hashed("+").__getitem__

Rarities = Callable[[Sequence[str]], list[float]]


def rarities_of(counts: Mapping[str, int], texts: int) -> Rarities:
    """Give what tells how rare words are (IDF), in so many texts; no count is above MOST_COUNTED."""
    size, count, logs = math.log(texts + 50), counts.get, _LOGS

    def rarities(words: Sequence[str]) -> list[float]:
        return [size - logs[count(word, 0)] for word in words]

    return rarities


def compare(asked: Reading, known: Reading, near: Nearness, rarities: Rarities) -> Evidence:
    """Give the evidence on whether the answer to `known` answers `asked`."""
    extra, missing, mended = _differences(asked, known)
    distinct = known.distinct
    shared = [word for word in asked.ordered if word in distinct]
    dense = _spatial(near)
    dense += _lexical(asked, known, (extra, missing, shared), mended, rarities)
    buckets, weights = [*map(_differing_of, extra), *map(_differing_of, missing)], list[float]()
    if buckets:
        weights = [len(buckets) ** -0.5] * len(buckets)
    if shared:
        buckets += map(_shared_of, shared)
        weights += [len(shared) ** -0.5] * len(shared)
    if len(buckets) > MOST_BUCKETS:
        del buckets[MOST_BUCKETS:], weights[MOST_BUCKETS:]
    return Evidence(dense, buckets, weights)


NAMES = (
    "bias", "cosine", "cosine_high", "cosine_top", "margin", "share", "odds", "learned", "learned_high",
    "learned_margin", "centre", "centre_margin", "centre_weighed", "rivals", "texts", "agreed", "judged",
    "overlap", "overlap_cosine", "rare_shared", "rare_extra", "rare_missing", "rarest_extra",
    "rarest_missing", "extra", "missing", "mended", "numbers", "numbers_both", "negation", "opposite",
    "question", "times", "language", "format", "names", "pairs", "same_words", "reordered", "identical",
    "substituted", "length", "length_ratio",
)  # fmt: skip


def _spatial(near: Nearness) -> list[float]:
    cosine, learned, ahead = near.cosine, near.learned, near.centre_margin * 5
    known = math.log1p(near.texts)
    return [
        1.0,
        cosine * 4 - 3,
        (cosine - 0.8) * 8 if cosine > 0.8 else 0.0,
        (cosine - 0.93) * 25 if cosine > 0.93 else 0.0,
        near.margin * 5,
        near.share * 2 - 1,
        near.odds * 0.3,
        learned * 3 - 1.5,
        (learned - 0.8) * 8 if learned > 0.8 else 0.0,
        near.learned_margin * 5,
        near.centre * 3 - 1.5,
        ahead,
        ahead * (known * 0.4 if known < 2.5 else 1.0),
        (min(16, near.rivals)) / 16 - 0.5,
        known * 0.5,
        near.agreed * 2 - 1,
        (min(20, near.judged)) / 20,
    ]


def _lexical(
    asked: Reading,
    known: Reading,
    words: tuple[list[str], list[str], list[str]],
    mended: int,
    rarities: Rarities,
) -> list[float]:
    extra, missing, shared = words
    differing, one, other = extra + missing, len(extra), len(missing)
    rare = rarities(differing + shared)
    added, lacking = rare[:one], rare[one : one + other]
    rare_shared, rare_extra, rare_missing = sum(rare[one + other :]), sum(added), sum(lacking)
    overlap = rare_shared / (rare_shared + rare_extra + rare_missing + 1e-6)
    numbers, same = asked.numbers != known.numbers, not differing
    length, known_length = len(asked.words) + 1, len(known.words) + 1
    both = len(asked.pairs & known.pairs)
    either = len(asked.pairs) + len(known.pairs) - both
    told = not _TOLD.isdisjoint(differing)
    return [
        overlap * 2 - 1,
        overlap * overlap,
        rare_shared * 0.1 if rare_shared < 30.0 else 3.0,
        rare_extra * 0.15 if rare_extra < 20.0 else 3.0,
        rare_missing * 0.15 if rare_missing < 20.0 else 3.0,
        max(added) * 0.2 if one else 0.0,
        max(lacking) * 0.2 if other else 0.0,
        (min(8, one)) * 0.3,
        (min(8, other)) * 0.3,
        min(3, mended),
        numbers,
        numbers and bool(asked.numbers) and bool(known.numbers),
        asked.negations != known.negations,
        not _OPPOSITES.isdisjoint(extra) and _opposed(extra, missing),
        asked.question != known.question,
        told and not _TIMES.isdisjoint(differing),
        told and not _LANGUAGES.isdisjoint(differing),
        min(len(_FORMATS.intersection(differing)), 3) if told else 0,
        _named(differing, asked, known) * 0.5 if asked.names or known.names else 0.0,
        (both / either if either else 1.0) * 2 - 1,
        same,
        same and asked.words != known.words,
        same and asked.words == known.words,
        one == 1 and other == 1,
        math.log(length) - 2,
        abs(math.log(length / known_length)),
    ]


def _opposed(extra: list[str], missing: list[str]) -> bool:
    """Tell whether a word of one text stands against its opposite in the other."""
    return any(not _OPPOSITE[word].isdisjoint(missing) for word in extra if word in _OPPOSITE)


def _named(differing: list[str], asked: Reading, known: Reading) -> int:
    """Give how many of the differing words are names, 3 at the most."""
    return min(sum([word in asked.names or word in known.names for word in differing]), 3)


def _differences(asked: Reading, known: Reading) -> tuple[list[str], list[str], int]:
    """Give the words that only one of the two has, less those that are the other's misspelt or inflected."""
    extra = [word for word in asked.ordered if word not in known.distinct]
    missing = [word for word in known.ordered if word not in asked.distinct]
    mended = 0
    if extra and missing and len(extra) * len(missing) <= _MOST_TWINS:
        others = [word for word in missing if len(word) >= _SHORTEST]
        for word in [word for word in extra if len(word) >= _SHORTEST and not word[0].isdigit()]:
            first, last = word[0], word[-1]
            for other in others:
                if (other[0] == first or other[-1] == last) and _alike(word, other):
                    extra.remove(word)
                    missing.remove(other)
                    others.remove(other)
                    mended += 1
                    break
    return extra, missing, mended


@lru_cache(1 << 14)  # the same few words meet again and again
def _alike(one: str, other: str) -> bool:
    """Tell whether two words are most likely one: the same but for two letters, or of the same stem.

    They begin or end alike, have _SHORTEST letters, and `one` is no number.
    """
    longer, shorter = max(len(one), len(other)), min(len(one), len(other))
    if longer - shorter > 3:
        return False
    head = 0
    while head < shorter and one[head] == other[head]:
        head += 1
    tail = 0
    while tail < shorter - head and one[-1 - tail] == other[-1 - tail]:
        tail += 1
    return (longer - head - tail <= 2 and head + tail >= longer * 0.6) or (head >= 5 and longer - head <= 3)


def agree(one: Reading, other: Reading, cosine: float) -> bool:
    """Tell whether two answers say the same, given the cosine of their vectors.

    The judge of fresh answers against kept ones; strict, for a wrong "same" makes a wrong answer an alias.
    """
    if one.words == other.words:
        return True
    if one.numbers != other.numbers or one.negations % 2 != other.negations % 2:
        return False
    shared = len(one.distinct & other.distinct) / max(1, min(len(one.distinct), len(other.distinct)))
    return cosine >= AGREEING and shared >= 0.5


def swapped(one: Reading, other: Reading) -> bool:
    """Tell whether two texts are the same but for two parts that have changed places around a third.

    "From Rome to Paris" and "from Paris to Rome": a sum of words cannot tell them apart, so a kept answer to
    the one could be planted for the other. Around "and" or "or" places mean nothing.
    """
    a, b = one.words, other.words
    if a == b or len(a) != len(b) or one.distinct != other.distinct:
        return False
    start, end = 0, len(a)
    while a[start] == b[start]:
        start += 1
    while a[end - 1] == b[end - 1]:
        end -= 1
    a, b, size = a[start:end], b[start:end], end - start
    for left in range(1, size - 1):
        for right in range(left + 1, size):
            middle = a[left:right]
            if a[right:] + middle + a[:left] == b and not _EITHER_WAY.issuperset(middle):
                return True
    return False
