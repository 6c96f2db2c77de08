"""The cache on the way of a request: looked into before a model is asked, offered what the model said."""

from collections.abc import Callable
from functools import partial

from gateway.calls import Incoming
from gateway.errors import InvalidRequest
from gateway.kept import Kept
from gateway.likeness import Asker, Audit
from gateway.openai import answers, schemas
from gateway.openai.answers import WholeReceiver
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Form
from gateway.openai.schemas import Common, Inference
from gateway.openai.usage import Usage
from gateway.outlet import Outlet
from gateway.passage import Passage
from gateway.settings import CacheSettings
from gateway.sharing import wish_of
from gateway.tenancy.keys import Key
from gateway.tenancy.pricing import NANO, amount_nanousd
from gateway.trip import Call
from semantic_cache import policy as caching
from semantic_cache.cache import NAME
from semantic_cache.stores.base import Entry, Store
from semantic_cache.verdict import Repeat

WISHES = (b"", b"bypass", b"no-store")
MEMO_ENTRIES, MEMO_BODY_BYTES = 512, 8192
_TURN = 500  # characters; in a longer turn a word like "now" says little
_IDENTIFIERS = str.maketrans(dict.fromkeys("0123456789@"))


def _hangs_on_more(request: Inference) -> bool:
    """Tell whether the answer hangs on the moment or the person, which no key has.

    Numbers and addresses are no reason here: they are in the key, as all of the request is.
    """
    turn = schemas.last_turn(request)
    return len(turn) <= _TURN and caching.situational(turn.translate(_IDENTIFIERS))


def _says_it_again(request: Inference) -> bool:
    """Tell whether a model asked once more would say the same: else another answer is no sign of a change."""
    typed = request.typed
    return isinstance(typed, Common) and caching.deterministic(typed.temperature, request.seeded)


