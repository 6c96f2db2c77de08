"""The tasks: arithmetic, JSON extraction, code with tests, facts; the same every time.

A task is a prompt, what counts as right, and how long an answer may be. Numbers and records are drawn with a
seed, code tasks carry their tests, facts are a written list.
"""

import random
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bench.pair import coding
from bench.pair.facts import FACTS

Kind = Literal["arithmetic", "json", "code", "facts"]
OF_EACH = 80
SEED = 7


class Task(msgspec.Struct, frozen=True):
    """``right`` is a number, a record, tests of ``name``, or the answers that are accepted, by ``kind``."""

    id: str
    kind: Kind
    prompt: str
    right: Any
    max_tokens: int


def tasks(of_each: int = OF_EACH, seed: int = SEED) -> list[Task]:
    """Give ``of_each`` tasks of every kind, at most OF_EACH, kinds in turn; no prompt stands there twice."""
    draw = random.Random(seed)
    found: dict[str, Task] = {}
    for number in range(of_each):
        for make in (_arithmetic, _json, _code, _fact):
            task = make(draw, number)
            while task.prompt in found:
                task = make(draw, number)
            found[task.prompt] = task
    return list(found.values())


# ---- arithmetic ----

_NAMES = ("Ada", "Bela", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Igor", "Julia")
_THINGS = ("apples", "stamps", "bolts", "tickets", "books", "tiles", "candles", "cups")


def _sum(draw: random.Random) -> tuple[str, int]:
    a, b = draw.randint(12, 99), draw.randint(12, 99)
    return f"What is {a} + {b}?", a + b


def _product(draw: random.Random) -> tuple[str, int]:
    a, b = draw.randint(3, 12), draw.randint(3, 25)
    return f"What is {a} times {b}?", a * b


def _difference(draw: random.Random) -> tuple[str, int]:
    a, b = draw.randint(200, 999), draw.randint(20, 199)
    return f"Subtract {b} from {a}.", a - b


def _shopping(draw: random.Random) -> tuple[str, int]:
    who, thing = draw.choice(_NAMES), draw.choice(_THINGS)
    count, price, paid = draw.randint(3, 9), draw.randint(2, 9), draw.choice((100, 150, 200))
    return (
        f"{who} buys {count} {thing} at {price} euros each and pays with {paid} euros. How many euros does"
        f" {who} get back?"
    ), paid - count * price


def _remainder(draw: random.Random) -> tuple[str, int]:
    a, b = draw.randint(50, 200), draw.randint(6, 13)
    return f"What is the remainder when {a} is divided by {b}?", a % b


def _percent(draw: random.Random) -> tuple[str, int]:
    part, whole = draw.choice((5, 10, 20, 25, 50)), draw.randint(2, 20) * 20
    return f"What is {part} percent of {whole}?", part * whole // 100


def _journey(draw: random.Random) -> tuple[str, int]:
    speed, hours, more = draw.randint(4, 12) * 10, draw.randint(2, 5), draw.randint(2, 9) * 5
    return (
        f"A train travels for {hours} hours at {speed} km per hour, then another {more} km. How many"
        " kilometres does it travel in all?"
    ), speed * hours + more


def _expression(draw: random.Random) -> tuple[str, int]:
    a, b, c = draw.randint(2, 9), draw.randint(2, 9), draw.randint(10, 40)
    return f"Compute {c} - {a} * {b} + {a}.", c - a * b + a


_SUMS = (_sum, _product, _difference, _shopping, _remainder, _percent, _journey, _expression)


def _arithmetic(draw: random.Random, number: int) -> Task:
    asked, right = _SUMS[number % len(_SUMS)](draw)
    return Task(f"arithmetic-{number}", "arithmetic", f"{asked} Answer with the number only.", right, 24)


# ---- JSON extraction ----

_CITIES = ("Lisbon", "Graz", "Oslo", "Porto", "Ghent", "Turin", "Malmo", "Leeds", "Basel", "Brno")
_JOBS = ("plumber", "nurse", "baker", "pilot", "lawyer", "gardener", "welder", "teacher")
_MONTHS = ("January", "March", "April", "June", "August", "October", "December")
_COLOURS = ("red", "green", "blue", "grey", "yellow")

Record = dict[str, str | int]


def _person(draw: random.Random) -> tuple[str, Record]:
    name, age, job = draw.choice(_NAMES), draw.randint(19, 70), draw.choice(_JOBS)
    return f"{name} is {age} years old and works as a {job}.", {"name": name, "age": age, "job": job}


def _order(draw: random.Random) -> tuple[str, Record]:
    who, count, thing = draw.choice(_NAMES), draw.randint(2, 40), draw.choice(_THINGS)
    city = draw.choice(_CITIES)
    text = f"Please send {count} {thing} to our shop in {city}. Kind regards, {who}"
    return text, {"item": thing, "quantity": count, "city": city, "sender": who}


def _event(draw: random.Random) -> tuple[str, Record]:
    day, month, hour = draw.randint(1, 28), draw.choice(_MONTHS), draw.randint(8, 20)
    city, other = draw.sample(_CITIES, 2)
    text = f"The meeting was planned for {other}, but takes place in {city} on {day} {month} at {hour}:00."
    return text, {"city": city, "day": day, "month": month, "hour": hour}


def _parcel(draw: random.Random) -> tuple[str, Record]:
    number, weight, colour = draw.randint(1000, 9999), draw.randint(2, 30), draw.choice(_COLOURS)
    text = f"Parcel no. {number}: a {colour} box, {weight} kg, not insured."
    return text, {"number": number, "colour": colour, "weight_kg": weight}


_TEXTS: tuple[Callable[[random.Random], tuple[str, Record]], ...] = (_person, _order, _event, _parcel)


def _json(draw: random.Random, number: int) -> Task:
    text, right = _TEXTS[number % len(_TEXTS)](draw)
    keys = ", ".join(f'"{key}"' for key in right)
    prompt = (
        f"Extract the keys {keys} from the text as one JSON object. Answer with the JSON only.\nText: {text}"
    )
    return Task(f"json-{number}", "json", prompt, right, 72)


# ---- code and facts ----


def _code(draw: random.Random, number: int) -> Task:
    asked, tests = coding.problem(draw, number)
    prompt = f"Write a Python function {asked} Answer with the code only, no explanation."
    return Task(f"code-{number}", "code", prompt, tests, 120)


def _fact(draw: random.Random, number: int) -> Task:
    question, answers = FACTS[number % len(FACTS)]
    return Task(f"facts-{number}", "facts", f"{question} Answer with the name only.", list(answers), 24)
