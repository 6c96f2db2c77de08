"""``/livez``, ``/readyz`` and ``/metrics``: for orchestrators and Prometheus, not for clients."""

import hmac
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.errors import InvalidApiKey
from gateway.process import Process


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    @get("/livez", sync_to_thread=False, include_in_schema=False)
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @get("/readyz", sync_to_thread=False, include_in_schema=False)
    def readyz() -> Response[dict[str, Any]]:
        serving, body = process.health()
        return Response(body, status_code=200 if serving else 503)

    @get("/metrics", sync_to_thread=False, include_in_schema=False)
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        token = process.metrics_token
        sent = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            raise InvalidApiKey("This gateway's metrics need its metrics token.")
        return Response(process.telemetry.text(), media_type="text/plain; version=0.0.4")

    return [livez, readyz, metrics]
