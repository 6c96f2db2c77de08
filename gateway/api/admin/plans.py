"""``/admin/v1/plan``: whether each model fits on this gateway's machine, and how it is started."""

import asyncio
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler

from gateway.api.admin import frame
from gateway.api.admin.frame import AdminRequest
from gateway.planning import planned, this_machine
from gateway.process import Process


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model: what it needs and holds, or why it does not fit; the figures only where they are known."""

    model: str
    fits: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    weight_bytes: int | None = None
    weight_bytes_per_gpu: int | None = None
    kv_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    kv_tokens: int | None = None
    sequences: dict[str, int] = {}
    tokens_per_s: float | None = None
    devices: tuple[tuple[int, ...], ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}


class Plans(msgspec.Struct, frozen=True):
    """One beside the other: no two get the same GPU."""

    data: list[Plan]


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handler."""
    docs: dict[str, Any] = {"responses": frame.READS, "tags": ["fleet"]}

    @get("/plan", summary="Plan the models on this machine", **docs)
    async def read_plan(request: AdminRequest) -> Plans:
        """Weights, room for the KV cache, sequences at once, and the command of each launched model."""
        frame.permitted(request, "fleet.read")
        found = await asyncio.to_thread(lambda: planned(process.settings, this_machine()))
        return Plans(msgspec.convert(found, list[Plan], strict=False))

    return [read_plan]
