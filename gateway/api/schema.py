"""``/schema``: the OpenAPI description of the admin API, as JSON; nothing of it comes from another host.

Litestar describes the routes, msgspec the bodies: Litestar loses constraints that stand inside of a union.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from gateway.api.admin.frame import VERSION

DESCRIPTION = """Organisations, projects, keys, people and everything that happened.

Lists are paged: `next` of a page is the `cursor` of the following one. A change names the `ETag` that it
is over in `If-Match`. Times are seconds since 1970, amounts nano-dollars."""


class _ExactPlugin(JsonRenderPlugin):
    """Renders the schema with the bodies as msgspec checks them."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Give the whole description as JSON."""
        bodies = list(_bodies(request.app))
        _, exact = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
        openapi_schema["components"]["schemas"].update(exact)
        for operations in openapi_schema["paths"].values():
            for operation in operations.values():
                operation["responses"].get("204", {}).pop("content", None)
                for parameter in operation.get("parameters", ()):
                    if parameter["name"] == "if-match":  # checked by the handler, for a status of its own
                        parameter["required"] = True
                        parameter["schema"] = {"type": "string", "pattern": VERSION}
        return super().render(request, openapi_schema)


def _bodies(app: Litestar) -> Iterator[type[msgspec.Struct]]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if isinstance(handler, HTTPRouteHandler) and handler.parsed_data_field is not None:
                yield handler.parsed_data_field.annotation


CONFIG = OpenAPIConfig(
    title="Switchgear admin API",
    version=version("switchgear"),
    description=DESCRIPTION,
    use_handler_docstrings=True,
    path="/schema",
    render_plugins=[_ExactPlugin(path=["/", "/openapi.json"])],
    components=Components(
        security_schemes={
            "admin key": SecurityScheme(
                type="http",
                scheme="bearer",
                description="`SWITCHGEAR_ADMIN_KEY`, or an API key with the scope `admin` or `usage`.",
            ),
            "session": SecurityScheme(
                type="apiKey",
                name="switchgear_session",
                security_scheme_in="cookie",
                description="The cookie of a sign-in; changes need `x-csrf-token` beside it.",
            ),
        }
    ),
)
