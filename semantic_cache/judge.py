"""Whether an earlier answer serves: one judge for each route, learning as it goes. Pure.

The order of a query: ``consider`` gives a verdict on the nearest texts; the caller serves or asks the model;
where the truth came out (a miss, an audited hit) ``learn`` takes it, and ``adopt`` each text that is kept.
Texts that share an answer are aliases of one answer.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np

from semantic_cache.constancy import Constancy
from semantic_cache.lasting import Lasting
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds, Ledger
from semantic_cache.metric import Metric, Vectors
from semantic_cache.reading import Reading
from semantic_cache.verify import Evidence, Nearness, compare, swapped

NEIGHBOURS = 48
_CANDIDATES = 3
_SHARPNESS = 15.0  # of the votes of near texts
Repeat = Literal["serve", "check", "ask"]
"""Of an exact repeat: give the kept answer; give it, and ask beside; ask."""

_UNREST = 0.1  # of exact repeats that are asked anew where all speaks for a change
_LONE = 0.3  # the margin of an answer without a rival
_MOST_WORDS = 50_000
_MOST_READINGS = 4_000
_AUDITS_FIRST, _AUDITS_LAST, _AUDITS_HITS = 0.19, 0.045, 1000.0
_MOST_LOGS = 4_000
_LOGS = [math.log(n + 1.0) for n in range(_MOST_LOGS + 1)]


class Known(Protocol):
    """A text whose answer is kept; `answer` is shared by its aliases."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def answer(self) -> str:
        """The name of its answer."""

    @property
    def text(self) -> str:
        """The text itself: vectors alone can be made to collide."""

    @property
    def vector(self) -> Vectors:
        """Its unit vector."""


class Verdict(msgspec.Struct, frozen=True):
    """What to do with a query. `score` is the log odds that `entry`'s answer is right."""

    serve: bool
    audit: bool
    score: float
    answer: str
    entry: Known | None
    examined: tuple[tuple[str, Evidence], ...] = ()

    @property
    def told(self) -> str:
        """The verdict in a word: ``audited`` is a hit that is asked upstream again."""
        if not self.serve:
            return "refused" if self.entry is not None else "nothing_near"
        return "audited" if self.audit else "served"


UNDECIDED = Verdict(False, False, -math.inf, "", None)


class _Answer(Lasting):
    """What is known of one answer."""

    LASTS = ("sum", "texts", "judged", "right", "probation", "trial", "seen")

    __slots__ = ("judged", "number", "probation", "right", "seen", "sum", "texts", "trial")

    def __init__(self, number: int, dimensions: int) -> None:
        self.number = number
        self.sum = np.zeros(dimensions, np.float32)
        self.texts = 0
        self.judged = self.right = 0
        self.probation = 0  # agreements still owed before it is served again
        self.trial = 1
        self.seen = 0  # after how many queries it was the right one last


