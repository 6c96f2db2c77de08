"""Lexical features of a query: what its words and marks ask for, in numbers.

Pure. Most features are sums over tokens, so a word's part in them is computed once and remembered beside
its vector (see routing.embedding): a text then costs one split and one sum. Every feature is bounded and
means the same in every domain: rates and logarithms, so that a head learns kinds of work and not which
collection a text came from.
"""

import re
from collections.abc import Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

MAX_CHARS = 6_000  # of a longer text, the head and the tail are read

# A run of letters and digits, a mark alone, or a character of a script without spaces. The first pattern says
# the same of ASCII, five times as fast.
_ASCII_TOKENS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]").findall
_TOKENS = re.compile(
    r"[^\W_\u2e80-\u9fff\uf900-\ufaff]+|[\u2e80-\u9fff\uf900-\ufaff]|[^\w\s\x00-\x1f\x7f]|_"
).findall
_OPTION = re.compile(r"^\(?[A-J][.):][ \t]+(\S.*)$", re.MULTILINE)
_ACADEMIC = (
    "tion", "ism", "ity", "ology", "ment", "ance", "ence", "ical", "esis", "ative", "tions", "ities", "ments",
)  # fmt: skip

# Words and marks that tell the kind of work asked for: one kind, one column.
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
    "negation": "not no never none except least cannot without incorrect false wrong neither nor although"
    " unless",
    "condition": "suppose assume given would should could whether",
    "constraint": "must exactly only all any following according based",
    "logic": "therefore thus hence implies statement statements argument conclusion premise true follows",
    "compare": "most best more less larger greater smaller highest lowest likely compare compared"
    " difference between than",
    "person": "he she his her they him man woman people person",
    "speaker": "i my me we our us you your",
    "latex": "\\ $ ^",
    "operators": "= + * / < > - %",
    "brackets": "( [ {",
    "calls": ": ; #",
    "blank": "_",
    "questions": "?",
    "commas": ",",
    "stops": ". !",
    "quotes": "\" ' “ ” ‘ ’",
}
_KIND_OF = {word: column for column, words in enumerate(_KINDS.values()) for word in words.split()}
_COUNTED = (
    "tokens", "words", "letters", "long_words", "academic", "names", "capitals", "numbers", "digits",
    "big_numbers", "foreign", "rare",
)  # fmt: skip
# Words about routing itself say nothing of the work but are what a prompt would steer with: each is read as
# the word NEUTRAL.
NEUTRAL = "thing"
_MUTED = """
capable challenging classifier complex complexity difficult difficulty easy escalate expert extremely
frontier flagship gpt hard harder hardest intelligent large larger largest llm llms model models override
powerful premium priority route routed router routing score smart smartest strong stronger strongest
system threshold tier tiers urgent use weak
schwierig schwierige schwierigste komplex komplexe modell modelle stärkste stärkstes stärksten
difficile difficiles complexe complexes modèle modèles difícil difíciles complejo compleja modelo modelos
complesso complessa modello modelli"""
MUTED = frozenset(_MUTED.split())
COUNTS = len(_COUNTED) + len(_KINDS)  # what a token adds to: see count()
_SHAPE = (
    "chars", "words", "lines", "word_length", "long_words", "academic", "distinct", "names", "digits",
    "numbers", "big_numbers", "capitals", "marks", "foreign", "rare", "options", "option_words",
    "option_numbers", "stem_words", "sentence_words",
)  # fmt: skip
NAMES: tuple[str, ...] = (*_SHAPE, *_KINDS)


def clip(text: str, limit: int) -> str:
    """Give `text`; of one longer than `limit` characters, its head (three quarters of that) and its tail."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail]}\n{text[-tail:]}"


def tokens(text: str) -> list[str]:
    """Give the tokens of `text` in order."""
    return _ASCII_TOKENS(text) if text.isascii() else _TOKENS(text)


def count(token: str, pieces: int, row: NDArray[np.float32]) -> None:
    """Write into `row`, whose first COUNTS numbers are 0, what a token adds to the sums.

    `pieces` are the word pieces that it falls into (0: unknown).
    """
    lowered = token.lower()
    kind = _KIND_OF.get(lowered)
    if kind is not None:
        row[len(_COUNTED) + kind] = 1.0
    letters = len(token) if token.isalpha() else sum(map(str.isalpha, token))
    digits = 0 if letters == len(token) else sum(map(str.isdigit, token))
    long = letters > 8
    row[: len(_COUNTED)] = (
        1, letters > 0, letters, long, long and lowered.endswith(_ACADEMIC), token.istitle(),
        letters > 1 and token.isupper(), digits > 0, digits, digits > 2,
        0 if token.isascii() else sum(character > "\x7f" for character in token),
        letters > 0 and pieces != 1,
    )  # fmt: skip


def lexical(text: str, found: Sequence[str], sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the features, (len(NAMES),) float32, each finite and within about 0 to 10.

    `text` is clipped to MAX_CHARS, `found` are its words as white space parts them, `sums` (COUNTS,) adds up
    the counts of its tokens.
    """
    total, words, letters, long, academic, names, capitals, numbers, digits, big, foreign, rare = sums[
        : len(_COUNTED)
    ].tolist()
    lines = text.count("\n")
    options = _OPTION.findall(text) if lines else ()
    option_words = sum(option.count(" ") + 1 for option in options)
    count, size = words + 1, len(text) + 1
    stops = float(sums[_STOPS]) + float(sums[_QUESTIONS])
    row = np.empty(len(NAMES), np.float32)
    row[: len(_SHAPE)] = (
        log1p(size),
        log1p(count),
        log1p(lines),
        min(letters / count, 12.0),
        long / count * 5,
        academic / count * 10,
        len(set(found)) / (len(found) + 1),
        names / count * 3,
        digits / size * 10,
        log1p(numbers),
        log1p(big),
        capitals / count * 5,
        max(0.0, total - words - numbers) / (total + 1) * 5,
        min(5.0, 50 * foreign / size),
        rare / count * 5,
        log1p(len(options)),
        log1p(option_words / (len(options) + 1)),
        sum(option[0].isdigit() or option[0] in "$-" for option in options) / (len(options) + 1),
        log1p(max(0.0, count - option_words)),
        log1p(count / (1 + stops + lines)),
    )
    np.log1p(sums[len(_COUNTED) :], out=row[len(_SHAPE) :])
    return row


_STOPS = len(_COUNTED) + list(_KINDS).index("stops")
_QUESTIONS = len(_COUNTED) + list(_KINDS).index("questions")
