"""What both cache tiers keep, for those who look after it: list, inspect, purge, judge, complain.

A complaint names a request. Which kept answer a request led to is remembered for the latest _MOST_NOTES
requests of this process; a complaint about another one is passed on to the gateways that share the cache.
"""

from collections import deque
from collections.abc import Callable

import msgspec

from gateway.likeness import Likeness
from gateway.openai import answers
from semantic_cache.cache import Found
from semantic_cache.stores.base import Entry, Store

_MOST_NOTES = 20_000
_MOST_COMPLAINTS = 1_000


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One kept answer; ``id`` is what ``x-switchgear-cache-entry`` says of a hit."""

    id: str
    tier: str
    tenant: str
    asked: str
    model: str
    tags: tuple[str, ...]
    stored_s: float
    expires_s: float
    size_bytes: int


class Inspected(Shown, frozen=True, kw_only=True):
    """One kept answer with its words, and the questions that lead to it."""

    answer: str
    questions: list[str]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers: all that fit every field that is set."""

    tenant: str | None = None
    model: str | None = None
    tag: str | None = None
    entry: str | None = None

    def fits(self, entry: Entry) -> bool:
        """Tell whether an entry is meant."""
        return (
            self.tenant in (None, entry.tenant)
            and self.model in (None, entry.asked, entry.model)
            and (self.tag is None or self.tag in entry.tags)
            and self.entry in (None, entry.id)
        )


class _Note(msgspec.Struct, frozen=True, gc=False):
    """What a request led to; route and score where likeness answered it."""

    request_id: str
    tenant: str
    key: bytes
    route: str = ""
    score: float = 0.0


class Kept:
    """One for the process, over the exact store and, where it is on, the semantic tier."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.likeness: Likeness | None = None
        self.tell: Callable[[str, str], None] | None = None
        """Tells other gateways of a tenant's complaint about a request that is not known here."""
        self.complaints: deque[tuple[str, str]] = deque(maxlen=_MOST_COMPLAINTS)
        """What others told."""
        self.saved_tokens = {"hit-exact": 0, "hit-semantic": 0}
        self.saved_s = {"hit-exact": 0.0, "hit-semantic": 0.0}
        # Looked through when somebody complains: a look-up for each request would cost all of them.
        self._notes: deque[_Note] = deque(maxlen=_MOST_NOTES)

    def note(self, request_id: str, tenant: str, key: bytes) -> None:
        """Remember which answer a request was given, or gave."""
        self._notes.append(_Note(request_id, tenant, key))

    def note_near(self, request_id: str, tenant: str, found: Found) -> None:
        """Remember which answer likeness gave to a request."""
        verdict = found.verdict
        answer, route = bytes.fromhex(verdict.answer), found.asked.route
        self._notes.append(_Note(request_id, tenant, answer, route, verdict.score))

    async def listed(self, selection: Selection) -> list[Shown]:
        """Give the kept answers that are meant, of both tiers."""
        found = [_shown("exact", entry) for _, entry in await self._store.listed() if selection.fits(entry)]
        if self.likeness is not None:
            kept = await self.likeness.cache.listed()
            found += [_shown("semantic", entry) for _, entry in kept if selection.fits(entry)]
        return found

    async def inspect(self, entry_id: str) -> Inspected | None:
        """Give one answer with its words, or None."""
        questions: list[str] = []
        tiers = [("exact", await self._store.listed())]
        if self.likeness is not None:
            tiers.insert(0, ("semantic", await self.likeness.cache.listed()))
        for tier, kept in tiers:
            for key, entry in kept:
                if entry.id == entry_id:
                    if tier == "semantic" and self.likeness is not None:
                        questions = [alias.text for alias in await self.likeness.cache.texts(key)]
                    words = answers.text_of(entry.body)
                    shown = msgspec.structs.asdict(_shown(tier, entry))
                    return Inspected(**shown, answer=words, questions=questions)
        return None

    async def purge(self, selection: Selection) -> int:
        """Forget the answers that are meant, and all texts that lead to them; gives how many answers."""
        keys = {key for key, entry in await self._store.listed() if selection.fits(entry)}
        near = set()
        if self.likeness is not None:
            near = {key for key, entry in await self.likeness.cache.listed() if selection.fits(entry)}
        await (self._drop if selection.entry is None else self._banish)(keys | near)
        return len(keys) + len(near)

    async def hear(self) -> None:
        """Take the complaints that other gateways passed on."""
        while self.complaints:
            await self.complain(*self.complaints.popleft(), right=False)

    def pass_on(self, tenant: str, request_id: str) -> bool:
        """Tell the other gateways of a bad answer where it is not known here. Tells whether that was so."""
        if self.tell is None or self._note_of(request_id) is not None:
            return False
        self.tell(tenant, request_id)
        return True

    async def complain(self, tenant: str, request_id: str, right: bool) -> bool:
        """Take a user's word on an answer; a bad one goes at once. Tells whether one went."""
        note = self._note_of(request_id)
        if note is None or note.tenant != tenant:
            return False
        if self.likeness is not None and note.route and not right:
            self.likeness.cache.report(note.route, note.score, right)
        if right:
            return False
        self._notes = deque((one for one in self._notes if one.request_id != request_id), _MOST_NOTES)
        await self._banish({note.key})
        return True

    async def _banish(self, keys: set[bytes]) -> None:
        """Forget bad answers under all questions that were told the same."""
        if self.likeness is not None:
            answers, names = await self.likeness.cache.kin(keys)
            exact = {key for key, entry in await self._store.listed() if entry.id in names}
            keys = keys | answers | exact
        await self._drop(keys)

    async def _drop(self, keys: set[bytes]) -> None:
        await self._store.drop(keys)
        if self.likeness is not None:
            await self.likeness.forget(keys)

    def _note_of(self, request_id: str) -> _Note | None:
        return next((note for note in reversed(self._notes) if note.request_id == request_id), None)


def _shown(tier: str, entry: Entry) -> Shown:
    return Shown(
        id=entry.id,
        tier=tier,
        tenant=entry.tenant,
        asked=entry.asked,
        model=entry.model,
        tags=entry.tags,
        stored_s=entry.stored_s,
        expires_s=entry.expires_s,
        size_bytes=len(entry.body),
    )
