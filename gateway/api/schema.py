"""``/schema``: the OpenAPI description of the admin API, as JSON; nothing of it comes from another host."""

from importlib.metadata import version

from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

CONFIG = OpenAPIConfig(
    title="Switchgear admin API",
    version=version("switchgear"),
    description=(
        "Organisations, projects, keys, people and everything that happened. Lists are paged: `next` of a "
        "page is the `cursor` of the following one. A change names the `ETag` that it is over "
        "in `If-Match`. Times are seconds since 1970, amounts nano-dollars."
    ),
    use_handler_docstrings=True,
    path="/schema",
    render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
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
                description="The cookie of a sign-in.",
            ),
        }
    ),
)
