"""What is served under which name: models and routes, compiled from the settings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import msgspec

from backends.engines import Engine
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from gateway.openai.schemas import Inference
from gateway.openai.ways import Able
from gateway.settings import ModelSettings, Objective, RouteSettings, Settings
from gateway.tenancy.keys import Key


class Model(msgspec.Struct, frozen=True):
    """One model, what its engine can, and what is made use of.

    ``takes_priority`` where the engine was launched for that; ``salts_prefixes`` unless tenants share them;
    ``upstream`` is the name that the replicas know it by, or its adapter; ``version`` "" is any.
    """

    settings: ModelSettings
    returns_token_ids: bool
    able: Able = Able()
    takes_priority: bool = False
    salts_prefixes: bool = False
    upstream: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.settings.name


class Target(msgspec.Struct, frozen=True, dict=True):
    """What a request named: one model, or a route over several, cheapest first.

    ``allowed_as`` is what a key must allow; ``by_key`` has the versions that some keys, by name, always get.
    """

    name: str
    route: str
    models: tuple[Model, ...]
    fallback: tuple[Model, ...] = ()
    settings: RouteSettings | None = None
    names: tuple[str, ...] = ()
    fallback_names: tuple[str, ...] = ()
    allowed_as: str = ""
    by_key: Mapping[str, "Target"] = {}

    @property
    def objective(self) -> Objective:
        """What a route aims at."""
        assert self.settings is not None
        return self.settings.objective

    def objective_of(self, key: Key) -> Objective:
        """Give what is aimed at for a key: its own share before the route's aim, within what it may have."""
        aim = self.objective if key.large_share is None else Objective(large_share=key.large_share)
        most = key.most_large_share
        within = most == 1.0 or (aim.large_share is not None and aim.large_share <= most)
        return aim if within else Objective(large_share=most)

    def allowed(self, models: Sequence[Model], key: Key) -> Sequence[Model]:
        """Give those of its models that a key allows: the tiers that it names, all where it names none."""
        if not self._narrowed(key):
            return models
        return [model for model in models if model.name in (key.models or ())]

    def shared_name(self, key: Key) -> str:
        """Give the name under which answers are shared.

        Keys with other tiers or fallbacks share none, nor do those with another objective.
        """
        name = self.name
        if not self.route:
            return name
        if self._narrowed(key):
            allowed = self.allowed((*self.models, *self.fallback), key)
            name = f"{name}[{','.join(model.name for model in allowed)}]"
        own = key.large_share is not None or key.most_large_share < 1.0
        if own and (aim := self.objective_of(key)) != self.objective:
            name = f"{name}({aim.told})"
        return name

    def _narrowed(self, key: Key) -> bool:
        if key.models is None or not self.route:
            return False
        named = sum(name in key.models for name in self.names)
        return 0 < named < len(self.names) or (named > 0 and not key.models.issuperset(self.fallback_names))

    @cached_property
    def context_tokens(self) -> int | None:
        """The longest context of the models; None where one is not known."""
        known = [model.settings.context_tokens for model in (*self.models, *self.fallback)]
        return None if None in known else max(one or 0 for one in known)


class Catalogue:
    """The names in force."""

    def __init__(
        self,
        settings: Settings,
        engines: Mapping[str, Engine],
        adapters: Callable[[str], Iterable[str]] = lambda model: (),
    ) -> None:
        """``adapters`` names those that a model's replicas have; they are asked for as MODEL:ADAPTER."""
        self._adapters = adapters
        self.models = {
            one.name: Model(
                one,
                engines[one.engine].returns_token_ids,
                Able(engines[one.engine].returns_token_ids, engines[one.engine].continues_messages),
                one.launch is not None and engines[one.engine].takes_priority,
                not one.share_prefix_cache and engines[one.engine].takes_cache_salt,
                one.upstream_name,
            )
            for one in settings.models
        }
        self._targets = {name: found for model in self.models.values() for name, found in _named(model)}
        for route in settings.routes:
            self._targets[route.name] = Target(
                route.name,
                route.name,
                tuple(self.models[tier] for tier in route.tiers),
                tuple(self.models[name] for name in route.fallback),
                route,
                route.tiers,
                route.fallback,
                route.name,
            )

    def target(self, request: Inference, key: Key) -> Target:
        """Give what the request named; raises ModelNotFound, ModelNotAllowed or InvalidRequest."""
        target = self._targets.get(request.model) or self._adapter(request.model)
        if target is None:
            raise ModelNotFound(
                f"The model {request.model!r} does not exist; GET /v1/models lists those that do.",
                param="model",
            )
        if target.by_key:
            target = target.by_key.get(key.name, target)
        if key.models is not None and target.allowed_as not in key.models:
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
        found = self._targets.items()
        return (name for name, one in found if key.models is None or one.allowed_as in key.models)

    def _adapter(self, asked: str) -> Target | None:
        """Give the target of MODEL:ADAPTER, where its replicas have it."""
        name, _, adapter = asked.rpartition(":")
        model = self.models.get(name)
        if model is None or adapter not in self._adapters(name):
            return None
        model = msgspec.structs.replace(model, upstream=adapter)
        return Target(asked, "", (model,), names=(name,), allowed_as=name)


def _named(model: Model) -> Iterator[tuple[str, Target]]:
    """Give the names of a model: its own, its aliases, and each version as MODEL@VERSION."""
    name, settings = model.name, model.settings
    versions = {
        one.name: Target(
            f"{name}@{one.name}",
            "",
            (msgspec.structs.replace(model, version=one.name),),
            names=(name,),
            allowed_as=name,
        )
        for one in settings.versions
    }
    by_key = {key: versions[one.name] for one in settings.versions for key in one.keys}
    whole = Target(name, "", (model,), names=(name,), allowed_as=name, by_key=by_key)
    yield name, whole
    yield from ((alias, whole) for alias in settings.aliases)
    yield from ((one.name, one) for one in versions.values())