class Shelf:
    """Both tiers; ``now`` is monotonic, ``wall`` in seconds since the epoch."""

    def __init__(self, store: Store, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self._store = store
        self.kept = Kept(store)
        self._now, self._wall = now, wall
        self._salt = b""
        self._read: dict[tuple[str, str, bytes], Inference] = {}
        self._cache = CacheSettings()

    def adopt(self, cache: CacheSettings) -> None:
        """Put settings in force."""
        self._cache = cache

    def season(self, salt: bytes) -> None:
        """Put a salt in force: what was kept under another one is found no more."""
        self._salt = salt
        self._read.clear()

    def key_of(self, key: Key, name: str, request: Inference) -> bytes:
        """Give the key of a request; ``name`` is that under which its answers are shared."""
        return caching.exact_key(key.tenant, name, schemas.canonical(request), self._salt)

    @property
    def paced(self) -> bool:
        """Whether kept answers are streamed at the pace of a model."""
        return self._cache.replay_tokens_per_s > 0

    def pieces(self, passage: Passage, entry: Entry, request: Inference) -> tuple[list[bytes], float]:
        """Give the events of a kept answer, and the seconds between two."""
        charge = passage.of()[2]
        body = answers.renewed(entry.body, charge.request_id, int(self._wall()))
        events = answers.to_events(
            body, include_usage=request.include_usage, cost_usd=charge.cost_of, by_words=True
        )
        return events, max(entry.completion_tokens, 1) / len(events) / self._cache.replay_tokens_per_s

    def read(self, key: Key, incoming: Incoming) -> Inference:
        """Give the parsed request; what was found for its tenant before need not be parsed again.

        Raises InvalidRequest.
        """
        known = self._read.get((key.tenant, incoming.endpoint.path, incoming.body))
        return known if known is not None else schemas.parse(incoming.endpoint, incoming.body)

    async def look_up(self, passage: Passage, incoming: Incoming, request: Inference) -> Entry | None:
        """Give a kept answer; notes on the passage under which key a new one may be kept."""
        key, target, _ = passage.of()
        wish = incoming.headers.get(b"x-switchgear-cache", b"")
        if wish not in WISHES:
            raise InvalidRequest(
                "The header x-switchgear-cache must be 'bypass' (ask the model) or 'no-store' (keep none).",
                param="x-switchgear-cache",
            )
        if wish == b"bypass" or not self._cacheable(key, request):
            passage.cache = "bypass"
            return None
        name, wished = target.shared_name(key), wish_of(target, incoming.headers)
        if wished:
            name = f"{name}:{wished}"
        exact = request.exact.get(name) or self.key_of(key, name, request)
        entry = await self._store.get(exact, self._wall())
        passage.steps.append(("cache", self._now()))
        passage.cache = "miss" if entry is None else "hit-exact"
        if entry is None and _hangs_on_more(request):
            passage.cache = "bypass"
            return None
        if wish != b"no-store":
            passage.cache_key = exact
            if entry is None and (tags := incoming.headers.get(b"x-switchgear-cache-tag")):
                passage.tags = caching.tags(tags)
        if self.kept.likeness is not None and not wished:  # each wish would begin to learn anew
            verdict = "ask" if entry is None else self._repeat(key, name, request, entry)
            if verdict != "serve":
                entry = await self._look_near(passage, request, entry, verdict)
        if entry is not None:
            passage.found(entry)
            if passage.cache == "hit-exact":
                if name not in request.exact:
                    self._remember(key, incoming, request)
                    request.exact[name] = exact
                self.kept.note(passage.request_id, key.tenant, exact)
        return entry

    def _lives_s(self, passage: Passage) -> float:
        """Give how long an answer may be given to the same request: less where its kind changes soon."""
        near = passage.found_near or passage.to_check
        return self._cache.exact_ttl_s if near is None else min(self._cache.exact_ttl_s, near.asked.ttl_s)

    def _repeat(self, key: Key, name: str, request: Inference, entry: Entry) -> Repeat:
        """Count an exact repeat; tells whether what was kept may be right no more."""
        likeness = self.kept.likeness
        assert likeness is not None
        kept_s = entry.stored_s if _says_it_again(request) else None
        return likeness.passed(key.tenant, name, kept_s, self._wall())

    def _cacheable(self, key: Key, request: Inference) -> bool:
        if not self._cache.exact_ttl_s or not key.retention_s:
            return False
        out = self._cache.opt_out
        if out and not {key.org, f"{key.org}/{key.project}"}.isdisjoint(out):
            return False
        typed = request.typed
        temperature = typed.temperature if isinstance(typed, Common) else 0.0
        return caching.cacheable(temperature, self._cache.max_temperature)

    def _remember(self, key: Key, incoming: Incoming, request: Inference) -> None:
        """Keep what a request that was found says: its next repetition need not be read again."""
        if len(incoming.body) <= MEMO_BODY_BYTES:
            if len(self._read) >= MEMO_ENTRIES:
                self._read.clear()
            self._read[key.tenant, incoming.endpoint.path, incoming.body] = request

    async def _look_near(
        self, passage: Passage, request: Inference, entry: Entry | None, verdict: Repeat
    ) -> Entry | None:
        """Ask the semantic tier where the exact one had nothing, or what it had may be right no more."""
        (key, target, _), likeness = passage.of(), self.kept.likeness
        assert likeness is not None
        asker = Asker(key.tenant, target.shared_name(key), self._salt, key.retention_s)
        found = await likeness.look_up(request, asker, self._wall(), entry)
        if verdict == "check":
            passage.to_check = found
            return entry
        passage.found_near = found
        if likeness.embedded_s > passage.steps[-1][1]:
            passage.steps.append(("embed", likeness.embedded_s))
        passage.steps.append(("likeness", self._now()))
        if found is None:
            return entry  # nothing can be learned from it: it is given what there was
        passage.cache, passage.stand_in = "miss", entry
        if found.entry is None:
            return None
        passage.cache = "hit-semantic"
        self.kept.note_near(passage.request_id, key.tenant, found)
        return found.entry

    def audit(
        self, passage: Passage, model: str, call: Call, receiver: StreamReceiver | WholeReceiver
    ) -> None:
        """Have the question of a hit asked again, of a model, beside the way of the request."""
        found, cache_key = passage.found_near or passage.to_check, passage.cache_key
        likeness = self.kept.likeness
        if found is not None and cache_key is not None and likeness is not None:
            price = passage.of()[2].price
            likeness.audit(
                Audit(
                    found,
                    call,
                    receiver,
                    cache_key,
                    partial(self._entry, passage, model),
                    lambda usage: amount_nanousd(price, usage, "upstream", "batch"),
                )
            )

    def answer(self, passage: Passage, entry: Entry, request: Inference) -> bytes:
        """Make the answer of a kept one, as the client asked for it, and book it."""
        charge = passage.of()[2]
        charge.answered_by(entry.model)
        charge.source = "hit-semantic" if passage.cache == "hit-semantic" else "hit-exact"
        usage = Usage(
            entry.prompt_tokens, entry.completion_tokens, entry.cached_tokens, entry.reasoning_tokens
        )
        charge.progress(usage, False)
        self.kept.saved_tokens[charge.source] += entry.prompt_tokens + entry.completion_tokens
        self.kept.saved_s[charge.source] += entry.took_s
        body = answers.renewed(entry.body, charge.request_id, int(self._wall()))
        if not request.stream:
            return body
        return answers.to_stream(body, include_usage=request.include_usage, cost_usd=charge.cost_of)

    async def stand_in(
        self,
        passage: Passage,
        request: Inference,
        head: Callable[[Passage, Inference], bytes],
        out: Outlet,
    ) -> bool:
        """Give what was kept of a repeat that was asked anew, where its model failed before the first byte.

        Tells whether there was such an answer: it may be right no more, but seldom is wrong.
        """
        entry = passage.stand_in
        if entry is None or passage.first_byte_s:
            return False
        passage.cache = "hit-exact"
        passage.found(entry)
        body = self.answer(passage, entry, request)
        if request.stream:  # it is admitted as one, and may have been kept alive
            passage.first_byte_s = self._now()
            await out.begin(head(passage, request))
            await out.piece(body)
        else:
            await out.whole(head(passage, request), body)
        passage.answered_s = self._now()
        return True

    async def offer(self, passage: Passage, receiver: Form) -> None:
        """Keep a complete answer, where it may be served again."""
        if passage.cache_key is None:
            return
        charge = passage.of()[2]
        entry = self._entry(passage, charge.price.model, receiver)
        if entry is None:
            return
        await self._store.put(passage.cache_key, entry)
        self.kept.note(passage.request_id, entry.tenant, passage.cache_key)
        found, likeness = passage.found_near, self.kept.likeness
        if found is not None and likeness is not None and "tool_calls" not in receiver.finish_reasons:
            likeness.offer(found, passage.cache_key, entry, charge.cost_usd * NANO)

    def _entry(self, passage: Passage, model: str, receiver: Form) -> Entry | None:
        """Make an entry of a complete answer; None where it is not fit to be served again."""
        cache_key = passage.cache_key
        if cache_key is None or not receiver.kept or not caching.reusable(receiver.finish_reasons):
            return None
        kept = b"".join(receiver.kept)
        body = answers.from_stream(kept, receiver.final) if isinstance(receiver, StreamReceiver) else kept
        if len(body) > self._cache.max_answer_bytes or receiver.final is None or answers.refused(body):
            return None
        now_s = self._wall()
        took_s = 0.0 if passage.ended_s else self._now() - passage.started_s  # an audit comes after the end
        return Entry(
            id=cache_key.hex()[:NAME],
            tenant=passage.of()[0].tenant,
            model=model,
            asked=passage.name,
            tags=passage.tags,
            body=body,
            prompt_tokens=receiver.final.prompt_tokens,
            cached_tokens=receiver.final.cached_tokens,
            completion_tokens=receiver.final.completion_tokens,
            reasoning_tokens=receiver.final.reasoning_tokens,
            stored_s=now_s,
            expires_s=now_s + min(self._lives_s(passage), passage.of()[0].retention_s),
            took_s=took_s,
        )
