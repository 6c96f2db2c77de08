"""``/v1/models`` and ``/v1/models/{id}``."""

from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from gateway.errors import ModelNotFound
from gateway.process import Process


def handlers(process: Process) -> list[HTTPRouteHandler]:
    """Make the handlers."""

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "switchgear"}

    def names(request: Request[Any, Any, Any]) -> list[str]:
        raw = dict(request.scope["headers"])
        return list(process.pipeline.catalogue.names(process.pipeline.authenticate(raw)))

    @get("/v1/models", sync_to_thread=False, include_in_schema=False)
    def list_models(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return {"object": "list", "data": [card(name) for name in names(request)]}

    @get("/v1/models/{model:path}", sync_to_thread=False, include_in_schema=False)
    def get_model(request: Request[Any, Any, Any], model: str) -> dict[str, Any]:
        name = model.removeprefix("/")
        if name not in names(request):
            raise ModelNotFound(
                f"The model {name!r} does not exist; GET /v1/models lists those that do.", param="model"
            )
        return card(name)

    return [list_models, get_model]
