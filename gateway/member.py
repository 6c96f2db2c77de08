"""A request among those that share an upstream call: what it leads, what it follows, and who pays."""

from typing import TYPE_CHECKING

from gateway import sharing
from gateway.calls import Incoming
from gateway.choosing import Choice
from gateway.coalescing import Head
from gateway.delivery import Delivery
from gateway.openai.forms import Form, StreamTap
from gateway.openai.schemas import Inference
from gateway.outlet import Outlet
from gateway.passage import Passage
from gateway.trip import Call, Deliver, Trip

if TYPE_CHECKING:
    from gateway.pipeline import Pipeline


class Member:
    """A request among those that share an upstream call; see ``coalescing.Member``."""

    form: Form

    def __init__(
        self, pipeline: "Pipeline", passage: Passage, incoming: Incoming, request: Inference, out: Outlet
    ) -> None:
        self._pipeline = pipeline
        self._passage = passage
        self._incoming = incoming
        self._request = request
        self._out = out

    def lead(self) -> tuple[Head, Call]:
        """Choose the model and make the call, for everybody."""
        pipeline, passage, request = self._pipeline, self._passage, self._request
        return self._made(pipeline.choose(passage, self._incoming, request), None)

    def spare(self, call: Call, error: Exception) -> tuple[Head, Call] | None:
        """Choose another model after a failure; see ``Pipeline.spare``."""
        choice = self._pipeline.spare(self._passage, self._incoming, self._request, call, error)
        return None if choice is None else self._made(choice, call.trip)

    def _made(self, choice: Choice, trip: Trip | None) -> tuple[Head, Call]:
        pipeline, passage, request = self._pipeline, self._passage, self._request
        if pipeline.live:
            request = sharing.as_stream(request)
        name = choice.model.name
        tap = (
            StreamTap(request.choices)
            if request.stream
            else pipeline.calls.receiver(request, choice, passage.of()[2])
        )
        call = pipeline.calls.make(self._incoming, request, passage.of()[0], choice, tap, trip)
        call.trace = passage.trace
        return Head(name, choice.score, choice.reason, request.stream, choice.threshold), call

    def follow(self, head: Head, trip: Trip | None) -> tuple[Form, Deliver]:
        """Take the answer in the form that was asked for; who joined is billed as joined."""
        passage, charge = self._passage, self._passage.of()[2]
        if trip is None:
            model = self._pipeline.catalogue.models[head.model]
            passage.choice = Choice(model, head.score, head.reason, head.threshold)
            charge.answered_by(head.model)
            charge.source, passage.cache, passage.cache_key = "joined", "joined", None
        else:
            charge.serving = passage.trip = trip
        request = self._request
        if head.streamed != request.stream:
            self.form = sharing.other_form(request, head.model, charge.cost_of)
        else:
            assert passage.choice is not None
            self.form = self._pipeline.calls.receiver(request, passage.choice, charge)
        return self.form, Delivery(self._pipeline, passage, self._request, self.form, self._out)

    def pay(self, trip: Trip) -> None:
        """Pay the full price from now on, for all of it."""
        charge = self._passage.of()[2]
        charge.source, charge.serving = "upstream", trip