class Judge(Lasting):
    """Decides for one route."""

    LASTS = ("_texts", "_allowance", "_risk", "_since", "_changed", "_owed")

    def __init__(self, bounds: Bounds, learner: Learner, dimensions: int) -> None:
        self.ledger = Ledger(bounds)
        self._learner = learner
        self._metric = Metric(dimensions)
        self._dimensions = dimensions
        self._answers: dict[str, _Answer] = {}
        self._numbers = 0
        self._readings: dict[str, Reading] = {}
        self._words: Counter[str] = Counter()
        self._texts = 0
        self._allowance = 0.0  # audits
        self._risk = 0.3  # running mean of the draw weight
        self._constancy = Constancy()
        self._since = 0  # after how many queries all answers changed last
        self._changed = -math.inf  # when that was, by the caller's clock
        self._owed = 0.0  # exact repeats to be asked anew

    def repeat(self, confirmed: float, now: float) -> Repeat:
        """Tell whether an exact repeat may be given its kept answer; counts it as a query.

        `confirmed`: when the answer was right last, by the caller's clock, in whatever unit. Where the model
        is asked, because the answer may be right no more or to see whether it is, the outcome goes to
        ``learn_repeat``.
        """
        bound = self.ledger.bounds.error
        self._owed += max(self._constancy.share(bound), _UNREST * self.ledger.unrest)
        lasting = self._constancy.lasting(now - confirmed, bound)
        if not lasting or confirmed < self._changed:
            self.ledger.pass_empty()
            return "ask"
        if self._owed >= 1:
            self._owed -= 1
            self.ledger.pass_empty()
            return "ask" if self._constancy.suspected else "check"
        self.ledger.pass_exact()
        return "serve"

    def learn_repeat(self, answer: str | None, age: float, now: float, same: bool, noise: float) -> None:
        """Take the outcome of an exact repeat that was not served: is its answer still the right one?

        `age`: since when it was right last; `noise`: how often fresh answers differ from each other.
        """
        known = self._answers.get(answer or "")
        if known is not None and same:
            known.seen = self.ledger.total
        elif known is not None:
            known.probation = max(known.probation, 1)
        # of what a change has cast doubt on, nobody learns how long answers last
        if now - age >= self._changed and self._constancy.note(age, same, noise):
            self._changed, self._since = now, self.ledger.total
            self.ledger.doubt()

    def consider(
        self,
        reading: Reading,
        vector: Vectors,
        near: Sequence[Known],
        draw: float,
        again: bool,
        barred: Container[str] = (),
    ) -> Verdict:
        """Decide on a query, given the nearest texts of its scope; `draw` in [0, 1) decides on an audit.

        `again`: the same text was served by likeness before and nobody judged it. It is judged now, by an
        audit or as a miss, so that a wrong answer does not come back as often as its question. Answers that
        are `barred` are not served.
        """
        self._count(reading)
        if not near:
            self.ledger.pass_empty()
            return UNDECIDED
        examined = self._examine(reading, vector, near)
        scores = self._learner.logits([evidence for _, _, evidence in examined])
        best = scores.index(max(scores))
        score, (answer, entry, _) = scores[best], examined[best]
        known = self._answers[answer]
        sound = not known.probation and known.seen >= self._since and answer not in barred
        serve = sound and score >= self.ledger.threshold and not swapped(reading, self._read(entry.text))
        audit = serve and self._audited(score, draw, again)
        serve = serve and (audit or not again)
        self.ledger.enter(score, serve)
        kept = [
            (examined[n][0], examined[n][2]) for n in [best, *(i for i in range(len(examined)) if i != best)]
        ]
        return Verdict(serve, audit, score, answer, entry, tuple(kept))

    def learn(self, verdict: Verdict, answer: str | None) -> None:
        """Take the truth: which of the near answers was the right one, None where none was."""
        if not verdict.examined:
            return
        right = verdict.answer == answer
        self.ledger.judge(verdict.score, right, verdict.serve)
        known = self._of(verdict.answer)
        known.judged += 1
        known.right += right
        if right:
            known.seen = self.ledger.total
            known.probation = max(0, known.probation - 1)
        elif verdict.serve:
            known.probation = min(8, known.trial)
            known.trial *= 2
        weight = 2.0 if verdict.serve else 1.0
        self._learner.learn([(evidence, one == answer) for one, evidence in verdict.examined], weight)

    def adopt(self, answer: str, vector: Vectors) -> None:
        """Take in a text that was kept under an answer."""
        known = self._of(answer)
        if known.texts:
            self._metric.learn(vector, known.sum / np.float32(known.texts), known.texts)
        known.sum += vector
        known.texts += 1
        known.seen = self.ledger.total

    def forget(self, answer: str) -> None:
        """Forget an answer that is kept no longer."""
        self._answers.pop(answer, None)

    def state(self) -> dict[str, Any]:
        """Give all that was learned."""
        parts = {
            "ledger": self.ledger,
            "learner": self._learner,
            "metric": self._metric,
            "constancy": self._constancy,
        }
        return {
            **super().state(),
            "dimensions": self._dimensions,
            **{name: part.state() for name, part in parts.items()},
            "answers": {name: one.state() for name, one in self._answers.items()},
            "words": dict(self._words),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take all that was learned. Raises KeyError, TypeError or ValueError where it does not fit."""
        super().resume(state)
        self.ledger.resume(state["ledger"])
        self._learner.resume(state["learner"])
        self._metric.resume(state["metric"])
        self._constancy.resume(state["constancy"])
        for name, one in state["answers"].items():
            self._of(name).resume(one)
        self._words = Counter(state["words"])

    def _of(self, answer: str) -> _Answer:
        known = self._answers.get(answer)
        if known is None:
            self._numbers += 1
            known = self._answers[answer] = _Answer(self._numbers, self._dimensions)
        return known

    def _count(self, reading: Reading) -> None:
        self._texts += 1
        self._words.update(dict.fromkeys(reading.words, 1))
        if len(self._words) > _MOST_WORDS:
            self._words = Counter(dict(self._words.most_common(_MOST_WORDS // 2)))

    def _read(self, text: str) -> Reading:
        """Read a known text, or remember having done so."""
        reading = self._readings.get(text)
        if reading is None:
            if len(self._readings) >= _MOST_READINGS:
                self._readings.clear()
            reading = self._readings[text] = Reading.of(text)
        return reading

    def _audited(self, score: float, draw: float, again: bool) -> bool:
        """Draw an audit within the share that is allowed, rather where a hit is more likely wrong."""
        if again and self._allowance < 1:
            return False
        hits = self.ledger.served
        share = _AUDITS_LAST + (_AUDITS_FIRST - _AUDITS_LAST) * _AUDITS_HITS / (_AUDITS_HITS + hits)
        self._allowance = min(self._allowance + share, 20.0)
        risk = math.sqrt(1 / (1 + math.exp(score)))
        self._risk += 0.02 * (risk - self._risk)
        wanted = again or draw < share * max(0.7, min(2.0, risk / self._risk))
        if not wanted or self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _examine(
        self, reading: Reading, vector: Vectors, near: Sequence[Known]
    ) -> list[tuple[str, Known, Evidence]]:
        """Give the answers worth a look (answer, its nearest text, evidence)."""
        vectors = np.array([one.vector for one in near])
        names = [one.answer for one in near]
        answers = list(dict.fromkeys(names))
        first = [names.index(answer) for answer in answers]  # its nearest text, for they come best first
        for answer, row in zip(answers, first, strict=True):
            if answer not in self._answers:  # kept by another gateway that shares the store
                self.adopt(answer, near[row].vector)
        place = {answer: n for n, answer in enumerate(answers)}
        of = [place[name] for name in names]
        learned, central = self._closeness(vector, near, vectors, answers)
        votes = np.bincount(of, np.exp((learned - 1) * _SHARPNESS), len(answers))
        nearest_learned = np.full(len(answers), -1.0)
        np.maximum.at(nearest_learned, of, learned)
        chosen = np.argsort(-votes, kind="stable")[:_CANDIDATES].tolist()
        if 0 not in chosen:  # the answer of the nearest text
            chosen.append(0)
        total = float(votes.sum())
        cosines = vectors[first] @ vector
        ranks = [_Ranked(values.tolist()) for values in (votes, cosines, nearest_learned, central)]
        counted, closest, closest_learned, centred = ranks
        words, size = self._words, math.log(self._texts + 50)

        def rarities(found: Iterable[str]) -> list[float]:
            return [size - _LOGS[min(words.get(word, 0), _MOST_LOGS)] for word in found]

        found = []
        for n in chosen:
            entry = near[first[n]]
            known = self._answers[answers[n]]
            mine = counted.values[n]
            nearness = Nearness(
                cosine=closest.values[n],
                margin=closest.margin(n),
                share=mine / total,
                odds=math.log(mine / max(counted.best_other(n, mine * 1e-3), 1e-300)),
                learned=closest_learned.values[n],
                learned_margin=closest_learned.margin(n),
                centre=centred.values[n],
                centre_margin=centred.margin(n),
                rivals=len(answers),
                texts=known.texts,
                agreed=(known.right + 1) / (known.judged + 2),
                judged=known.judged,
            )
            found.append((answers[n], entry, compare(reading, self._read(entry.text), nearness, rarities)))
        return found

    def _closeness(
        self, vector: Vectors, near: Sequence[Known], vectors: Vectors, answers: Sequence[str]
    ) -> tuple[Vectors, Vectors]:
        """Give the cosines in the learned metric to the near texts, and to the centres of the answers."""
        known = [self._answers[answer] for answer in answers]
        turned, length = self._metric.turned(vector)
        lengths = self._metric.lengths([one.id for one in near], vectors)
        sums = np.array([one.sum for one in known])
        central = self._metric.lengths([(one.number, one.texts) for one in known], sums)
        return vectors @ turned / (lengths * length), sums @ turned / (central * length)


class _Ranked:
    """Values with the two best of them at hand."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self._best, self._second = [*sorted(values, reverse=True), -math.inf][:2]

    def best_other(self, at: int, otherwise: float) -> float:
        """Give the best value but that one."""
        if len(self.values) == 1:
            return otherwise
        return self._second if self.values[at] == self._best else self._best

    def margin(self, at: int) -> float:
        """Give what a value is ahead of the best other one, within bounds."""
        mine = self.values[at]
        return max(-0.4, min(0.4, mine - self.best_other(at, mine - _LONE)))
