"""Lexical features of a query: what the words ask for, in numbers.

Pure. Every feature is bounded, counted over at most MAX_CHARS characters (the head and the tail of a longer
text), and means the same in every domain: rates and logarithms instead of totals, so that a head learns kinds
of work and not which collection a text came from.
"""

import re
from math import log1p

import numpy as np
from numpy.typing import NDArray

MAX_CHARS = 6_000

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPTION = re.compile(r"^\(?[A-J][.):]\s+(\S.*)$", re.MULTILINE)
_ACADEMIC = (
    "tion",
    "ism",
    "ity",
    "ology",
    "ment",
    "ance",
    "ence",
    "ical",
    "esis",
    "ative",
    "tions",
    "ities",
    "ments",
)

# Words that tell the kind of work asked for: one word, one column.
_KINDS = {
    "person_question": "who whose whom when where",
    "choice_question": "which what",
    "reason": "why how explain because reason",
    "amount": "many much long far old often total remaining left twice half times each every per percent",
    "write": "write create compose draft generate rewrite design make story essay poem email letter article",
    "compute": "calculate compute find solve evaluate simplify determine prove derive integer sum product"
    " value",
    "transform": "translate summarize summarise classify convert edit correct identify extract list name"
    " give",
    "program": "function python program code string array algorithm java sql implement def return assert"
    " import self",
    "loop": "for while if else elif",
    "unit": "hour hours minute minutes day days week weeks month months year years mile miles meter"
    " meters feet dollars cents pounds kg cm",
    "negation": "not no never none except least cannot without incorrect false wrong",
    "condition": "suppose assume given unless would should could whether",
    "constraint": "must exactly only all any following according based",
    "logic": "therefore thus hence implies statement statements argument conclusion premise true follows",
    "compare": "most best more less larger greater smaller highest lowest likely compare compared"
    " difference between than",
    "person": "he she his her they him man woman people person",
    "speaker": "i my me we our us you your",
}
_COLUMN = {word: column for column, words in enumerate(_KINDS.values()) for word in words.split()}
# Marks counted as they stand.
_MARKS = {
    "latex": ("\\", "$", "^"),
    "operators": ("=", "+", "*", "/", "<", ">"),
    "calls": ("()", "):", "[", "{", ";", ">>>"),
    "blank": ("__", "??", "..."),
    "questions": ("?",),
    "commas": (",",),
    "quotes": ('"', "“", "”"),
    "money": ("€", "£", "%", " $"),
}
_SHAPE = (
    "chars", "words", "lines", "word_length", "long_words", "academic", "distinct", "names", "digits",
    "numbers", "big_numbers", "capitals", "marks", "foreign", "options", "option_words", "option_numbers",
    "stem_words", "sentence_words",
)  # fmt: skip
NAMES: tuple[str, ...] = (*_SHAPE, *_KINDS, *_MARKS)


def clip(text: str, limit: int) -> str:
    """Give `text`; of one longer than `limit` characters, its head (three quarters of that) and its tail."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail]}\n{text[-tail:]}"


def lexical(text: str) -> NDArray[np.float32]:
    """Give the features of `text`, (len(NAMES),) float32, each finite and within about 0 to 10."""
    text = clip(text, MAX_CHARS)
    words = _WORD.findall(text)
    numbers = _NUMBER.findall(text)
    options = _OPTION.findall(text)
    count, size = len(words) + 1, len(text) + 1
    option_words = sum(option.count(" ") + 1 for option in options)
    lines = text.count("\n")
    letters = sum(map(len, words))
    digits = sum(map(len, numbers))
    lowered = list(map(str.lower, words))
    kinds = [0] * len(_KINDS)
    for column in map(_COLUMN.get, lowered):
        if column is not None:
            kinds[column] += 1
    long = [word for word in lowered if len(word) > 8]
    shape = (
        log1p(size),
        log1p(count),
        log1p(lines),
        letters / count,
        len(long) / count * 5,
        sum(word.endswith(_ACADEMIC) for word in long) / count * 10,
        len(set(words)) / count,
        sum(map(str.istitle, words)) / count * 3,
        digits / size * 10,
        log1p(len(numbers)),
        log1p(len([1 for number in numbers if len(number) > 2])),
        len([1 for word in words if word.isupper() and len(word) > 1]) / count * 5,
        (size - letters - digits - text.count(" ") - lines) / size * 5,
        0.0 if text.isascii() else min(5.0, 50 * sum(character > "\x7f" for character in text) / size),
        log1p(len(options)),
        log1p(option_words / (len(options) + 1)),
        sum(option[0].isdigit() or option[0] in "$-" for option in options) / (len(options) + 1),
        log1p(max(0, count - option_words)),
        log1p(count / (1 + text.count(". ") + text.count("?") + lines)),
    )
    marks = [log1p(sum(map(text.count, signs))) for signs in _MARKS.values()]
    return np.array([*shape, *map(log1p, kinds), *marks], np.float32)
