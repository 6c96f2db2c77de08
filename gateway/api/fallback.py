"""What ordinary handlers share: the application, an id for each request, OpenAI's shape for each error."""

import logging
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from gateway.api.inference import new_request_id
from gateway.errors import (
    ApiError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    error_body,
    error_headers,
)
from gateway.openai.schemas import CHAT, COMPLETIONS, EMBEDDINGS

log = logging.getLogger("switchgear.api")

BELOW = {CHAT.path, COMPLETIONS.path, EMBEDDINGS.path, "/models"}


class Ordinary(Litestar):
    """Litestar for handlers that take msgspec's structs only.

    By default it loads Pydantic wherever that is installed (the OpenAI client brings it): 6 MiB for good.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def render(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Render any exception of an ordinary handler in OpenAI's shape."""
    request_id = new_request_id()
    known = _known(request, error)
    if isinstance(known, InternalError):
        log.error("request %s failed", request_id, exc_info=error)
    headers = {name.decode(): value.decode() for name, value in error_headers(known)}
    return Response(
        error_body(known),
        status_code=known.status,
        media_type="application/json",
        headers={"x-request-id": request_id, **headers},
    )


def identified(response: Response[Any]) -> Response[Any]:
    """Give the answer of an ordinary handler its request id."""
    response.headers.setdefault("x-request-id", new_request_id())
    return response


def _known(request: Request[Any, Any, Any], error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case NotFoundException():
            return NotFound(
                f"Unknown request URL: {request.method} {request.url.path}.{_hint(request.url.path)}"
            )
        case MethodNotAllowedException():
            refusal = MethodNotAllowed(f"{request.url.path} does not take {request.method}.")
            refusal.headers.append((b"allow", ", ".join(methods(request)).encode()))
            return refusal
        case ValidationException():
            return _invalid(error)
        case HTTPException(status_code=413):
            return RequestTooLarge("The body is larger than this gateway takes.")
        case HTTPException(status_code=status) if status < 500:
            return InvalidRequest(error.detail)
        case _:
            return InternalError("The server had an error while processing your request.")


def _hint(path: str) -> str:
    """Say where it is that who asks beside the API probably wants."""
    if path == "/":
        return " The API is below /v1, the console at /console."
    if path in BELOW:
        return " The API is below /v1: add it to the client's base URL."
    return ""


def methods(request: Request[Any, Any, Any]) -> list[str]:
    """Give the methods that the path of a request takes."""
    parts = [part for part in request.url.path.split("/") if part]
    found: set[str] = set()
    for route in request.app.routes:
        pattern = route.path_components
        if len(pattern) == len(parts) and all(
            not isinstance(wanted, str) or wanted == part for wanted, part in zip(pattern, parts, strict=True)
        ):
            found |= {str(method) for method in getattr(route, "methods", ())}
    return sorted(found)


def _invalid(error: ValidationException) -> InvalidRequest:
    """Name the first field that is wrong, and what it should be."""
    found = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    message, field = str(found.get("message") or error.detail), found.get("key")
    if found.get("source") == "header" and field:
        field = field.replace("_", "-")
    unknown = message.partition("unknown field `")[2].rstrip("`")
    if unknown:
        message = f"There is no field {unknown!r}; remove it or correct its spelling"
        field = f"{field}.{unknown}" if field and field != "data" else unknown
    missing = message.partition("missing required field `")[2].rstrip("`")
    if missing:
        message = f"The field {missing!r} is missing"
        field = f"{field}.{missing}" if field and field != "data" else missing
    elif message == "'data'":
        message = "The body is missing; send JSON"
    return InvalidRequest(f"{message.rstrip('.')}.", param=None if field == "data" else field)
