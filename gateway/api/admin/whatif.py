"""``/admin/v1/routing/what-if``: what routes would do with prompts. Nothing is asked, billed or remembered.

One prompt gives the tier that it would get now, and why. A file's rows give what an objective would: share,
quality and cost, with the curve beside a random choice and, where both outcomes of each row are told, the
oracle's. With neither, what the route's own labels taught stands for the traffic, or else the validation rows
of the classifier: what its objective is held by.
"""

import asyncio
import itertools
import threading
from typing import Annotated

import msgspec
import numpy as np
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.catalogue import Target
from gateway.embeddings import Reader
from gateway.errors import InvalidRequest, NotFound
from gateway.grading import Grading, typical_usd
from gateway.process import Process
from gateway.settings import Objective
from routing.complexity import query_text
from routing.embedding import StaticEmbedder
from routing.explaining import Explanation
from routing.forecast import Forecast, Known, forecast, picture, spread_of
from routing.objectives import Spending

Prompt = Annotated[str, Meta(max_length=100_000, description="What a user would write.")]
Outcome = Annotated[float, Meta(ge=0, le=1, description="How good that tier's answer was.")] | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One query of a file, with the outcomes of the smallest and the largest tier where they are known."""

    prompt: Prompt
    small_score: Outcome = None
    large_score: Outcome = None


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, the rows of a file, or neither; for one route or for all; ``objective`` in its place."""

    prompt: Prompt | None = None
    rows: Annotated[list[Row], Meta(min_length=1, max_length=20_000)] | None = None
    route: Annotated[str, Meta(max_length=200)] | None = None
    objective: Objective | None = None
    picture: Annotated[bool, Meta(description="Also draw the curve, as SVG.")] = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a route would do; ``thresholds`` are the scores from which each tier above the first is wanted.

    ``tier`` is the one prompt's; ``forecast`` and ``picture`` are of the rows.
    """

    route: str
    tier: str | None
    tiers: tuple[str, ...]
    thresholds: list[float]
    forecast: Forecast | None = None
    picture: str | None = None


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The score in [0, 1], the expected gain of the largest tier (of rows, the mean); and the verdicts."""

    score: float
    routes: list[Verdict]
    explanation: Explanation | None = None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers; texts are read in a worker thread, by a reader of its own."""
    reader: list[Grading] = []
    one_reads = threading.Lock()

    def answer(data: Question, seen: list[_Seen]) -> WhatIf:
        with one_reads:
            if not reader:
                reader.append(Grading.load(process.now, table=Reader(StaticEmbedder.load())))
            if data.prompt is not None:
                return _of_prompt(reader[0], seen, data.prompt)
            return _of_rows(reader[0], seen, data)

    @post("/routing/what-if", summary="Try prompts", responses=frame.ACTS, status_code=200, tags=["fleet"])
    async def try_prompts(request: AdminRequest, data: JSONBody[Question]) -> WhatIf:
        """The tier that each route would choose now, were all ready; or what it would do with a file."""
        frame.permitted(request, "fleet.read")
        grading = process.grading
        if grading is None or not (routes := _routes(process, data.route)):
            raise NotFound("There is no such route.", param="route")
        if data.prompt is not None and data.rows is not None:
            raise InvalidRequest("Give 'prompt' or 'rows', not both.", param="prompt")
        if data.objective is not None and len(data.objective.stated) != 1:
            names = ", ".join(Objective.__struct_fields__)
            raise InvalidRequest(f"Give exactly one of {names}.", param="objective")
        seen = [_seen(process, grading, one, data.objective) for one in routes]
        return await asyncio.to_thread(answer, data, seen)

    return [try_prompts]


class _Seen(msgspec.Struct, frozen=True):
    """What is in force on a route: boundaries, quality by share, what a request of each tier costs."""

    target: Target
    thresholds: list[float]
    known: Known
    costs_usd: list[float]


def _seen(process: Process, grading: Grading, target: Target, objective: Objective | None) -> _Seen:
    facts, curve = grading.facts, grading.curves.get(target.route)
    known = Known(facts.quality_by_share, facts.quality_spread)
    if curve is not None:
        learnt = next((one for one in process.learning.learnt() if one.route == target.route), None)
        known = Known(curve, spread_of(learnt.both if learnt is not None else 0))
    aim = grading.aim(target, objective or target.objective)
    costs = aim.costs_usd if isinstance(aim, Spending) else map(typical_usd, target.models)
    return _Seen(target, aim.thresholds(), known, list(costs))


def _routes(process: Process, name: str | None) -> list[Target]:
    return [one for one in process.pipeline.catalogue.routes() if name in (None, one.route)]


def _of_prompt(grading: Grading, seen: list[_Seen], prompt: str) -> WhatIf:
    text = query_text([{"role": "user", "content": prompt}])
    reading = grading.read(text)

    def verdict(one: _Seen) -> Verdict:
        reached = itertools.takewhile(lambda bound: reading.needed >= bound, one.thresholds)
        target = one.target
        tier = target.names[len(list(reached))]
        return Verdict(route=target.route, tier=tier, tiers=target.names, thresholds=one.thresholds)

    routes = [verdict(one) for one in seen]
    return WhatIf(score=reading.score, routes=routes, explanation=grading.explain(reading))


def _of_rows(grading: Grading, seen: list[_Seen], data: Question) -> WhatIf:
    rows = data.rows or []
    texts = [query_text([{"role": "user", "content": row.prompt}]) for row in rows]
    scores = np.array([grading.read(text).needed for text in texts] or grading.facts.score_quantiles)
    small = np.array([row.small_score for row in rows], np.float64)
    large = np.array([row.large_score for row in rows], np.float64)
    labelled = bool(rows) and not np.isnan(small).any() and not np.isnan(large).any()

    def verdict(one: _Seen) -> Verdict:
        target = one.target
        aim = (data.objective or target.objective).stated[0]
        found = forecast(aim, scores, (small, large) if labelled else None, one.known, one.costs_usd)
        return Verdict(
            route=target.route,
            tier=None,
            tiers=target.names,
            thresholds=one.thresholds,
            forecast=found,
            picture=picture(found) if data.picture else None,
        )

    return WhatIf(score=round(float(scores.mean()), 6), routes=[verdict(one) for one in seen])
