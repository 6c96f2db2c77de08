"""A stream of questions with known answers, as live traffic: what would have been served. Pure.

The contract of ``switchgear cache replay``: a decision is taken from text, scope and context alone. The truth
is asked only where the model would have been (a miss) or was asked on purpose (an audited hit), and says no
more than which earlier answer is the same.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np

from semantic_cache.judge import NEIGHBOURS, Judge
from semantic_cache.near import Near, Vectors
from semantic_cache.reading import Reading
from semantic_cache.verdict import Verdict

_COMPARED = 16  # answers that the judge of a miss is shown


class Question(msgspec.Struct, frozen=True):
    """One line of the stream."""

    id: str
    text: str
    scope: msgspec.Raw = msgspec.Raw(b"null")
    context: msgspec.Raw = msgspec.Raw(b"null")


class Decided(msgspec.Struct, frozen=True):
    """What became of it."""

    id: str
    hit: bool
    served: str | None
    audited: bool
    score: float


class _Kept(msgspec.Struct, frozen=True):
    id: str
    answer: str
    text: str
    vector: Vectors
    at: int  # which question brought it in, or confirmed it


class _Scope:
    """The texts kept in one scope."""

    def __init__(self, dimensions: int) -> None:
        self.exact: dict[str, _Kept] = {}
        self.pending: set[str] = set()  # served by likeness, never judged
        self._known: list[_Kept] = []
        self._row: dict[str, int] = {}  # by the text
        self._rows = np.zeros((64, dimensions), np.float32)

    def nearest(self, vector: Vectors) -> Near[_Kept]:
        count = len(self._known)
        cosines = self._rows[:count] @ vector
        if count > NEIGHBOURS:
            top = np.argpartition(-cosines, NEIGHBOURS - 1)[:NEIGHBOURS]
        else:
            top = np.arange(count)
        top = top[np.argsort(-cosines[top], kind="stable")]
        return Near([self._known[i] for i in top.tolist()], self._rows[top], cosines[top])

    def keep(self, known: _Kept) -> None:
        """Keep a text, or a fresh answer to one."""
        self.exact[known.text] = known
        row = self._row.setdefault(known.text, len(self._known))
        if row < len(self._known):
            self._known[row] = known
            return
        if row == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[row] = known.vector
        self._known.append(known)


def replay(
    questions: Iterable[Question],
    truth: Callable[[str, str], bool],
    judge: Judge,
    embed: Callable[[str], Vectors],
    seed: int,
) -> Iterator[Decided]:
    """Decide on each question in turn; `truth` tells whether two ids have the same answer."""
    chance = random.Random(seed)  # noqa: S311 - draws audits, guards nothing
    scopes: dict[bytes, _Scope] = {}
    for number, question in enumerate(questions):
        draw = chance.random()
        key = msgspec.json.encode([_plain(question.scope), _plain(question.context)], order="deterministic")
        vector = embed(question.text)
        scope = scopes.setdefault(key, _Scope(len(vector)))
        known = scope.exact.get(question.text)
        if known is not None and judge.repeat(known.at, number) == "serve":
            yield Decided(question.id, True, known.id, False, 1.0)
            continue
        alone = not _plain(question.context)
        near = scope.nearest(vector) if alone else Near.nothing()
        if known is not None:
            answer = _right(question, [known, *near], truth)
            judge.learn_repeat(known.answer, number - known.at, number, answer == known.answer, 0.0)
            if answer == known.answer:
                scope.keep(msgspec.structs.replace(known, at=number))
            else:
                judge.adopt(answer, vector)
                scope.keep(_Kept(question.id, answer, question.text, vector, number))
            yield Decided(question.id, False, None, False, 1.0)
            continue
        if not alone:  # as at the door: the exact tier has it alone, and the bound is not taken over it
            judge.ledger.pass_aside()
            scope.keep(_Kept(question.id, question.id, question.text, vector, number))
            yield Decided(question.id, False, None, False, 0.0)
            continue
        reading = Reading.of(question.text)
        verdict = judge.consider(reading, vector, near, draw, question.text in scope.pending)
        if verdict.serve and not verdict.audit:
            scope.pending.add(question.text)
        served = verdict.entry.id if verdict.serve and verdict.entry else None
        if verdict.audit or not verdict.serve:
            answer = _right(question, near, truth)
            same = answer if answer != question.id else None
            if verdict.examined:
                judge.learn(verdict, same)
            else:
                judge.learn_later(reading, vector, near, same)
            judge.adopt(answer, vector, question.id, reading)
            scope.keep(_Kept(question.id, answer, question.text, vector, number))
        yield Decided(question.id, verdict.serve, served, verdict.audit, _chance(verdict))


def _right(question: Question, known: Sequence[_Kept], truth: Callable[[str, str], bool]) -> str:
    """Give the answer that is the right one, a new one if none of those known is.

    Each is named after the question that it was first given to.
    """
    answers = list(dict.fromkeys(one.answer for one in known))[:_COMPARED]
    return next((one for one in answers if truth(question.id, one)), question.id)


def _plain(raw: msgspec.Raw) -> object:
    return msgspec.json.decode(raw)


def _chance(verdict: Verdict) -> float:
    return 1 / (1 + math.exp(-max(-30.0, verdict.score)))
