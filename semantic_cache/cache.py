"""The semantic tier: a question in, a kept answer out where the judge of its route says so.

What a request waits for is one embedding, one search and one verdict. All learning happens later, in
``settle``: answers of misses and audits are compared with those of the texts near them, and texts are kept.
The store is the tier's own: one body for each answer, however many texts lead to it.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from semantic_cache import saving
from semantic_cache.embedding import Embedding
from semantic_cache.judge import NEIGHBOURS, Judge
from semantic_cache.learner import Learner
from semantic_cache.ledger import Bounds
from semantic_cache.near import Near, Vectors
from semantic_cache.prior import PRIOR
from semantic_cache.reading import Reading
from semantic_cache.stores.base import Alias, Entry, Index, Store
from semantic_cache.verdict import UNDECIDED, Repeat, Verdict
from semantic_cache.verify import AGREEING, agree

log = logging.getLogger("switchgear.cache")

NAME = 24  # hex digits of a key that name an entry, and the text that it answered
_MOST_ROUTES = 256
_UNSURE = 20  # judgements of one question with itself that the estimate of the judge's noise begins with
_NOISE = 0.05
_MOST_WAITING = 512  # outcomes; what comes beyond is not learned from
_COMPARED = 8  # answers
_ALIKE = 0.4  # cosine of two questions below which their answers are not compared: they hardly ever agree
_MOST_TAGS = 64  # of one answer
_LEAST_SHARED = 0.25  # of the shorter question's words; nearly all that mean the same share more
_MOST_SAID = 8_192  # answers whose vectors are at hand
_SHORT = 100  # characters of an answer whose words are at hand
_AT_ONCE = 8  # outcomes settled before the loop may breathe


class Asked(msgspec.Struct, frozen=True):
    """A question that may be answered by likeness: `scope` is a hard partition, `route` shares a judge."""

    route: str
    scope: bytes
    text: str
    owner: str
    ttl_s: float


class Found(msgspec.Struct, frozen=True):
    """What a look-up came to; `entry` is the kept answer where it is to be served."""

    asked: Asked
    reading: Reading
    vector: Vectors
    near: Near[Alias]
    verdict: Verdict
    entry: Entry | None = None
    similarity: float = 0.0
    repeated: Entry | None = None
    """The answer that the very same question had, where it is asked anew."""


class _Outcome(msgspec.Struct, frozen=True):
    """A fresh answer to a question that was looked up."""

    found: Found
    key: bytes
    entry: Entry
    worth: float


class _Said(msgspec.Struct, frozen=True):
    """An answer, as it is compared. The words of a long one are read only where its vector asks for it."""

    body: bytes
    vector: Vectors
    words: tuple[str, ...] | None


class Answers(Protocol):
    """How answers are compared; by numbers that are at hand, for each is compared with several."""

    def text_of(self, body: bytes) -> str:
        """Give the words of a kept answer."""

    def vector(self, text: str) -> Vectors:
        """Give its unit vector."""


class SemanticCache:
    """Judges by route over one index and one store."""

    def __init__(
        self,
        store: Store,
        index: Index,
        embedding: Embedding,
        draw: Callable[[], float],
        answers: Answers,
    ) -> None:
        self._store = store
        self._index = index
        self._embedding = embedding
        self._draw = draw
        self._answers = answers
        self._doubled = self._differed = 0
        self._known: dict[bytes, _Said] = {}  # by the body
        self._judges: dict[str, Judge] = {}
        self._waiting: deque[_Outcome] = deque(maxlen=_MOST_WAITING)
        self._pending: dict[bytes, None] = {}  # served and not judged: hashes of scope and text
        self._bounds = Bounds(error=0.01)
        self.changes = 0  # of what is worth saving

    @property
    def judges(self) -> Mapping[str, Judge]:
        """The judges by route."""
        return self._judges

    def adopt(self, bounds: Bounds) -> None:
        """Put bounds in force; judges that began under others begin anew."""
        if bounds != self._bounds:
            self._judges.clear()
        self._bounds = bounds

    def passed(self, route: str, kept_s: float | None, now_s: float) -> Repeat:
        """Count an exact repeat; tells whether it may be given what was kept at `kept_s`.

        None for a sampled answer: it would be another one each time, and tells nothing.
        """
        judge = self._judges.get(route)
        if judge is None:
            return "serve"
        if kept_s is None:
            judge.ledger.pass_exact()
            return "serve"
        return judge.repeat(kept_s, now_s)

    async def look_up(self, asked: Asked, now_s: float, repeated: Entry | None = None) -> Found:
        """Decide on a question; gives the entry to serve, or none. Raises EmbeddingFailed.

        `repeated`: the kept answer of an exact repeat that is asked anew; it tells whether answers last.
        """
        reading, vector = Reading.of(asked.text), await self._embedding.embed(asked.text)
        near = await self._index.near(asked.scope, vector, NEIGHBOURS, now_s)
        if repeated is not None:
            return Found(asked, reading, vector, near, UNDECIDED, repeated=repeated)
        judge = self._judge(asked.route, len(vector))
        mark = asked.scope + asked.text.encode()
        verdict = judge.consider(
            reading, vector, near, self._draw(), mark in self._pending, _Barred(asked.owner, reading, near)
        )
        if verdict.examined:
            near = near.named()
        found = Found(asked, reading, vector, near, verdict, similarity=verdict.cosine)
        if not verdict.serve or verdict.entry is None:
            return found
        entry = await self._store.get(bytes.fromhex(verdict.answer), now_s)
        if entry is None:  # the answer went before its texts did
            await self._forget(judge, verdict.answer)
            return found
        if not verdict.audit:
            self._pending[mark] = None
            if len(self._pending) > _MOST_WAITING * 8:
                self._pending.pop(next(iter(self._pending)))
        return msgspec.structs.replace(found, entry=entry)

    def offer(self, found: Found, key: bytes, entry: Entry, worth: float) -> None:
        """Hand in the fresh answer to a question that was looked up: a miss, or an audit."""
        self._waiting.append(_Outcome(found, key, entry, worth))

    async def settle(self) -> None:
        """Learn from what was handed in. Call it again and again."""
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            await self._settle(self._waiting.popleft())

    def doubled(self, one: Entry, other: Entry) -> None:
        """Take two fresh answers to one question: where they seem to differ, the judge errs, or the model."""
        self._doubled += 1
        self._differed += not self._same(self._said(one.body), self._said(other.body))

    @property
    def noise(self) -> float:
        """How often an answer that is right is judged wrong, as double-judged questions show."""
        return (self._differed + _UNSURE * _NOISE) / (self._doubled + _UNSURE)

    async def listed(self) -> Sequence[tuple[bytes, Entry]]:
        """Give the kept answers with their keys."""
        return await self._store.listed()

    async def texts(self, answer: bytes) -> list[Alias]:
        """Give the texts that lead to an answer."""
        return [alias for _, alias in await self._index.listed() if alias.answer == answer.hex()]

    async def kin(self, keys: Collection[bytes]) -> tuple[set[bytes], set[str]]:
        """Give the answers that say the same as those of these keys, and the names of their questions.

        A key may be that of an answer kept here, or of a question that was told the same as another one.
        """
        texts = [alias for _, alias in await self._index.listed()]
        names = {key.hex()[:NAME] for key in keys}
        answers = {key.hex() for key in keys} | {one.answer for one in texts if one.id in names}
        named = {one.id for one in texts if one.answer in answers}
        return {bytes.fromhex(answer) for answer in answers}, named

    async def forget(self, keys: Collection[bytes]) -> int:
        """Forget answers and all texts that lead to them; gives how many texts.

        Answers on their way in are dropped too, all of them: which of them say the same is not known yet.
        """
        self._waiting.clear()
        self.changes += 1
        await self._store.drop(keys)
        answers = {key.hex() for key in keys}
        for judge in self._judges.values():
            for answer in answers:
                judge.forget(answer)
        return await self._index.drop(answers)

    def report(self, route: str, score: float, right: bool) -> None:
        """Take a person's word on a hit of this score."""
        judge = self._judges.get(route)
        if judge is not None:
            judge.ledger.judge(score, right, True)

    async def purge(self) -> int:
        """Forget all texts and answers; what the judges have learned stays."""
        self._waiting.clear()
        await self._store.purge()
        return await self._index.purge()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Give the whole tier, frame by frame, as ``resume`` takes it; take a breath between them."""
        yield saving.packed(saving.head(self._embedding.name))
        if not self._store.durable:
            for key, entry in await self._store.listed():
                yield saving.packed(saving.Answer(key, entry))
        for frame in self._index.frames():
            yield saving.packed(frame)
        for route, judge in list(self._judges.items()):
            yield saving.packed(saving.Learned(route, judge.state()))

    async def resume(self, frames: Iterable[saving.Frame], now_s: float) -> int:
        """Take in what ``frames`` gave; gives how many texts. Raises ValueError for another embedding's."""
        frames, texts, lost = iter(frames), 0, 0
        first = next(frames, None)
        if not isinstance(first, saving.Head):
            return 0
        if first != saving.head(self._embedding.name):
            raise ValueError(f"it is of another version, or of the embedding {first.embedding!r}")
        for frame in frames:
            match frame:
                case saving.Answer(key, entry) if entry.expires_s > now_s:
                    await self._store.put(key, entry)
                case saving.Text() if frame.expires_s > now_s:
                    self._index.resume(frame)
                    texts += 1
                case saving.Linked():
                    self._index.resume(frame)
                case saving.Learned(route, state):
                    try:
                        judge = Judge(self._bounds, Learner(PRIOR), state["dimensions"])
                        judge.resume(state)
                        self._judges[route] = judge
                    except (KeyError, TypeError, ValueError):
                        lost += 1
                case _:
                    pass
        self._index.cover()
        if lost:
            log.warning("what %d routes had learned is of another version: they begin to learn anew", lost)
        return texts

    def _judge(self, route: str, dimensions: int) -> Judge:
        judge = self._judges.get(route)
        if judge is None:
            if len(self._judges) >= _MOST_ROUTES:
                self._judges.pop(next(iter(self._judges)))
            judge = self._judges[route] = Judge(self._bounds, Learner(PRIOR), dimensions)
        return judge

    async def _settle(self, outcome: _Outcome) -> None:
        self.changes += 1
        found, now_s = outcome.found, outcome.entry.stored_s
        judge = self._judge(found.asked.route, len(found.vector))
        said = self._said(outcome.entry.body)
        same: str | None = None
        alike = int((found.near.cosines >= _ALIKE).sum())  # they come best first
        for answer in list(dict.fromkeys([one.answer for one in found.near[:alike]]))[:_COMPARED]:
            kept = await self._store.get(bytes.fromhex(answer), now_s)
            if kept is None:
                await self._forget(judge, answer)
                continue
            if self._same(said, self._said(kept.body)):
                same = answer
                await self._tag(answer, kept, outcome.entry.tags)
                break
        if (repeated := found.repeated) is not None:
            as_before = self._same(said, self._said(repeated.body))
            led = next((one.answer for one in found.near if one.text == found.asked.text), None)
            await self._store.put(outcome.key, outcome.entry)  # it is what was right last
            judge.learn_repeat(led, now_s - repeated.stored_s, now_s, as_before, self.noise)
            if as_before and led is not None:
                return
        if found.verdict.examined:
            judge.learn(found.verdict, same)
        elif found.repeated is None:
            judge.learn_later(found.reading, found.vector, found.near, same)
        answer = same or outcome.key.hex()
        if same is None:
            expires_s = now_s + found.asked.ttl_s
            await self._store.put(outcome.key, msgspec.structs.replace(outcome.entry, expires_s=expires_s))
        judge.adopt(answer, found.vector, outcome.entry.id, found.reading)
        self._pending.pop(found.asked.scope + found.asked.text.encode(), None)
        await self._index.add(
            found.asked.scope,
            Alias(
                id=outcome.entry.id,
                answer=answer,
                text=found.asked.text,
                vector=found.vector,
                owner=found.asked.owner,
                worth=outcome.worth,
                stored_s=now_s,
                expires_s=now_s + found.asked.ttl_s,
            ),
        )

    async def _tag(self, answer: str, kept: Entry, tags: tuple[str, ...]) -> None:
        """Have a kept answer go with the tags of the latest question that it answers, too."""
        if more := [tag for tag in tags if tag not in kept.tags]:
            await self._store.put(
                bytes.fromhex(answer), msgspec.structs.replace(kept, tags=(*kept.tags, *more)[-_MOST_TAGS:])
            )

    def _said(self, body: bytes) -> _Said:
        """Give an answer as it is compared; that of the latest ones is remembered."""
        said = self._known.pop(body, None)
        if said is None:
            text = self._answers.text_of(body)
            words = Reading.of(text).words if len(text) <= _SHORT else None
            said = _Said(body, self._answers.vector(text), words)
            if len(self._known) >= _MOST_SAID:
                del self._known[next(iter(self._known))]
        self._known[body] = said
        return said

    def _same(self, one: _Said, other: _Said) -> bool:
        """Tell whether two answers say the same; see ``agree``."""
        if one.words is not None and one.words == other.words:
            return True
        cosine = float(one.vector @ other.vector)
        return cosine >= AGREEING and agree(self._read(one), self._read(other), cosine)

    def _read(self, said: _Said) -> Reading:
        return Reading.of(self._answers.text_of(said.body))

    async def _forget(self, judge: Judge, answer: str) -> None:
        judge.forget(answer)
        await self._index.drop({answer})


class _Barred:
    """The answers that are not to be given, whatever their texts' likeness; told when asked for one.

    Those that might be planted, and those whose nearest text says it in other words altogether: vectors can
    be made to meet.
    """

    def __init__(self, owner: str, reading: Reading, near: Sequence[Alias]) -> None:
        self._owner, self._words, self._near = owner, reading.distinct, near

    def __contains__(self, answer: object) -> bool:
        if answer in _unproven(self._near, self._owner):
            return True
        nearest = next((one for one in self._near if one.answer == answer), None)
        if nearest is None:
            return False
        words = Reading.of(nearest.text).distinct
        return len(words & self._words) < _LEAST_SHARED * min(len(words), len(self._words))


def _unproven(near: Sequence[Alias], owner: str) -> frozenset[str]:
    """Give the answers that only one other user has brought in: they might be planted."""
    if not any(one.owner for one in near):
        return frozenset()
    owners: dict[str, set[str]] = {}
    for one in near:
        owners.setdefault(one.answer, set()).add(one.owner)
    return frozenset(
        answer for answer, names in owners.items() if len(names) == 1 and not names & {"", owner}
    )
