"""Which model answers: hard constraints first, then the score of the classifier against the objective.

The order: a named model; the client's wish; what the key allows; what can take the request (context,
language, tools, images, schema); what is ready and within its promise of time; then the score. Within a
conversation the tier does not fall. A text that the classifier cannot read counts as one that needs the
largest tier, as far as the objective allows.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.catalogue import Model, Target
from gateway.errors import InvalidRequest, ModelNotAllowed
from gateway.openai.schemas import BYTES_PER_TOKEN, ChatFields, CompletionFields, Inference
from gateway.settings import Objective
from gateway.tenancy.keys import Key
from routing.complexity import query_text
from routing.conversations import Conversations, turns
from routing.languages import languages_of, speaks
from routing.objectives import Placement

TIER, OBJECTIVE = b"x-switchgear-tier", b"x-switchgear-objective"
_NONE = (b"[]", b"null")
_encode = msgspec.json.Encoder().encode


class Reading(msgspec.Struct, frozen=True, eq=False):
    """What the classifier read: the expected gain in [0, 1], and the columns that it follows from.

    ``sure`` is false of a text that it cannot read; ``late`` tells that the precise grade did not come in
    time and this is the fast one's. ``own`` is the shipped score, where a tenant's labels taught another.
    """

    score: float
    columns: NDArray[np.float32]
    sure: bool = True
    late: bool = False
    precise: bool = False
    own: float | None = None

    @property
    def shipped(self) -> float:
        """The score without what the tenant's own labels taught."""
        return self.score if self.own is None else self.own

    @property
    def needed(self) -> float:
        """The score that counts: what the classifier cannot read counts as one that needs the largest."""
        return self.score if self.sure else 1.0


class Choice(msgspec.Struct, frozen=True, eq=False):
    """The model, why in one word, and where the classifier was asked, what it said.

    ``threshold`` is the score of the boundary that decided, ``aim`` the objective that was held.
    """

    model: Model
    score: float | None
    reason: str
    threshold: float | None = None
    aim: Objective | None = None
    reading: Reading | None = None


class Grader(Protocol):
    """Reads texts and turns scores into tiers, per route."""

    embedded_s: float
    """When a text was embedded last, monotonic; one that is remembered is not."""

    def read(self, text: str) -> Reading:
        """Read a text."""

    def adapted(self, reading: Reading, target: Target, tenant: str) -> Reading:
        """Give the reading with what the tenant's own labels taught."""

    def place(self, target: Target, aim: Objective, score: float, least: int) -> Placement:
        """Place a query on the tier, ``least`` at least, that the objective wants for its score."""

    def spent(self, target: Target, aim: Objective, model: Model, usd: float) -> None:
        """Learn what a routed request has cost."""


class Fleet(Protocol):
    """What is known of the replicas of a model; see ``Dispatcher``."""

    def ready(self, model: str) -> bool:
        """Tell whether any is ready."""

    def ttft_s(self, model: str) -> float | None:
        """Give the longest recent time to the first byte; None while unknown."""


