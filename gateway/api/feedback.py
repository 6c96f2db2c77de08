"""``POST /v1/feedback``: a user's word on an answer: a bad one's kept copy goes at once, routing learns."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from gateway.choosing import Reading
from gateway.errors import InvalidRequest, NotPermitted
from gateway.learning import label_of
from gateway.process import Process
from gateway.request_log import RequestLine, RequestLog
from gateway.together import Word

BAD_BELOW = 0.5
_MOST_TAKEN = 4_000  # answers on which a word was taken: more than the process knows readings of


class Feedback(msgspec.Struct, frozen=True):
    """``score`` from 0, useless, to 1, right."""

    request_id: Annotated[str, Meta(min_length=1, max_length=200)]
    score: Annotated[float, Meta(ge=0, le=1)]
    comment: Annotated[str, Meta(max_length=4000)] | None = None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handler."""
    pipeline = process.pipeline
    taken: dict[str, None] = {}

    def learn(word: Word, decision: RequestLine, reading: Reading) -> bool:
        """Take the first word on an answer: one told again and again would outweigh the others."""
        if word.request_id in taken or not _learn(process, word, decision, reading):
            return False
        taken[word.request_id] = None
        if len(taken) > _MOST_TAKEN:
            del taken[next(iter(taken))]
        return True

    @post("/v1/feedback", status_code=200, include_in_schema=False)
    async def give_feedback(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Only on answers that the same tenant was given.

        ``quarantined`` tells whether a kept answer went, ``learnt`` whether routing takes note, ``passed_on``
        that the request was another gateway's, which has been told.
        """
        key = pipeline.authenticate(dict(request.scope["headers"]))
        if "inference" not in key.scopes:
            raise NotPermitted("This API key is not for inference: its scopes lack 'inference'.")
        try:
            word = msgspec.json.decode(await request.body(), type=Feedback)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The body must be a feedback: {error}.") from None
        kept, right = pipeline.shelf.kept, word.score >= BAD_BELOW
        passed_on = not right and kept.pass_on(key.tenant, word.request_id)
        gone = await kept.complain(key.tenant, word.request_id, right)
        said = Word(key.org, key.project, key.tenant, word.request_id, word.score)
        decided = await asyncio.to_thread(_decided, process.log, word.request_id)
        learnt = decided is not None and learn(said, *decided)
        if decided is None and process.together is not None:
            process.together.pass_on(said)
            passed_on = True
        told = {"object": "feedback", "request_id": word.request_id, "quarantined": gone, "learnt": learnt}
        return {**told, "passed_on": True} if passed_on else told

    async def hear(word: Word) -> None:
        """Take a word that another gateway was told."""
        decided = await asyncio.to_thread(_decided, process.log, word.request_id)
        if decided is not None:
            learn(word, *decided)

    if process.together is not None:
        process.together.hear_word = hear
    return [give_feedback]


def _decided(log: RequestLog, request_id: str) -> tuple[RequestLine, Reading] | None:
    """Give how a request was decided, and what the classifier read; None where it was not asked."""
    decision, reading = log.find(request_id), log.reading(request_id)
    return None if decision is None or reading is None else (decision, reading)


def _learn(process: Process, word: Word, decision: RequestLine, reading: Reading) -> bool:
    """Take the word as a label, where a model's answer to the same tenant is meant; tells whether it is."""
    tiers = decision.candidates
    own = (decision.org, decision.project) == (word.org, word.project)
    if not own or decision.source != "upstream" or decision.model not in (tiers[0], tiers[-1]):
        return False
    large = decision.model == tiers[-1]
    label = label_of(
        reading,
        ts=process.control.wall(),
        route=decision.route,
        tenant=word.tenant,
        source="feedback",
        large_served=large,
    )
    told = {"large": word.score} if large else {"small": word.score}
    process.learning.note(msgspec.structs.replace(label, **told))
    return True
