"""Names: what a request gets for the model it names."""

from typing import Any

import msgspec
import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue
from gateway.config_file import parse as parse_settings
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from gateway.openai.schemas import CHAT, EMBEDDINGS, Inference, parse
from gateway.tenancy.keys import Key
from tests.fakes.configs import MODEL, SAMPLE

EMBED = MODEL.replace('name = "m"', 'name = "org/embed"\nkind = "embedding"\nengine = "local"')
CATALOGUE = Catalogue(parse_settings(SAMPLE + EMBED, "x"), ENGINES)


def key(*models: str) -> Key:
    return Key(id="k", org="o", project="p", name="n", prefix="", sha256="", models=frozenset(models) or None)


def chat(model: str) -> Inference:
    return parse(CHAT, b'{"model": "%s", "messages": [{"role": "user"}]}' % model.encode())


def embedding(model: str) -> Inference:
    return parse(EMBEDDINGS, b'{"model": "%s", "input": "a"}' % model.encode())


def test_a_model_and_a_route_are_found() -> None:
    model = CATALOGUE.target(chat("small"), key())
    assert (model.name, model.route, [one.name for one in model.models]) == ("small", "", ["small"])
    assert model.models[0].returns_token_ids
    route = CATALOGUE.target(chat("auto"), key())
    assert (route.route, [one.name for one in route.models]) == ("auto", ["small", "large"])
    assert [one.name for one in route.fallback] == ["large"]
    assert route.objective is not None
    assert not CATALOGUE.target(embedding("org/embed"), key()).models[0].returns_token_ids


@pytest.mark.parametrize("name", ["nothing", "", "SMALL", "\\u0000", "é", "x" * 5000])
def test_an_unknown_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOGUE.target(chat(name), key())
    assert caught.value.param == "model"


def test_a_key_uses_only_its_models() -> None:
    assert CATALOGUE.target(chat("auto"), key("auto")).route == "auto"
    with pytest.raises(ModelNotAllowed):
        CATALOGUE.target(chat("small"), key("auto"))
    with pytest.raises(ModelNotFound):
        CATALOGUE.target(chat("nothing"), key("auto"))
    assert list(CATALOGUE.names(key("auto", "small"))) == ["small", "auto"]
    assert list(CATALOGUE.names(key())) == ["small", "large", "org/embed", "auto"]


@pytest.mark.parametrize("request_", [chat("org/embed"), embedding("small"), embedding("auto")])
def test_a_model_of_another_kind_is_refused(request_: Inference) -> None:
    with pytest.raises(InvalidRequest, match="is not served under /v1/") as caught:
        CATALOGUE.target(request_, key())
    assert caught.value.param == "model"


VERSIONED = """
[[models]]
name = "v"
aliases = ["gpt-4o-mini"]
upstream_model = "base"
[[models.versions]]
name = "old"
share = 1.0
[[models.versions]]
name = "new"
keys = ["canary"]
[[models.replicas]]
url = "http://127.0.0.1:9/v1"
version = "old"
[[models.replicas]]
url = "http://127.0.0.1:9/v1"
version = "new"
"""


def test_aliases_versions_and_adapters_are_names_of_their_model() -> None:
    catalogue = Catalogue(parse_settings(VERSIONED, "x"), ENGINES, {"v": ["tax"]}.__getitem__)
    for name, version, upstream in (
        ("v", "", "base"),
        ("gpt-4o-mini", "", "base"),
        ("v@new", "new", "base"),
        ("v:tax", "", "tax"),
    ):
        found = catalogue.target(chat(name), key("v"))
        assert (found.models[0].name, found.models[0].version, found.models[0].upstream) == (
            "v",
            version,
            upstream,
        )
    assert list(catalogue.names(key())) == ["v", "gpt-4o-mini", "v@old", "v@new"]
    with pytest.raises(ModelNotFound):
        catalogue.target(chat("v:other"), key())
    with pytest.raises(ModelNotAllowed):
        catalogue.target(chat("gpt-4o-mini"), key("other"))


def test_a_canary_by_key_has_its_version_and_its_own_cache() -> None:
    catalogue = Catalogue(parse_settings(VERSIONED, "x"), ENGINES)
    own = Key(id="k", org="o", project="p", name="canary", prefix="", sha256="")
    found = catalogue.target(chat("v"), own)
    assert (found.name, found.models[0].version) == ("v@new", "new")
    assert catalogue.target(chat("v"), key()).models[0].version == ""


def test_keys_that_name_other_tiers_of_a_route_share_no_answers() -> None:
    tiers = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in ("small", "large"))
    route = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\n'
    found = Catalogue(parse_settings(tiers + route, "x"), ENGINES).routes()[0]

    def name(*models: str) -> str:
        return found.shared_name(key(*models))

    assert name() == name("auto") == name("auto", "small", "large") == "auto"
    assert name("auto", "small") == "auto[small]"
    assert name("auto", "large") == "auto[large]"


@pytest.mark.parametrize(
    ("terms", "name"),
    [
        ({}, "auto"),
        ({"large_share": 0.3}, "auto"),
        ({"most_large_share": 0.3}, "auto"),
        ({"large_share": 0.9}, "auto(large_share=0.9)"),
        ({"most_large_share": 0.1}, "auto(large_share=0.1)"),
        ({"large_share": 0.9, "most_large_share": 0.5}, "auto(large_share=0.5)"),
        ({"large_share": 0.9, "models": frozenset({"auto", "small"})}, "auto[small](large_share=0.9)"),
    ],
)
def test_keys_with_another_objective_share_no_answers_of_a_route(terms: dict[str, Any], name: str) -> None:
    tiers = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in ("small", "large"))
    route = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\n'
    settings = parse_settings(tiers + route, "x")
    assert settings.routes[0].objective.large_share == 0.3
    found = Catalogue(settings, ENGINES)
    own = msgspec.structs.replace(key(), **terms)
    assert found.routes()[0].shared_name(own) == name
    assert found.target(chat("small"), key()).shared_name(own) == "small"


def test_keys_that_name_other_fallbacks_of_a_route_share_no_answers() -> None:
    names = ("small", "large", "spare")
    tiers = "".join(MODEL.replace('name = "m"', f'name = "{name}"') for name in names)
    route = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nfallback = ["spare"]\n'
    found = Catalogue(parse_settings(tiers + route, "x"), ENGINES).routes()[0]
    allowed = ((), ("small",), ("small", "spare"), ("small", "large"), ("large", "spare"))
    shared = [found.shared_name(key("auto", *models)) for models in allowed]
    assert len(set(shared)) == len(allowed)
    assert found.shared_name(key("auto", *names)) == found.shared_name(key()) == "auto"
