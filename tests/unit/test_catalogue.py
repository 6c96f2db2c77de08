"""Names: what a request gets for the model it names."""

import pytest

from backends.engines import ENGINES
from gateway.catalogue import Catalogue
from gateway.errors import InvalidRequest, ModelNotAllowed, ModelNotFound
from gateway.openai.schemas import CHAT, EMBEDDINGS, Inference, parse
from gateway.settings import parse as parse_settings
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
