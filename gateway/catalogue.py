"""What is served under which name: models and routes, compiled from the settings."""

from collections.abc import Iterator, Mapping

import msgspec

from backends.engines import Engine
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from gateway.openai.schemas import Inference
from gateway.settings import ModelSettings, Objective, RouteSettings, Settings
from gateway.tenancy.keys import Key


class Model(msgspec.Struct, frozen=True):
    """One model, what its engine can, and what is made use of.

    ``takes_priority`` where the engine was launched for that; ``salts_prefixes`` unless tenants share them.
    """

    settings: ModelSettings
    returns_token_ids: bool
    takes_priority: bool = False
    salts_prefixes: bool = False

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.settings.name


class Target(msgspec.Struct, frozen=True):
    """What a request named: one model, or a route over several, cheapest first."""

    name: str
    route: str
    models: tuple[Model, ...]
    fallback: tuple[Model, ...] = ()
    settings: RouteSettings | None = None
    names: tuple[str, ...] = ()
    fallback_names: tuple[str, ...] = ()

    @property
    def objective(self) -> Objective:
        """What a route aims at."""
        assert self.settings is not None
        return self.settings.objective

    @property
    def context_tokens(self) -> int | None:
        """The longest context of the models; None where one is not known."""
        known = [model.settings.context_tokens for model in (*self.models, *self.fallback)]
        return None if None in known else max(one or 0 for one in known)


class Catalogue:
    """The names in force."""

    def __init__(self, settings: Settings, engines: Mapping[str, Engine]) -> None:
        self.models = {
            one.name: Model(
                one,
                engines[one.engine].returns_token_ids,
                one.launch is not None and engines[one.engine].takes_priority,
                not one.share_prefix_cache and engines[one.engine].takes_cache_salt,
            )
            for one in settings.models
        }
        self._targets = {
            name: Target(name, "", (model,), names=(name,)) for name, model in self.models.items()
        }
        for route in settings.routes:
            self._targets[route.name] = Target(
                route.name,
                route.name,
                tuple(self.models[tier] for tier in route.tiers),
                tuple(self.models[name] for name in route.fallback),
                route,
                route.tiers,
                route.fallback,
            )

    def target(self, request: Inference, key: Key) -> Target:
        """Give what the request named; raises ModelNotFound, ModelNotAllowed or InvalidRequest."""
        target = self._targets.get(request.model)
        if target is None:
            raise ModelNotFound(f"The model {request.model!r} does not exist.", param="model")
        if key.models is not None and target.name not in key.models:
            raise ModelNotAllowed(f"This key may not use the model {target.name!r}.", param="model")
        kind = target.models[0].settings.kind
        if kind != request.endpoint.kind:
            raise InvalidRequest(
                f"The model {target.name!r} ({kind}) is not served under /v1{request.endpoint.path}.",
                param="model",
            )
        return target

    def routes(self) -> list[Target]:
        """Give the routes in the order of the file."""
        return [target for target in self._targets.values() if target.route]

    def names(self, key: Key) -> Iterator[str]:
        """Give the names that a key may use, models before routes."""
        return (name for name in self._targets if key.models is None or name in key.models)
