"""Which model answers: hard constraints first, then the score of the classifier against the objective."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from gateway.catalogue import Model, Target
from gateway.errors import InvalidRequest
from gateway.openai.schemas import ChatFields, CompletionFields, Inference
from routing.complexity import query_text


class Choice(msgspec.Struct, frozen=True):
    """The model, the score where one was needed, and why in one word."""

    model: Model
    score: float | None
    reason: str


class Grader(Protocol):
    """Scores texts and turns scores into tiers, per route."""

    embedded_s: float
    """When a text was embedded last, monotonic; one that is remembered is not."""

    def score(self, text: str) -> float:
        """Give the expected gain of the largest tier, in [0, 1]."""

    def tier(self, target: Target, score: float) -> int:
        """Give the index of the tier, 0 the cheapest, that the route's objective wants for this score."""

    def thresholds(self, target: Target) -> list[float]:
        """Give the scores from which on each tier above the cheapest is wanted now."""


class Chooser:
    """Chooses the model of a request; ``ready`` tells whether a model has a ready replica."""

    def __init__(self, grader: Grader | None, ready: Callable[[str], bool]) -> None:
        self.grader = grader
        self._ready = ready

    @property
    def embedded_s(self) -> float:
        """When a text was embedded last, monotonic."""
        return self.grader.embedded_s if self.grader is not None else 0.0

    def choose(self, target: Target, request: Inference, headers: Mapping[bytes, bytes]) -> Choice:
        """Choose; raises InvalidRequest for a tier that the route does not have."""
        if not target.route:
            return Choice(target.models[0], None, "named")
        wish = headers.get(b"x-switchgear-tier")
        if wish is not None:
            return self._wished(target, wish.decode("latin-1"))
        fitting = [model for model in target.models if _fits(model, request)] or [target.models[-1]]
        ready = [model for model in fitting if self._ready(model.name)]
        if not ready:
            spare = [model for model in target.fallback if self._ready(model.name)]
            return Choice(spare[0], None, "fallback") if spare else Choice(fitting[0], None, "none-ready")
        if len(ready) == 1 or self.grader is None:
            reason = "only-ready" if len(fitting) > 1 else "context"
            return Choice(ready[0], None, reason)
        score = self.grader.score(text_of(request))
        wanted = target.models[self.grader.tier(target, score)]
        if wanted in ready:
            return Choice(wanted, score, "score")
        above = [model for model in ready if target.models.index(model) > target.models.index(wanted)]
        return Choice(above[0] if above else ready[-1], score, "next-ready")

    def _wished(self, target: Target, wish: str) -> Choice:
        for model in target.models:
            if model.name == wish:
                return Choice(model, None, "client")
        names = ", ".join(model.name for model in target.models)
        raise InvalidRequest(
            f"The route {target.name!r} has no tier {wish!r}; it has {names}.", param="x-switchgear-tier"
        )


def text_of(request: Inference) -> str:
    """Give the text that the classifier reads."""
    typed = request.typed
    if isinstance(typed, ChatFields):
        return query_text([{"role": one.role, "content": one.content} for one in typed.messages])
    if isinstance(typed, CompletionFields):
        prompt = typed.prompt
        return prompt if isinstance(prompt, str) else str(prompt[0] if prompt else "")
    return ""


def _fits(model: Model, request: Inference) -> bool:
    if not model.settings.tools and isinstance(request.typed, ChatFields) and request.typed.tools:
        return False
    limit = model.settings.context_tokens
    return limit is None or request.prompt_tokens_estimate <= limit
