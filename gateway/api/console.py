"""``/console``: the built pages of ``dashboards/console``; static files, nothing that needs a key.

Rules: everything comes from this host. A path that is no file is a page's own address and gets the page. The
page may be kept by nobody, its parts (named by their content) by everybody.
"""

import gzip
import mimetypes
import secrets
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from gateway.errors import NotFound
from gateway.process import Process

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
NONCE = "{{nonce}}"
UNBUILT = (
    b"<!doctype html><title>Switchgear</title><p>The console is not built: run <code>make console</code>."
)


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""
    folder = files("dashboards") / "console" / "dist"
    index = folder / "index.html"
    page = index.read_bytes() if index.is_file() else UNBUILT

    @cache
    def part(name: str) -> tuple[bytes, bytes]:
        content = (folder / "assets" / name).read_bytes()
        return content, gzip.compress(content, mtime=0)

    names = _names(folder / "assets")

    @get(["/console", "/console/{path:path}"], sync_to_thread=False, include_in_schema=False)
    def console(path: str = "") -> Response[bytes]:
        nonce = secrets.token_urlsafe(16)
        headers = {
            **HEADERS,
            "content-security-policy": POLICY.format(nonce=nonce),
            "cache-control": "no-store",
        }
        body = page.replace(NONCE.encode(), nonce.encode())
        return Response(body, media_type="text/html", headers=headers)

    @get("/console/assets/{name:str}", sync_to_thread=False, include_in_schema=False)
    def asset(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
        try:
            plain, packed = part(name if name in names else "")
        except OSError:  # none of ours, or one that was built anew since the start
            raise NotFound("There is no such file; load the page again.") from None
        headers = {
            **HEADERS,
            "cache-control": "public, max-age=31536000, immutable",
            "vary": "accept-encoding",
        }
        zipped = "gzip" in request.headers.get("accept-encoding", "")
        if zipped:
            headers["content-encoding"] = "gzip"
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(packed if zipped else plain, media_type=kind, headers=headers)

    return [console, asset]


def _names(folder: Traversable) -> frozenset[str]:
    return frozenset(one.name for one in folder.iterdir()) if folder.is_dir() else frozenset()
