"""Whether an earlier answer serves: one judge for each route, learning as it goes. Pure.

The order of a query: ``consider`` gives a verdict on the nearest texts; the caller serves or asks the model;
where the truth came out (a miss, an audited hit) ``learn`` takes it, and ``adopt`` each text that is kept.
Texts that share an answer are aliases of one answer.
"""

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from semantic_cache.constancy import Constancy
from semantic_cache.lasting import Lasting
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds, Ledger
from semantic_cache.metric import Metric
from semantic_cache.near import Known, Near, Vectors
from semantic_cache.reading import Reading
from semantic_cache.standing import Field, best, grouped, polled
from semantic_cache.verdict import UNDECIDED, Repeat, Verdict
from semantic_cache.verify import MOST_COUNTED, Evidence, Nearness, compare, rarities_of, swapped

NEIGHBOURS = 48
_IN_ORDER = (0, 1)  # best first
_FLOOR = 0.4  # cosine of the nearest text below which nothing is served: it hardly ever could be
_PLAIN = 0.75  # cosine below which only the nearest answer and that of most votes are weighed
_HOPE = 2.0  # log odds; where both of those fall short by more: another one is hardly ever served then
_UNREST = 0.3  # of exact repeats that are asked anew where all speaks for a change; where little does, few
_MOST_WORDS = 50_000
_MOST_READINGS = 4_000
_AUDITS_FIRST, _AUDITS_LAST, _AUDITS_HITS = 0.19, 0.045, 1000.0


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
        self._shared = set[str]()  # answers of several texts
        self._numbers = 0
        self._readings: dict[str, Reading] = {}  # by the name of the text
        self._words: dict[str, int] = {}
        self._texts = 0
        self._allowance = 0.0  # audits
        self._risk = 0.3  # running mean of the draw weight
        self._constancy = Constancy()
        self._since = 0  # after how many queries all answers changed last
        self._changed = -math.inf  # when that was, by the caller's clock
        self._owed = 0.0  # exact repeats to be asked anew
        self._put_offs = 0  # queries not weighed on their way, since one of them was learned

    def repeat(self, confirmed: float, now: float) -> Repeat:
        """Tell whether an exact repeat may be given its kept answer; counts it as a query.

        `confirmed`: when the answer was right last, by the caller's clock, in whatever unit. Where the model
        is asked, because the answer may be right no more or to see whether it is, the outcome goes to
        ``learn_repeat``.
        """
        bound = self.ledger.bounds.error
        self._owed += max(self._constancy.share(bound), _UNREST * self.ledger.unrest**2)
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
        near: Near[Any],
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
        if near.cosines[0] < _FLOOR:
            return self._put_off(UNDECIDED)
        refused = Verdict(False, False, -math.inf, near[0].answer, near[0])
        if self.ledger.closed:
            return self._put_off(refused)
        weighed = self._weighed(
            reading, vector, near, self.ledger.threshold - _HOPE if near.cosines[0] < _PLAIN else -math.inf
        )
        if weighed is None:
            return self._put_off(refused)
        score, best, kept = weighed
        known = self._answers[best.answer]
        sound = not known.probation and known.seen >= self._since
        serve = (
            sound
            and score >= self.ledger.threshold
            and best.answer not in barred
            and not swapped(reading, self._read(best.entry))
        )
        audit = serve and self._audited(score, draw, again)
        serve = serve and (audit or not again)
        self.ledger.enter(score, serve)
        return Verdict(serve, audit, score, best.answer, best.entry, best.nearness.cosine, kept)

    def _put_off(self, verdict: Verdict) -> Verdict:
        """Count a query that is not served: it is weighed where its truth comes out."""
        self.ledger.pass_empty()
        self._put_offs += 1
        return verdict

    def learn_later(self, reading: Reading, vector: Vectors, near: Near[Any], answer: str | None) -> None:
        """Take the truth on a query that was not weighed on its way: it is now.

        Where some of those are never learned, it stands for all of them since the last that was.
        """
        if near and (weighed := self._weighed(reading, vector, near, -math.inf)) is not None:
            score, best, kept = weighed
            verdict = Verdict(False, False, score, best.answer, best.entry, best.nearness.cosine, kept)
            count, self._put_offs = self._put_offs, 0
            if score < self.ledger.threshold:  # else it tells nothing of those that are served at that score
                self.ledger.see(score, count)
                self.ledger.judge(score, verdict.answer == answer, False)
            self._learn(verdict, answer)

    def _weighed(
        self, reading: Reading, vector: Vectors, near: Near[Any], hope: float
    ) -> tuple[float, "_Placed", tuple[tuple[str, Evidence], ...]] | None:
        """Give the best score, the answer that has it, and the evidence on all, beginning with that one.

        Gives None where neither the answer of most votes nor the nearest one has a score of `hope`.
        """
        placed, rarities = self._placed(vector, near), rarities_of(self._words, self._texts)
        nearest = next(n for n, one in enumerate(placed) if one.answer == near[0].answer)
        evidence, scores = dict[int, Evidence](), dict[int, float]()
        for places in ({0, nearest}, range(len(placed))):
            new = [n for n in places if n not in scores]
            for n in new:
                evidence[n] = compare(reading, self._read(placed[n].entry), placed[n].nearness, rarities)
            scores.update(zip(new, self._learner.logits([evidence[n] for n in new]), strict=True))
            if max(scores.values()) < hope:
                return None
        score = max(scores.values())
        at = min(n for n in scores if scores[n] == score)
        order = [at, *[n for n in range(len(placed)) if n != at]]
        return score, placed[at], tuple([(placed[n].answer, evidence[n]) for n in order])

    def learn(self, verdict: Verdict, answer: str | None) -> None:
        """Take the truth: which of the near answers was the right one, None where none was."""
        if verdict.examined:
            self.ledger.judge(verdict.score, verdict.answer == answer, verdict.serve)
            self._learn(verdict, answer)

    def _learn(self, verdict: Verdict, answer: str | None) -> None:
        right = verdict.answer == answer
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

    def adopt(self, answer: str, vector: Vectors, name: str = "", reading: Reading | None = None) -> None:
        """Take in a text that was kept under an answer; by `name` its `reading` is found when it is near."""
        known = self._of(answer)
        if known.texts:
            self._metric.learn(vector, known.sum / np.float32(known.texts), known.texts)
        known.sum += vector
        known.texts += 1
        if known.texts == 2:
            self._shared.add(answer)
        known.seen = self.ledger.total
        if reading is not None:
            self._remember(name, reading)
            self._metric.measure([name, (known.number, known.texts)], np.array((vector, known.sum)))

    def forget(self, answer: str) -> None:
        """Forget an answer that is kept no longer."""
        self._answers.pop(answer, None)
        self._shared.discard(answer)

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
            "words": self._words,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take all that was learned. Raises KeyError, TypeError or ValueError where it does not fit."""
        super().resume(state)
        self.ledger.resume(state["ledger"])
        self._learner.resume(state["learner"])
        self._metric.resume(state["metric"])
        self._constancy.resume(state["constancy"])
        for name, one in state["answers"].items():
            known = self._of(name)
            known.resume(one)
            if known.texts > 1:
                self._shared.add(name)
        self._words = {word: min(count, MOST_COUNTED) for word, count in state["words"].items()}

    def _of(self, answer: str) -> _Answer:
        known = self._answers.get(answer)
        if known is None:
            self._numbers += 1
            known = self._answers[answer] = _Answer(self._numbers, self._dimensions)
        return known

    def _count(self, reading: Reading) -> None:
        self._texts += 1
        words = self._words
        for word in reading.ordered:
            count = words.get(word, 0)
            if count < MOST_COUNTED:
                words[word] = count + 1
        if len(words) > _MOST_WORDS:
            self._words = dict(Counter(words).most_common(_MOST_WORDS // 2))

    def _read(self, known: Known) -> Reading:
        """Read a known text, or remember having done so."""
        reading = self._readings.get(known.id)
        if reading is None:
            reading = Reading.of(known.text)
            self._remember(known.id, reading)
        return reading

    def _remember(self, name: str, reading: Reading) -> None:
        if len(self._readings) >= _MOST_READINGS:
            del self._readings[next(iter(self._readings))]
        self._readings[name] = reading

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

    def _placed(self, vector: Vectors, near: Near[Any]) -> list["_Placed"]:
        """Give the answers worth a look, and where they stand."""
        answers = [one.answer for one in near]
        names, first, of = grouped(answers, len(set(answers)))
        apart, cosines = len(names) == len(near), near.cosines.tolist()
        turned, learned = self._learned(vector, near, cosines)
        votes, nearest = polled(learned, of, len(names))
        chosen = best(votes, apart and learned is cosines)
        counted, closest = Field(votes, chosen), Field(nearest, chosen if apart else None)
        plain = Field(cosines if apart else [cosines[row] for row in first], _IN_ORDER)
        shared = self._shared
        several = [n for n, name in enumerate(names) if name in shared] if shared else []
        central = Field(self._central(turned, nearest, names, several)) if several else closest
        total, found = sum(votes), []
        for n in chosen:
            if names[n] not in self._answers:  # another gateway, which shares the store, has kept it
                self.adopt(names[n], near.vectors[first[n]])
            entry, answer = near[first[n]], self._answers[names[n]]
            nearness = Nearness(
                plain.values[n],
                plain.margin(n),
                votes[n] / total,
                math.log(votes[n] / max(counted.best_other(n, votes[n] * 1e-3), 1e-300)),
                nearest[n],
                closest.margin(n),
                central.values[n],
                central.margin(n),
                len(names),
                answer.texts,
                (answer.right + 1) / (answer.judged + 2),
                answer.judged,
            )
            found.append(_Placed(names[n], entry, nearness))
        return found

    def _learned(self, vector: Vectors, near: Near[Any], cosines: list[float]) -> tuple[Vectors, list[float]]:
        """Give the question as the learned metric has it, and the cosines of near texts there.

        As long as nothing was learned those are `cosines` themselves.
        """
        if self._metric.projection is None:
            return vector, cosines
        turned = self._metric.turned(vector)
        names = [one.id for one in near]
        return turned, self._metric.cosines(near.times(turned), names, lambda: near.vectors).tolist()

    def _central(
        self, turned: Vectors, nearest: list[float], names: Sequence[str], several: list[int]
    ) -> list[float]:
        """Give the cosine in the learned metric to the centre of each answer's texts.

        The centre of a single text is the text itself; `several` are the answers that have more.
        """
        central, known = nearest.copy(), [self._answers[names[n]] for n in several]
        sizes = [(one.number, one.texts) for one in known]
        sums = np.array([one.sum for one in known])
        cosines = self._metric.cosines(sums @ turned, sizes, lambda: sums)
        for n, cosine in zip(several, cosines.tolist(), strict=True):
            central[n] = cosine
        return central


class _Placed(NamedTuple):
    """An answer worth a look, its nearest text, and where it stands."""

    answer: str
    entry: Known
    nearness: Nearness
