"""What a configuration must fulfil beyond its types."""

import pytest

from gateway.checks import check, warnings
from gateway.config_file import parse
from gateway.settings import ConfigError
from tests.fakes.configs import ENVIRON, MODEL, REDIS, SAMPLE

HASH = "0" * 64
TWO = MODEL + MODEL.replace('"m"', '"n"')
EMBED = MODEL.replace('name = "m"', 'name = "e"\nkind = "embedding"')


def findings(text: str, environ: dict[str, str] | None = None) -> list[str]:
    try:
        check(parse(text, "c.toml"), "c.toml", environ or {})
    except ConfigError as error:
        return str(error).splitlines()
    return []


def route(rest: str) -> str:
    return TWO + EMBED + f'[[routes]]\nname = "r"\n{rest}\n'


def with_key(rest: str) -> str:
    return MODEL + f'[[keys]]\nname = "k"\n{rest}\n'


@pytest.mark.parametrize(
    ("text", "path", "remedy"),
    [
        ("", "models:", "add a [[models]] table"),
        ("[server]\nworkers = 2\n" + MODEL, "server.workers:", "add [redis]"),
        (MODEL + REDIS + 'password_env = "NONE"', "redis.password_env:", "NONE is not set"),
        ('[server]\nmetrics_token_env = "NONE"\n' + MODEL, "server.metrics_token_env:", "NONE is not set"),
        (MODEL + MODEL, "models, routes:", "must be unique"),
        (TWO + '[[routes]]\nname = "m"\ntiers = ["m", "n"]', "models, routes:", "'m'"),
        ('[[models]]\nname = "m"', "models[0].replicas:", "give one of"),
        (MODEL + '[models.launch]\nweights = "x"', "models[0].replicas:", "give one of"),
        ('[[models]]\nname = "m"\nengine = "openai"\n[models.launch]\nweights = "x"',
         "models[0].launch:", "give replicas"),
        (MODEL.replace("price", 'policy = "best"\nprice'),
         "models[0].policy:", "known are adaptive, round_robin"),
        (MODEL.replace("price", 'bands = [{ name = "batch" }, { name = "batch" }]\nprice'),
         "models[0].bands:", "'batch' is given 2 times; name each band once"),
        (MODEL.replace("price", "batch_window_ms = 3\nprice"),
         "models[0].batch_window_ms:", "remove it here"),
        (MODEL.replace("0.05", "0.00005"), "models[0].price:", "round it"),
        (MODEL + 'api_key_env = "NONE"', "models[0].replicas[0].api_key_env:", "NONE is not set"),
        (route('tiers = ["m", "x"]'), "routes[0].tiers:", "no model is named 'x'"),
        (route('tiers = ["m", "e"]'), "routes[0].tiers:", "needs chat models"),
        (route('tiers = ["m", "m"]'), "routes[0].tiers:", "named twice"),
        (route('tiers = ["m", "n"]\nfallback = ["x"]'), "routes[0].fallback:", "no model is named 'x'"),
        (route('tiers = ["m", "n"]\nobjective = {}'), "routes[0].objective:", "exactly one"),
        (route('tiers = ["m", "n"]\nobjective = { quality = 0.9, threshold = 0.5 }'),
         "routes[0].objective:", "exactly one"),
        (with_key(""), "keys[0]:", "either sha256 or key_env"),
        (with_key(f'sha256 = "{HASH}"\nkey_env = "A"'), "keys[0]:", "either sha256 or key_env"),
        (with_key('key_env = "NONE"'), "keys[0].key_env:", "NONE is not set"),
        (with_key('key_env = "EMPTY"'), "keys[0].key_env:", "EMPTY is not set"),
        (with_key(f'sha256 = "{HASH}"\nmodels = ["x"]'), "keys[0].models:", "no model or route is named 'x'"),
    ],
    ids=lambda value: value[-40:],
)  # fmt: skip
def test_a_finding_names_the_file_the_key_and_the_remedy(text: str, path: str, remedy: str) -> None:
    (found,) = findings(text, {"EMPTY": "", "A": "a"})
    assert found.startswith(f"c.toml: {path} ")
    assert remedy in found


def test_every_finding_is_told_at_once() -> None:
    text = (
        MODEL.replace("0.05", "0.00005") + 'api_key_env = "NONE"\n[[keys]]\nname = "k"\n[server]\nworkers = 3'
    )
    assert len(findings(text)) == 4


def test_what_is_right_has_no_findings() -> None:
    assert findings(SAMPLE + REDIS, ENVIRON) == []
    assert findings(route('tiers = ["m", "n"]\nfallback = ["n"]\nobjective = { threshold = 0.5 }')) == []


def test_what_has_no_effect_is_told() -> None:
    said = list(warnings(parse(SAMPLE.replace("price = { input = 0.5 }", "") + REDIS, "c.toml")))
    assert [one.partition(":")[0] for one in said] == ["models[1].price"]
    assert "none" in next(warnings(parse(MODEL, "c.toml")))
