"""The pieces of one answer on their way to the client, and into its bill.

A piece that money does not cover is not handed on: the answer ends before it in the declared way.
"""

from functools import partial
from typing import TYPE_CHECKING

from backends.clients.base import Taker
from gateway.openai.events import StreamReceiver
from gateway.openai.forms import Form
from gateway.openai.schemas import Inference
from gateway.openai.trail import Trail
from gateway.outlet import Outlet
from gateway.passage import Passage
from gateway.trip import Direct, Feed

if TYPE_CHECKING:
    from gateway.pipeline import Pipeline


class Delivery:
    """Hands pieces on; see ``trip.Deliver``."""

    def __init__(
        self, pipeline: "Pipeline", passage: Passage, request: Inference, receiver: Form, out: Outlet
    ) -> None:
        self._pipeline = pipeline
        self._passage = passage
        self._charge = passage.of()[2]
        self._request = request
        self._receiver = receiver
        self._out = out

    @property
    def direct(self) -> Direct | None:
        """The short way, which a stream has."""
        receiver = self._receiver
        return partial(self._taker, receiver) if isinstance(receiver, StreamReceiver) else None

    async def __call__(self, piece: bytes) -> bool:
        """Hand on a piece; False where money ends the answer."""
        receiver, charge, request, out = self._receiver, self._charge, self._request, self._out
        charge.catch_up()
        usage, estimated = receiver.usage(request.prompt_tokens_estimate)
        if usage.completion_tokens > charge.covered_tokens and not await charge.extend(usage):
            await out.piece(self._pipeline.stopped(self._passage, charge, receiver))
            return False
        charge.progress(usage, estimated)
        receiver.keep(piece)
        passage = self._passage
        if not request.stream:
            passage.first_byte_s = self._pipeline.now()
            await out.whole(self._pipeline.head(passage, request), piece)
            return True
        if not passage.first_byte_s:
            passage.first_byte_s = self._pipeline.now()
            await out.begin(self._pipeline.head(passage, request))
        await out.piece(piece)
        return True

    def _taker(self, receiver: StreamReceiver, feed: Feed, trail: Trail | None) -> Taker | None:
        """See ``trip.Direct``; whole events go this way, the usage and the end do not."""
        charge, lane, estimate = self._charge, self._out.lane, self._request.prompt_tokens_estimate
        if lane is None:
            return None
        charge.measured_by(lambda: receiver.usage(estimate))

        def take(data: bytes) -> bool:
            if not lane.clear:
                return False
            whole = trail is None or not trail.pending
            alike = whole and receiver.delivered_tokens + 1 < charge.covered_tokens
            piece = receiver.sing(data) if alike else None
            if piece is None:
                if not middle(data):
                    return False
                piece = feed(data)
            elif trail is not None:
                trail.hold(data)
            if piece:
                charge.delivers(receiver.delivered_tokens)
                if receiver.kept is not None:
                    receiver.keep(piece)
                lane.at_once(piece)
            return True

        def middle(data: bytes) -> bool:
            """Whether these are whole events, without usage and end, that the reservation covers."""
            if data[-2:] != b"\n\n" or b'"usage"' in data or b"[DONE]" in data:
                return False
            # For each token there is a comma behind its id, or the end of an event.
            most = receiver.delivered_tokens + data.count(b",") + data.count(b"\n\n")
            return most < charge.covered_tokens

        return take
