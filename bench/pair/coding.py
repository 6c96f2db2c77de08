"""Code tasks: what a function is to do, and calls with the results that it must give.

Each kind of problem has a reference of our own; its variants differ in a number. Tests are the reference's
results on drawn arguments, so that they hold by construction.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

Reference = Callable[..., Any]
Problem = tuple[str, str, Callable[[int], Reference], Callable[[random.Random], list[Any]]]
_WORDS = (
    "level",
    "amber",
    "kayak",
    "stone",
    "noon",
    "river",
    "radar",
    "pop",
    "refer",
    "plain",
    "deed",
    "mum",
)
_VARIANTS = (2, 3, 4, 5, 6, 7, 8, 9)


def _numbers(draw: random.Random) -> list[Any]:
    return [[draw.randint(-20, 60) for _ in range(draw.randint(1, 8))]]


def _number(draw: random.Random) -> list[Any]:
    return [draw.randint(0, 120)]


def _two(draw: random.Random) -> list[Any]:
    return [draw.randint(1, 60), draw.randint(1, 60)]


def _word(draw: random.Random) -> list[Any]:
    return [draw.choice(_WORDS)]


def _words(draw: random.Random) -> list[Any]:
    return [[draw.choice(_WORDS) for _ in range(draw.randint(1, 6))]]


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _in_base(n: int, base: int) -> str:
    digits = ""
    while n >= base:
        n, last = divmod(n, base)
        digits = str(last) + digits
    return str(n) + digits


def _rotated(values: list[int], places: int) -> list[int]:
    places %= len(values)
    return values[places:] + values[:places]


def _streak(values: list[int], step: int) -> int:
    best = now = 1
    for before, after in itertools.pairwise(values):
        now = now + 1 if after >= before + step else 1
        best = max(best, now)
    return best


def _second_below(values: list[int], limit: int) -> int | None:
    found = sorted({one for one in values if one < limit})
    return found[-2] if len(found) > 1 else None


# The name with its parameters, what it does ({k} is the variant), the reference for a k, and the arguments.
PROBLEMS: tuple[Problem, ...] = (
    ("add(a, b)", "that returns a + b + {k}.", lambda k: lambda a, b: a + b + k, _two),
    ("multiples(n)", "that returns the sum of all multiples of {k} from 1 to n, n included.",
     lambda k: lambda n: sum(range(k, n + 1, k)), _number),
    ("count_above(values)", "that returns how many numbers of the list are greater than {k}.",
     lambda k: lambda values: sum(one > k for one in values), _numbers),
    ("is_mirror(word)", "that returns True if the word reads the same backwards and has at least {k} letters,"
     " else False.", lambda k: lambda word: word == word[::-1] and len(word) >= k, _word),
    ("shorten(word)", "that returns the first {k} characters of the word in upper case.",
     lambda k: lambda word: word[:k].upper(), _word),
    ("long_words(words)", "that returns how many words of the list have more than {k} letters.",
     lambda k: lambda words: sum(len(one) > k for one in words), _words),
    ("scale(values)", "that returns a new list with every number multiplied by {k}.",
     lambda k: lambda values: [one * k for one in values], _numbers),
    ("divisor(a, b)", "that returns the greatest common divisor of a and {k} * b.",
     lambda k: lambda a, b: _gcd(a, k * b), _two),
    ("digit_sum(n)", "that returns the sum of the decimal digits of n, plus {k}.",
     lambda k: lambda n: sum(map(int, str(n))) + k, _number),
    ("rotate(values)", "that returns the list rotated to the left by {k} places.",
     lambda k: lambda values: _rotated(values, k), _numbers),
    ("every(values)", "that returns the sum of every number of the list whose index is divisible by {k}.",
     lambda k: lambda values: sum(values[::k]), _numbers),
    ("streak(values)", "that returns the length of the longest run of neighbours in the list in which every"
     " number is greater by at least {k} than the one before it.",
     lambda k: lambda values: _streak(values, k), _numbers),
    ("clamp(n)", "that returns n, but at least {k} and at most {k} + 40.",
     lambda k: lambda n: max(k, min(k + 40, n)), _number),
    ("second(values)", "that returns the second largest of the different numbers of the list that are below"
     " {k} * 10, or None if there are fewer than two of them.",
     lambda k: lambda values: _second_below(values, k * 10), _numbers),
    ("fizz(n)", "that returns 'fizz' if n is divisible by {k}, else n as a string.",
     lambda k: lambda n: "fizz" if n % k == 0 else str(n), _number),
    ("to_base(n)", "that returns n, a whole number that is not negative, written in base {k} as a string"
     " without a prefix.", lambda k: lambda n: _in_base(n, k), _number),
)  # fmt: skip


def problem(draw: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    """Give a problem's words, and ``{"name", "calls": [[arguments, result], ...]}``."""
    head, words, reference, arguments = PROBLEMS[number % len(PROBLEMS)]
    k = _VARIANTS[number // len(PROBLEMS) % len(_VARIANTS)]
    right = reference(k)
    asked = [arguments(draw) for _ in range(6)]
    return (
        f"{head} {words.format(k=k)}",
        {"name": head.partition("(")[0], "calls": [[one, right(*one)] for one in asked]},
    )
