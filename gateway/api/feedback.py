"""``POST /v1/feedback``: a user's word on an answer; a bad one's kept copy goes at once."""

from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from gateway.errors import InvalidRequest, NotPermitted
from gateway.process import Process

BAD_BELOW = 0.5


class Feedback(msgspec.Struct, frozen=True):
    """``score`` from 0, useless, to 1, right."""

    request_id: Annotated[str, Meta(min_length=1, max_length=200)]
    score: Annotated[float, Meta(ge=0, le=1)]
    comment: Annotated[str, Meta(max_length=4000)] | None = None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handler."""
    pipeline = process.pipeline

    @post("/v1/feedback", status_code=200, include_in_schema=False)
    async def give_feedback(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """Only on answers that the same tenant was given; ``quarantined`` tells whether a kept one went.

        ``passed_on``: the request was another gateway's, which has been told.
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
        answer = {"object": "feedback", "request_id": word.request_id, "quarantined": gone}
        return {**answer, "passed_on": True} if passed_on else answer

    return [give_feedback]