class Chooser:
    """Chooses the model of a request."""

    def __init__(self, grader: Grader | None, fleet: Fleet) -> None:
        self.grader = grader
        self.conversations = Conversations()
        self._fleet = fleet

    @property
    def embedded_s(self) -> float:
        """When a text was embedded last, monotonic."""
        return self.grader.embedded_s if self.grader is not None else 0.0

    def choose(
        self,
        target: Target,
        request: Inference,
        headers: Mapping[bytes, bytes],
        key: Key,
        reading: Reading | None = None,
    ) -> Choice:
        """Choose; ``reading`` is what was read before. Raises InvalidRequest or ModelNotAllowed."""
        choice = self.weigh(target, request, headers, key, reading)
        if target.route:
            self.answered_by(choice.model.name, target, request, key)
        return choice

    def weigh(
        self,
        target: Target,
        request: Inference,
        headers: Mapping[bytes, bytes],
        key: Key,
        reading: Reading | None = None,
    ) -> Choice:
        """Choose what the client does not get, as ``choose``: its conversation does not come to that tier."""
        if not target.route:
            return Choice(target.models[0], None, "named")
        wish = headers.get(TIER)
        if wish is not None:
            return self._wished(target, wish.decode("latin-1"), key)
        aim = _aim(target, headers.get(OBJECTIVE), key)
        allowed = target.allowed(target.models, key)
        able, lack = _able(allowed, request)
        if len(allowed) < len(target.models):
            lack = lack or "allowed"
        ready = [model for model in able if self._fleet.ready(model.name)]
        if not ready:
            fallback = target.allowed(target.fallback, key)
            spare = [model for model in fallback if self._fleet.ready(model.name)]
            return Choice(spare[0], None, "fallback") if spare else Choice(able[0], None, "none-ready")
        if len(ready) > 1 and (prompt := [model for model in ready if self._prompt(model)]):
            if len(prompt) == 1:
                return Choice(prompt[0], None, "slo")
            ready = prompt
        if len(ready) == 1 or self.grader is None:
            return Choice(ready[0], None, lack if len(able) == 1 and lack else "only-ready")
        least = self._come_to(target, request, key)[0] if _has_past(request) else 0
        reading = reading or self.grader.read(text_of(request))
        reading = self.grader.adapted(reading, target, key.tenant)
        placed = self.grader.place(_apart(target, key), aim, _needed(reading, target), least)
        wanted = target.models[placed.tier]
        reason = _reason(reading, placed, least)
        if wanted not in ready:
            above = [model for model in ready if target.models.index(model) > placed.tier]
            reason = "next-ready" if wanted in able else lack
            wanted = above[0] if above else ready[-1]
        return Choice(wanted, reading.score, reason, placed.threshold, aim, reading)

    def spare(self, target: Target, failed: Model, headers: Mapping[bytes, bytes], key: Key) -> Choice | None:
        """Choose what answers instead of a model that failed; None where nothing does.

        A tier that the client chose itself is not replaced.
        """
        if b"x-switchgear-tier" in headers:
            return None
        names = [model.name for model in target.fallback]
        later = target.fallback[names.index(failed.name) + 1 :] if failed.name in names else target.fallback
        allowed = target.allowed(later, key)
        spare = next((model for model in allowed if self._fleet.ready(model.name)), None)
        return Choice(spare, None, "fallback") if spare is not None else None

    def next(self, target: Target, choice: Choice, request: Inference, key: Key) -> Choice | None:
        """Give the choice of the next larger tier that can and is ready, for an answer not good enough."""
        above = target.allowed(target.models[target.models.index(choice.model) + 1 :], key)
        for model, lack in zip(above, lacks(above, request), strict=True):
            if not lack and self._fleet.ready(model.name):
                return msgspec.structs.replace(choice, model=model, reason="cascade")
        return None

    def _come_to(self, target: Target, request: Inference, key: Key) -> tuple[int, bytes | None]:
        """Give the tier that a conversation has come to, and the name of its turn.

        It came there in the turn before, or in this one, which goes on with a tool's result or is tried anew.
        """
        before, now = _turns(target, request, key)
        past = (before, now) if _has_past(request) else ()
        return max(map(self.conversations.tier, past), default=0), now

    def falls_to(self, model: str, target: Target, request: Inference, key: Key) -> bool:
        """Tell whether a conversation would fall with an answer of a model."""
        if model not in target.names or not _has_past(request):
            return False
        return target.names.index(model) < self._come_to(target, request, key)[0]

    def answered_by(self, model: str, target: Target, request: Inference, key: Key) -> None:
        """Hear which model answers, or did: its tier is what the conversation has come to, whatever chose it.

        Where a smaller one had to answer for once (a wish, a tier that was not ready) it is the former.
        """
        tier = target.names.index(model) if model in target.names else 0
        if not tier and not _has_past(request):
            return
        former, now = self._come_to(target, request, key)
        tier = max(tier, former)
        if tier and now is not None:
            self.conversations.note(now, tier)

    def spent(self, target: Target, choice: Choice, usd: float, key: Key) -> None:
        """Hear what a request of a key has cost, where the objective is about that."""
        aim = choice.aim
        if aim is not None and aim.cost_per_request_usd is not None and self.grader is not None:
            self.grader.spent(_apart(target, key), aim, choice.model, usd)

    def _prompt(self, model: Model) -> bool:
        """Tell whether a model keeps its promise of time, as far as is known."""
        promised_ms = model.settings.slo_ttft_ms
        ttft_s = self._fleet.ttft_s(model.name) if promised_ms is not None else None
        return promised_ms is None or ttft_s is None or ttft_s * 1000 <= promised_ms

    def _wished(self, target: Target, wish: str, key: Key) -> Choice:
        for model in target.models:
            if model.name == wish:
                if model not in target.allowed(target.models, key):
                    raise ModelNotAllowed(f"This key may not use the tier {wish!r}.", param=TIER.decode())
                if model is target.models[-1] and key.most_large_share < 1.0:
                    raise ModelNotAllowed(
                        f"This key may not ask for the tier {wish!r}: its most_large_share is"
                        f" {key.most_large_share:g}. Leave the header out.",
                        param=TIER.decode(),
                    )
                return Choice(model, None, "client")
        names = ", ".join(model.name for model in target.models)
        raise InvalidRequest(
            f"The route {target.name!r} has no tier {wish!r}; it has {names}.", param=TIER.decode()
        )


