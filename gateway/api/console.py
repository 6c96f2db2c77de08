"""``/console``: what the appliance looks like from outside; static files, nothing that needs a key."""

from importlib.resources import files

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.process import Process

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
)


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    folder = files("dashboards") / "console"
    page, script = (folder / "status.html").read_bytes(), (folder / "status.js").read_bytes()
    headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff"}

    @get("/console", sync_to_thread=False, include_in_schema=False)
    def status() -> Response[bytes]:
        return Response(page, media_type="text/html", headers=headers)

    @get("/console/status.js", sync_to_thread=False, include_in_schema=False)
    def status_script() -> Response[bytes]:
        return Response(script, media_type="text/javascript", headers=headers)

    return [status, status_script]
