"""A question as the verifier reads it: words, numbers, names, negations. Pure.

Words are lower case, contractions are written out, marks are left out. The vector comes from outside.
"""

import re
from itertools import pairwise
from sys import intern
from typing import Self

import msgspec

MAX_WORDS = 400  # the verifier reads a question, not a book; the vector has seen the rest

_TOKEN = re.compile(r"[^\W_]+(?:['.,:][^\W_]+)*")
_ENDINGS = {"n't": "not", "'re": "are", "'s": "is", "'ll": "will", "'ve": "have", "'m": "am", "'d": "would"}
_WRITTEN_OUT = {
    "can't": "can not", "won't": "will not", "cannot": "can not", "wanna": "want to", "gonna": "going to",
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "isnt": "is not", "cant": "can not",
    "whats": "what is", "im": "i am", "ive": "i have",
}  # fmt: skip
_QUESTIONS = {
    word: n
    for n, word in enumerate(("what", "which", "who", "whose", "whom", "when", "where", "why", "how"), 1)
}


def listed(text: str) -> frozenset[str]:
    """Give the words of a list that is written as one text."""
    return frozenset(text.split())


_WORD, _DIGIT = re.compile(r"\w+"), re.compile(r"\d")
_REPEATED = 8  # one of so many


def repetitive(text: str) -> bool:
    """Tell whether more than an eighth of its runs of three words were there before.

    Words said again and again drown all others of a text in its embedding, and so take it where they lie.
    """
    words = _WORD.findall(text.lower())
    if len(set(words)) == len(words):
        return False
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return (len(runs) - len(set(runs))) * _REPEATED > len(runs)


_NEGATIONS = listed("not no never none nothing without neither nor nobody")
NUMBER_WORDS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fifteen twenty thirty forty"
    " fifty sixty hundred thousand million billion first second third half"
)


class Reading(msgspec.Struct, frozen=True):
    """What was read of one text."""

    words: tuple[str, ...]
    distinct: frozenset[str]
    ordered: tuple[str, ...]  # the distinct ones by the alphabet: sets have no order, and sums round by order
    pairs: frozenset[tuple[str, str]]
    numbers: frozenset[str]
    names: frozenset[str]  # words with a capital that did not begin the text
    negations: int
    question: int  # which question word came first; 0 for none

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a text."""
        text = text.replace("’", "'")
        tokens = _TOKEN.findall(text)[:MAX_WORDS]
        if text.islower():
            words, names = (
                list(map(intern, tokens)),
                set[str](),
            )  # one string for all texts that have the word
        else:
            words = [intern(token.lower()) for token in tokens]
            names = {words[n] for n, token in enumerate(tokens) if n and token[0].isupper()}
        if "'" in text or not _WRITTEN_OUT.keys().isdisjoint(words):
            words = [plain for word in words for plain in _plain(word)]
        distinct = frozenset(words)
        numbers = distinct & NUMBER_WORDS
        if _DIGIT.search(text) is not None:
            numbers = numbers.union([word for word in distinct if word[0].isdigit()])
        return cls(
            words=tuple(words),
            distinct=distinct,
            ordered=tuple(sorted(distinct)),
            pairs=frozenset(pairwise(words)),
            numbers=numbers,
            names=frozenset(names),
            negations=0 if _NEGATIONS.isdisjoint(distinct) else sum(word in _NEGATIONS for word in words),
            question=next((_QUESTIONS[word] for word in words if word in _QUESTIONS), 0),
        )


def _plain(word: str) -> list[str]:
    """Write a contraction out."""
    known = _WRITTEN_OUT.get(word)
    if known is not None:
        return known.split()
    if "'" in word:
        for ending, meaning in _ENDINGS.items():
            if word.endswith(ending) and len(word) > len(ending):
                return [word[: -len(ending)], meaning]
    return [word]