def text_of(request: Inference) -> str:
    """Give the text that the classifier reads."""
    typed = request.typed
    if isinstance(typed, ChatFields):
        return query_text([{"role": one.role, "content": one.content} for one in typed.messages])
    if isinstance(typed, CompletionFields):
        prompt = typed.prompt
        if isinstance(prompt, str):
            return query_text(prompt)
        return query_text("\n".join(one for one in prompt if isinstance(one, str)))  # token ids say nothing
    return ""


def parse_aim(text: str) -> Objective:
    """Read an objective as the header says it: ``large_share=0.5``. Raises InvalidRequest."""
    name, _, value = text.partition("=")
    try:
        return msgspec.convert({name.strip(): float(value)}, Objective)
    except (ValueError, msgspec.ValidationError):
        known = ", ".join(Objective.__struct_fields__)
        raise InvalidRequest(
            f"The header {OBJECTIVE.decode()} must be a name and a number, such as 'large_share=0.5';"
            f" names are {known}, shares and qualities lie in [0, 1].",
            param=OBJECTIVE.decode(),
        ) from None


def _aim(target: Target, wish: bytes | None, key: Key) -> Objective:
    """Give the objective in force: the request's, the key's, the route's; in steps of a hundredth."""
    if wish is None:
        return target.objective_of(key)
    aim = parse_aim(wish.decode("latin-1"))
    if key.most_large_share < 1.0 and (aim.large_share is None or aim.large_share > key.most_large_share):
        raise ModelNotAllowed(
            f"This key may ask for no more than large_share={key.most_large_share:g}.",
            param=OBJECTIVE.decode(),
        )
    return aim if aim.large_share is None else Objective(large_share=round(aim.large_share, 2))


def _apart(target: Target, key: Key) -> Target:
    """Give the route by whose name an objective is held: keys that may not use its last tier have their own.

    Their requests would use up the share of those that may.
    """
    allowed = target.allowed(target.models, key)
    if allowed[-1] is target.models[-1]:
        return target
    return msgspec.structs.replace(target, names=tuple(model.name for model in allowed))


