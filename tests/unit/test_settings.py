"""The configuration file: read as a whole, or refused with the file, the key's path and what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.checks import check
from gateway.config_file import load, parse
from gateway.settings import WORDS, ConfigError, KeySettings, Settings
from tests.fakes.configs import ENVIRON, MODEL, REDIS, SAMPLE


@pytest.mark.parametrize("text", [SAMPLE, SAMPLE + REDIS], ids=["embedded", "redis"])
def test_the_sample_is_read_and_passes_the_checks(text: str) -> None:
    settings = parse(text, "sample.toml")
    check(settings, "sample.toml", ENVIRON)
    assert [model.name for model in settings.models] == ["small", "large"]
    assert settings.models[0].upstream_name == "smollm2-135m"
    assert settings.models[1].upstream_name == "large"
    assert settings.models[1].launch is not None
    assert settings.routes[0].objective.large_share == 0.3
    assert settings.keys[0].band == "interactive"
    assert settings.cache.semantic is not None
    assert (settings.redis is not None) == (text != SAMPLE)


def test_an_empty_file_has_the_defaults() -> None:
    assert parse("", "x") == Settings()
    assert (Settings().server.port, Settings().database.url) == (8080, "sqlite:///switchgear.db")


REPLICA = '[[models]]\nname = "m"\n[[models.replicas]]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 1", ["c.toml: unknown key 'port'", "remove it"]),
        ("[server]\nprt = 1", ["c.toml: server: unknown key 'prt'"]),
        ('[server]\nport = "80"', ["c.toml: server.port:", "must be a whole number, not text"]),
        ("[server]\nport = 65536", ["server.port:", "<= 65535"]),
        ("[server]\nworkers = 0", ["server.workers:", ">= 1"]),
        ("[server]\nheartbeat_after_s = inf", ["server.heartbeat_after_s:", "<="]),
        ("[server]\ndrain_s = -1", ["server.drain_s:", ">= 0"]),
        ("[server]\ndrain_s = nan", ["server.drain_s:"]),
        ("server = 3", ["c.toml: server: must be a table, not a whole number"]),
        ('[database]\nurl = "mysql://x"', ["database.url:", "sqlite:///FILE or postgresql"]),
        ("[redis]", ["c.toml: redis: the key 'url' is missing; add it"]),
        ("[[models]]", ["c.toml: models[0]: the key 'name' is missing"]),
        ('[[models]]\nname = ""', ["models[0].name:"]),
        ('[[models]]\nname = "has space"', ["models[0].name:"]),
        ('[[models]]\nname = "m"\nkind = "chta"', ["models[0].kind:", "'chta'"]),
        ('[[models]]\nname = "m"\nprice = { output = 1 }', ["models[0].price: the key 'input' is missing"]),
        ('[[models]]\nname = "m"\nprice = { input = -1 }', ["models[0].price.input:", ">= 0"]),
        ('[[models]]\nname = "m"\nprice = { input = inf }', ["models[0].price.input:", "<="]),
        ('[[models]]\nname = "m"\nprice = { input = 1, cache_hit = 2 }',
         ["models[0].price.cache_hit:", "<= 1"]),
        ('[[models]]\nname = "m"\nslo_ttft_ms = 0', ["models[0].slo_ttft_ms:", ">= 1"]),
        ('[[models]]\nname = "m"\nqueue_age_s = 0', ["models[0].queue_age_s:", "> 0"]),
        ('[[models]]\nname = "m"\nbatch_window_ms = 2000', ["models[0].batch_window_ms:", "<= 1000"]),
        ('[[models]]\nname = "m"\nbands = [{ name = "vip" }]', ["models[0].bands[0].name:", "'vip'"]),
        (REPLICA + 'url = "127.0.0.1:80"', ["models[0].replicas[0].url:", "http"]),
        (REPLICA + 'url = "http://x"\nweight = 0', ["models[0].replicas[0].weight:", "> 0"]),
        ('[[models]]\nname = "a"\n[[models]]\nname = "m"\n[models.launch]\nweights = ""',
         ["models[1].launch: 'weights' is empty"]),
        ('[[routes]]\nname = "r"\ntiers = ["a"]', ["routes[0].tiers:"]),
        ('[[routes]]\nname = "r"\ntiers = ["a", "b"]\nobjective = { large_share = 2 }',
         ["routes[0].objective.large_share:", "<= 1"]),
        ("[cache]\nsemantic = { error_bond = 0.1 }", ["cache.semantic: unknown key 'error_bond'"]),
        ('[[keys]]\nname = "k"\nsha256 = "abc"', ["keys[0].sha256:"]),
        ('[[keys]]\nname = "k"\nbudget_usd = inf', ["keys[0].budget_usd:", "<="]),
        ('[[keys]]\nname = "k"\nrpm = 99999999999999999999999', ["keys[0].rpm:"]),
        ('[[keys]]\nname = "k"\nband = "vip"', ["keys[0].band:", "'vip'"]),
        ('[[keys]]\nname = "k"\nkey = "sk-sg-plain"', ["keys[0]: unknown key 'key'"]),
        ("[server\n", ["c.toml: not valid TOML:", "line 1"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mistake_is_named_with_the_file_and_the_path_of_the_key(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    said = str(caught.value)
    assert said.startswith("c.toml: ")
    for one in words:
        assert one in said
    assert "$" not in said.replace("$'", "")
    assert "`" not in said


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file.*--config"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "bad.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"bad\.toml: cannot be read"):
        load(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text(MODEL)
    assert load(tmp_path / "good.toml").models[0].name == "m"


def test_secrets_have_no_place_in_the_file() -> None:
    assert not {"key", "api_key", "text", "secret"} & set(KeySettings.__struct_fields__)


def test_relative_paths_of_a_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "sg.toml"
    file.write_text('[server]\nstate_dir = "state"\n[database]\nurl = "sqlite:///a/b.db"\n')
    settings = load(file)
    assert settings.server.state_dir == str(tmp_path / "state")
    assert settings.database.url == f"sqlite:///{tmp_path}/a/b.db"
    file.write_text('[server]\nstate_dir = "/var/x"\n[database]\nurl = "sqlite:////var/b.db"\n')
    assert load(file).server.state_dir == "/var/x"
    assert load(file).database.url == "sqlite:////var/b.db"
    file.write_text('[database]\nurl = "postgresql://u@h/db"\n')
    assert load(file).database.url == "postgresql://u@h/db"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("./qwen", "{folder}/qwen"), ("../qwen", "{above}/qwen"), ("~/qwen", "{home}/qwen"), ("/qwen", "/qwen"),
     ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B")],
)  # fmt: skip
def test_weights_that_are_a_path_are_relative_to_the_file_too(
    tmp_path: Path, written: str, meant: str
) -> None:
    (tmp_path / "sg.toml").write_text(
        f'[[models]]\nname = "m"\nversions = [{{ name = "a", share = 1, weights = "{written}" }}]\n'
        f'[models.launch]\nweights = "{written}"\n'
    )
    (model,) = load(tmp_path / "sg.toml").models
    assert model.launch is not None
    path = meant.format(folder=tmp_path, above=tmp_path.parent, home=Path.home())
    assert (model.launch.weights, model.versions[0].weights) == (path, path)


def patterns(kind: Any) -> Iterator[str]:
    """Every pattern below a type."""
    for one in msgspec.inspect.multi_type_info([kind]):
        yield from _patterns(one)


def _patterns(info: Any) -> Iterator[str]:
    if getattr(info, "pattern", None) is not None:
        yield info.pattern
    for field in getattr(info, "fields", ()):
        yield from _patterns(field.type)
    for name in ("item_type", "key_type", "value_type", "type"):
        if isinstance(below := getattr(info, name, None), msgspec.inspect.Type):
            yield from _patterns(below)
    for below in (*getattr(info, "types", ()), *getattr(info, "item_types", ())):
        yield from _patterns(below)


def test_every_pattern_is_said_in_words() -> None:
    found = set(patterns(Settings))
    assert len(found) > 8
    assert found == set(WORDS)
    with pytest.raises(ConfigError, match=r"c\.toml: models\[0\]\.name: must be a letter or digit, then"):
        parse('[[models]]\nname = " m"\n', "c.toml")
    with pytest.raises(ConfigError, match=r"database\.url: must be sqlite:///FILE or postgresql://"):
        parse('[database]\nurl = "mysql://x"\n', "c.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\nport = "8080"', "server.port: must be a whole number, not text"),
        ("[server]\nhost = 1", "server.host: must be text, not a whole number"),
        ("server = 1", "server: must be a table, not a whole number"),
        ("[cache]\nexact_ttl_s = true", "cache.exact_ttl_s: must be a number, not true or false"),
        ("[server]\nport = 99999", "server.port: must be a whole number <= 65535"),
        ('[[keys]]\nname = ""', "keys[0].name: must be text of length >= 1"),
        ("[fleet]\napart = 1", "fleet.apart: must be true or false, not a whole number"),
        ('[[models]]\nname = "m"\naliases = "x"', "models[0].aliases: must be a list, not text"),
        (
            '[[models]]\nname = "m"\ncontext_tokens = "x"',
            "models[0].context_tokens: must be a whole number, not text",
        ),
    ],
)
def test_what_a_key_takes_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert str(caught.value) == f"c.toml: {said}"


def test_what_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Is a directory\. Name a TOML file with --config\."):
        load(tmp_path)
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"c\.toml: cannot be read: it is not UTF-8 \(byte 0\); save it as"):
        load(tmp_path / "c.toml")
