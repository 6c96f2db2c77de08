"""``/admin/v1/live`` and ``/activity``: what happens now, for the console's first page.

``live`` comes from memory and never waits for SQL; its figures are totals since the start, so that who asks
twice sees what happened between. ``activity`` adds the ledger up by a step of time: a short span only.
"""

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest, Filter, Page
from gateway.errors import InvalidRequest
from gateway.process import Process
from gateway.tenancy import minutes
from gateway.tenancy.minutes import Activity

Moment = Annotated[float, QueryParameter(ge=0, le=1e11, description="Seconds since 1970.")]
Step = Annotated[int, QueryParameter(ge=1, le=86400, description="Seconds of one step.")]
STEPS = 400
SPAN_S = 86400.0


class Bucket(msgspec.Struct, frozen=True):
    """How many requests took at most ``le`` seconds; null: any time."""

    le: float | None
    count: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One model: what runs and waits now, and how long requests took since the start, by growing bounds."""

    model: str
    running: int
    queued: int
    duration: list[Bucket]
    first_byte: list[Bucket]


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this moment; ``ledger_gap_nanousd`` is null until it is known.

    The cache's errors are null without the semantic tier: wrong hits allowed and, by its audits, expected for
    each request; and expected for each hit by likeness.
    """

    now_s: float
    status: str
    parts: dict[str, Any]
    models: list[Load]
    cache_entries: int
    cache_bytes: int
    cache_error_bound: float | None
    cache_error_estimate: float | None
    cache_false_hit_ratio: float | None
    cache_audits: dict[str, int]
    ledger_gap_nanousd: int | None


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    control = process.control

    @get("/live", summary="Read the present", responses=frame.LISTS, tags=["live"], sync_to_thread=False)
    def read_live(request: AdminRequest) -> Live:
        """Health, and the load of every model, from memory."""
        frame.permitted(request, "fleet.read")
        return _live(process)

    @get("/activity", summary="Add up by time", responses=frame.LISTS, tags=["live"], sync_to_thread=True)
    def read_activity(  # one parameter per filter
        request: AdminRequest,
        from_s: Moment,
        to_s: Moment,
        step_s: Step = 60,
        org: Filter = None,
        model: Filter = None,
    ) -> Page[Activity]:
        """Requests, tokens and cost by step of time, outcome and source, over at most a day."""
        reach = frame.permitted(request, "usage.read")
        if not 0 <= to_s - from_s <= min(SPAN_S, STEPS * step_s):
            raise InvalidRequest(f"Ask for {STEPS} steps and one day at most.", param="to_s")
        with frame.reading(control) as connection:
            filters = {"org": org, "model": model}
            return Page(minutes.activity(connection, reach, filters, (from_s, to_s), step_s), None)

    return [read_live, read_activity]


def _live(process: Process) -> Live:
    _, health = process.health()
    samples = {family.name: family.samples for family in process.telemetry.collect()}

    def gauge(name: str, model: str | None = None) -> float:
        found = samples.get(name, [])
        return sum(one.value for one in found if model is None or one.labels["model"] == model)

    def seen(name: str) -> float | None:
        found = samples.get(name, [])
        return found[0].value if found else None

    gap = seen("switchgear_ledger_gap_nanousd")
    return Live(
        now_s=process.control.wall(),
        status=health["status"],
        parts=health["parts"],
        models=[
            Load(
                model=name,
                running=int(gauge("switchgear_running", name)),
                queued=int(gauge("switchgear_queue_depth", name)),
                duration=_buckets(samples.get("gen_ai_server_request_duration_seconds", []), name),
                first_byte=_buckets(samples.get("gen_ai_server_time_to_first_token_seconds", []), name),
            )
            for name in sorted(process.pipeline.catalogue.models)
        ],
        cache_entries=int(gauge("switchgear_cache_entries")),
        cache_bytes=int(gauge("switchgear_cache_bytes")),
        cache_error_bound=seen("switchgear_cache_error_bound"),
        cache_error_estimate=seen("switchgear_cache_error_estimate"),
        cache_false_hit_ratio=seen("switchgear_cache_false_hit_ratio"),
        cache_audits={
            one.labels["outcome"]: int(one.value)
            for one in samples.get("switchgear_cache_audits", [])
            if one.name.endswith("_total")
        },
        ledger_gap_nanousd=None if gap is None else int(gap),
    )


def _buckets(found: Iterable[Any], model: str) -> list[Bucket]:
    counts: dict[str, int] = {}  # of all operations and outcomes together
    for one in found:
        if one.name.endswith("_bucket") and one.labels["gen_ai_response_model"] == model:
            counts[one.labels["le"]] = counts.get(one.labels["le"], 0) + int(one.value)
    return [Bucket(None if bound == "+Inf" else float(bound), count) for bound, count in counts.items()]