def _able(models: Sequence[Model], request: Inference) -> tuple[list[Model], str]:
    """Give the models that can take a request, the last where none can, and what another one lacks.

    Where no model has room for an answer as long as the client allows, that of the prompt is enough.
    """
    missing = lacks(models, request)
    if all(lack == "context" for lack in missing):
        missing = lacks(models, request, answer=False)
    able = [model for model, lack in zip(models, missing, strict=True) if not lack]
    if len(able) == len(models):
        return able, ""
    return able or [models[-1]], next(lack for lack in missing if lack)


def lacks(models: Sequence[Model], request: Inference, answer: bool = True) -> list[str]:
    """Say what each model lacks to take a request; nothing of one that can.

    The context must have room for the prompt and, with ``answer``, for the longest answer that the client
    asks for: engines refuse what does not fit together.
    """
    choosy = any(model.settings.languages for model in models)
    asked = languages_of(text_of(request)) if choosy else frozenset[str]()
    tokens = request.prompt_tokens_estimate - _picture_bytes(request) // BYTES_PER_TOKEN
    if answer:
        tokens += (request.most_output_tokens(None) or 0) // max(1, request.choices)
    return [_lack(model, request, asked, tokens) for model in models]


def _lack(model: Model, request: Inference, asked: frozenset[str], tokens: int) -> str:
    """Say what a model lacks to take a request in one of the languages; nothing where it can."""
    settings, typed = model.settings, request.typed
    if settings.context_tokens is not None and tokens > settings.context_tokens:
        return "context"
    if asked and not speaks(settings.languages, asked):
        return "language"
    if settings.tools and settings.json_schema and settings.images:
        return ""
    if isinstance(typed, ChatFields):
        if not settings.tools and (typed.tools or bytes(request.fields.get("functions", b"[]")) not in _NONE):
            return "tools"
        shape = b"" if settings.json_schema else bytes(request.fields.get("response_format", b""))
        if b"json_" in shape:
            return "json-schema"
        if not settings.images and any(_pictured(one.content) for one in typed.messages):
            return "images"
    return ""


def _picture_bytes(request: Inference) -> int:
    """Give the size of the pictures that stand in a request themselves: it says nothing of their tokens."""
    typed = request.typed
    if not isinstance(typed, ChatFields):
        return 0
    parts = (part for one in typed.messages if isinstance(one.content, list) for part in one.content)
    urls = (part.get("image_url") for part in parts if isinstance(part, dict))
    found = (one.get("url") for one in urls if isinstance(one, dict))
    return sum(len(url) for url in found if isinstance(url, str) and url.startswith("data:"))


def _pictured(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") not in ("text", None) for part in content
    )


def _has_past(request: Inference) -> bool:
    typed = request.typed
    if not isinstance(typed, ChatFields) or len(typed.messages) < 3:
        return False
    return any(one.role == "assistant" for one in typed.messages)


def _turns(target: Target, request: Inference, key: Key) -> tuple[bytes | None, bytes | None]:
    """Name the user's last turn but one and the last one; a system prompt may be another one each time."""
    typed = request.typed
    if not isinstance(typed, ChatFields):
        return None, None
    scope = f"{key.tenant}\0{target.route}\0".encode()
    contents = (
        (
            one.role,
            one.content.encode(errors="replace") if isinstance(one.content, str) else _encode(one.content),
        )
        for one in typed.messages
        if one.role not in ("system", "developer")
    )
    return turns(scope, contents)


def _needed(reading: Reading, target: Target) -> float:
    """Give the score that counts; a late one may count as one that needs the largest tier, too."""
    safe = reading.late and target.settings is not None and target.settings.when_late == "large"
    return 1.0 if safe else reading.needed


def _reason(reading: Reading, placed: Placement, least: int) -> str:
    if not reading.sure:
        return "unsure"
    if placed.tier == least and reading.score < placed.threshold and least:
        return "conversation"
    return "late" if reading.late else "score"
