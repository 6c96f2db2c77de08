"""``/admin/v1/routing/what-if``: the tier a prompt would get now. Nothing is asked, billed or remembered."""

import itertools
from typing import Annotated

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.catalogue import Target
from gateway.errors import NotFound
from gateway.process import Process
from routing.complexity import query_text

Prompt = Annotated[str, Meta(max_length=100_000, description="What a user would write.")]


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, for one route or for all of them."""

    prompt: Prompt
    route: Annotated[str, Meta(max_length=200)] | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a route would do; ``thresholds`` are the scores from which each tier above the first is wanted."""

    route: str
    tier: str
    tiers: tuple[str, ...]
    thresholds: list[float]


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt's score in [0, 1], the expected gain of the largest tier, and each route's verdict."""

    score: float
    routes: list[Verdict]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    @post(
        "/routing/what-if",
        summary="Try a prompt",
        responses=frame.ACTS,
        status_code=200,
        tags=["fleet"],
        sync_to_thread=False,
    )
    def try_prompt(request: AdminRequest, data: JSONBody[Question]) -> WhatIf:
        """The tier that each route would choose now, were all of them ready."""
        frame.permitted(request, "fleet.read")
        found = [
            one
            for one in process.pipeline.catalogue.routes()
            if data.route is None or one.route == data.route
        ]
        grader = process.chooser.grader
        if not found or grader is None:
            raise NotFound("There is no such route.", param="route")
        score = grader.score(query_text([{"role": "user", "content": data.prompt}]))

        def verdict(target: Target) -> Verdict:
            thresholds = grader.thresholds(target)
            reached = itertools.takewhile(lambda bound: score >= bound, thresholds)
            tier = target.names[len(list(reached))]
            return Verdict(route=target.route, tier=tier, tiers=target.names, thresholds=thresholds)

        return WhatIf(score=score, routes=[verdict(one) for one in found])

    return [try_prompt]
