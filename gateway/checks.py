"""What a configuration must fulfil beyond its types, and what it asks for that this version does not do."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from backends.engines.profile import is_path
from gateway.settings import ConfigError, ModelSettings, Objective, RouteSettings, Settings
from gateway.tenancy.pricing import PriceError, price_of_model
from gateway.tenancy.webhooks import MASTER_ENV, MASTER_MIN_CHARACTERS
from routing.policies import POLICIES

SHARES_TOLERANCE = 1e-6


def check(settings: Settings, source: str, environ: Mapping[str, str]) -> None:
    """Raise ConfigError with every finding, a line each."""
    findings = list(_findings(settings, environ))
    if findings:
        raise ConfigError("\n".join(f"{source}: {finding}" for finding in findings))


def check_weights(settings: Settings, source: str) -> None:
    """Raise ConfigError where a model that is to be launched here names a directory that is not here."""
    findings = [f"{one}; name a directory that exists, or a hub model" for one in missing_weights(settings)]
    if findings:
        raise ConfigError("\n".join(f"{source}: {finding}" for finding in findings))


def missing_weights(settings: Settings) -> Iterator[str]:
    """Give the key and the path of all weights, of models to launch, that are not on this machine."""
    for index, model in enumerate(settings.models):
        if model.launch is None:
            continue
        named = [("launch", model.launch.weights)] if not model.versions else []
        named += [(f"versions[{at}]", one.weights or "") for at, one in enumerate(model.versions)]
        for key, path in named:
            if is_path(path) and not Path(path).expanduser().exists():
                yield f"models[{index}].{key}.weights: there is no {path}"


def warnings(settings: Settings) -> Iterator[str]:
    """Give what an operator should know: the configuration works, but not quite as it reads."""
    for index, model in enumerate(settings.models):
        if model.price is None:
            fate = (
                "its rows are flagged 'unpriced'" if settings.billing.unpriced == "flag" else "it is refused"
            )
            yield f"models[{index}].price: {model.name!r} has no price in the file; without one {fate}"
    if settings.cache.semantic is not None and not settings.cache.exact_ttl_s:
        yield "cache.semantic: it needs the exact cache, which exact_ttl_s = 0 switches off; it has no effect"
    if not settings.keys:
        yield (
            "keys: the file has none; known are those made by 'switchgear keys create', and with "
            "'switchgear up' that of its home's credentials.json"
        )


def _findings(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    if not settings.models:
        yield "models: there are none; add a [[models]] table"
    yield from _workers(settings, environ)
    aliases = [alias for model in settings.models for alias in model.aliases]
    named = [*(one.name for one in settings.models), *(one.name for one in settings.routes)]
    names = Counter([*named, *aliases])
    for name, count in names.items():
        if count > 1:
            yield f"models, routes: the name {name!r} is given to {count} of them; names must be unique"
    for index, model in enumerate(settings.models):
        yield from (f"models[{index}].{finding}" for finding in _model(model, environ))
    for index, route in enumerate(settings.routes):
        yield from (f"routes[{index}].{finding}" for finding in _route(route, settings))
    yield from _semantic(settings)
    yield from _keys(settings, {*names}, environ)
    if 0 < len(environ.get(MASTER_ENV, "")) < MASTER_MIN_CHARACTERS:
        yield f"webhooks: give {MASTER_ENV} {MASTER_MIN_CHARACTERS} characters or more; it can be guessed"
    token = settings.server.metrics_token_env
    if token is not None and not environ.get(token):
        yield f"server.metrics_token_env: the variable {token} is not set"


def _semantic(settings: Settings) -> Iterator[str]:
    semantic = settings.cache.semantic
    if semantic is None:
        return
    if semantic.store == "redis" and settings.redis is None:
        yield "cache.semantic.store: 'redis' needs [redis]; add it, or set 'memory'"
    kinds = {model.name: model.kind for model in settings.models}
    if semantic.embedding != "static" and kinds.get(semantic.embedding) != "embedding":
        yield f"cache.semantic.embedding: no model of kind 'embedding' is named {semantic.embedding!r}"


def _keys(settings: Settings, known: set[str], environ: Mapping[str, str]) -> Iterator[str]:
    for index, key in enumerate(settings.keys):
        if (key.sha256 is None) == (key.key_env is None):
            yield f"keys[{index}]: give either sha256 or key_env"
        elif key.key_env is not None and not environ.get(key.key_env):
            yield f"keys[{index}].key_env: the variable {key.key_env} is not set"
        for name in sorted(set(key.models) - known):
            yield f"keys[{index}].models: no model or route is named {name!r}"


def _workers(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    redis = settings.redis
    if redis is not None and redis.password_env is not None and not environ.get(redis.password_env):
        yield f"redis.password_env: the variable {redis.password_env} is not set"
    if settings.server.workers == 1:
        return
    if redis is None:
        yield "server.workers: several workers share their limits in Redis; add [redis], or set it to 1"
    for index, model in enumerate(settings.models):
        if model.launch is not None and not settings.fleet.apart:
            yield (
                f"models[{index}].launch: launched engines belong to one process; set server.workers to 1, "
                "or fleet.apart"
            )


def _model(model: ModelSettings, environ: Mapping[str, str]) -> Iterator[str]:
    ways = (bool(model.replicas), model.launch is not None, model.kubernetes is not None)
    if sum(ways) != 1:
        yield "replicas: give one of [[models.replicas]], [models.launch] and [models.kubernetes]"
    if model.launch is not None and model.engine == "openai":
        yield f"launch: the engine {model.engine!r} runs elsewhere and cannot be launched; give replicas"
    if model.batch_window_ms is not None and model.kind != "embedding":
        yield "batch_window_ms: only embedding models join requests; remove it here"
    if model.policy not in POLICIES:
        yield f"policy: unknown policy {model.policy!r}; known are {', '.join(POLICIES)}"
    yield from _versions(model)
    for name, count in Counter(band.name for band in model.bands).items():
        if count > 1:
            yield f"bands: {name!r} is given {count} times; name each band once"
    try:
        price_of_model(model)
    except PriceError as error:
        yield f"price: {error}; round it"
    for index, replica in enumerate(model.replicas):
        if replica.api_key_env is not None and not environ.get(replica.api_key_env):
            yield f"replicas[{index}].api_key_env: the variable {replica.api_key_env} is not set"


def _versions(model: ModelSettings) -> Iterator[str]:
    if not model.versions:
        return
    if model.kubernetes is not None:
        yield "versions: pods have theirs, and its weight, by [[models.kubernetes.workloads]]; remove them"
    known = Counter(one.name for one in model.versions)
    yield from (f"versions: {name!r} is named {n} times; name it once" for name, n in known.items() if n > 1)
    if abs(sum(one.share for one in model.versions) - 1.0) > SHARES_TOLERANCE:
        yield "versions: the shares must add up to 1"
    if model.policy not in ("adaptive", "weighted"):
        yield "versions: they are drawn by their shares; remove policy"
    for index, one in enumerate(model.versions):
        if model.launch is not None and one.weights is None:
            yield f"versions[{index}].weights: name the weights of {one.name!r}"
        if model.launch is None and not any(replica.version == one.name for replica in model.replicas):
            yield f"versions[{index}]: no [[models.replicas]] has version = {one.name!r}"
    for index, replica in enumerate(model.replicas):
        if replica.version not in known:
            yield f"replicas[{index}].version: name one of the model's versions ({', '.join(known)})"


def _route(route: RouteSettings, settings: Settings) -> Iterator[str]:
    kinds = {model.name: model.kind for model in settings.models}
    for field, names in (("tiers", route.tiers), ("fallback", route.fallback)):
        for name in names:
            if name not in kinds:
                yield f"{field}: no model is named {name!r}"
            elif kinds[name] != "chat":
                yield f"{field}: {name!r} is an {kinds[name]} model; a route needs chat models"
    if len(set(route.tiers)) != len(route.tiers):
        yield "tiers: a model is named twice"
    if len(route.objective.stated) != 1:
        yield f"objective: give exactly one of {', '.join(Objective.__struct_fields__)}"
    unpriced = [model.name for model in settings.models if model.name in route.tiers and model.price is None]
    if route.objective.cost_per_request_usd is not None and unpriced:
        yield f"objective: to hold a cost, give {', '.join(unpriced)} a price"
    if route.grade == "precise" and kinds.get(route.embedder or "") != "embedding":
        yield "embedder: the precise grade needs one; name an embedding model (all-MiniLM-L6-v2)"
    if (
        route.shadow is not None
        and route.shadow.judge is not None
        and kinds.get(route.shadow.judge) != "chat"
    ):
        yield f"shadow.judge: no chat model is named {route.shadow.judge!r}"
