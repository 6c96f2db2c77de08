"""A stream of questions with known answers, as live traffic: what would have been served. Pure.

The contract of ``switchgear cache replay``: a decision is taken from text, scope and context alone. The truth
is asked only where the model would have been (a miss) or was asked on purpose (an audited hit), and says no
more than which earlier answer is the same.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np

from semantic_cache.judge import NEIGHBOURS, Judge, Verdict
from semantic_cache.metric import Vectors
from semantic_cache.reading import Reading

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


class _Scope:
    """The texts kept in one scope."""

    def __init__(self, dimensions: int) -> None:
        self.exact: dict[str, _Kept] = {}
        self.pending: set[str] = set()  # served by likeness, never judged
        self.known: list[_Kept] = []
        self._rows = np.zeros((64, dimensions), np.float32)

    def nearest(self, vector: Vectors) -> list[_Kept]:
        count = len(self.known)
        cosines = self._rows[:count] @ vector
        if count > NEIGHBOURS:
            top = np.argpartition(-cosines, NEIGHBOURS - 1)[:NEIGHBOURS]
        else:
            top = np.arange(count)
        return [self.known[i] for i in top[np.argsort(-cosines[top], kind="stable")]]

    def add(self, text: str, known: _Kept) -> None:
        if len(self.known) == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[len(self.known)] = known.vector
        self.known.append(known)
        self.exact[text] = known


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
    for question in questions:
        draw = chance.random()
        key = msgspec.json.encode([_plain(question.scope), _plain(question.context)], order="deterministic")
        vector = embed(question.text)
        scope = scopes.setdefault(key, _Scope(len(vector)))
        known = scope.exact.get(question.text)
        if known is not None:
            judge.ledger.pass_exact()
            yield Decided(question.id, True, known.id, False, 1.0)
            continue
        reading = Reading.of(question.text)
        near = scope.nearest(vector) if not _plain(question.context) else []
        verdict = judge.consider(reading, vector, near, draw, question.text in scope.pending)
        if verdict.serve and not verdict.audit:
            scope.pending.add(question.text)
        served = verdict.entry.id if verdict.serve and verdict.entry else None
        if verdict.audit or not verdict.serve:
            answer = next((one for one in _answers(near) if truth(question.id, one)), None)
            judge.learn(verdict, answer)
            if answer is None:
                answer = question.id
            judge.adopt(answer, vector)
            scope.add(question.text, _Kept(question.id, answer, question.text, vector))
        yield Decided(question.id, verdict.serve, served, verdict.audit, _chance(verdict))


def _answers(near: list[_Kept]) -> list[str]:
    """Give the near answers; each is named after the question that it was first given to."""
    return list(dict.fromkeys(known.answer for known in near))[:_COMPARED]


def _plain(raw: msgspec.Raw) -> object:
    return msgspec.json.decode(raw)


def _chance(verdict: Verdict) -> float:
    return 1 / (1 + math.exp(-max(-30.0, verdict.score)))
