"""The ``switchgear`` command: what it prints, where errors go, and with which status it ends."""

import csv
import importlib.metadata
import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import commands, database
from gateway.__main__ import main
from gateway.commands import credentials, fleet
from gateway.commands.up import how_to_try
from gateway.config_file import parse
from gateway.server import PortTaken, listen
from gateway.tenancy import key_store, keys, ledger
from gateway.tenancy.journal import Journal, JournalError
from routing.policies import POLICIES
from routing.traces import KINDS
from tests.fakes.configs import MODEL
from tests.fakes.entries import entry

COLUMNS = [
    "request_id", "ts", "org", "project", "key_id", "model", "status", "prompt_tokens", "cached_tokens",
    "completion_tokens", "amount_nanousd", "price_version", "source", "attempts", "replicas",
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "switchgear.toml"
    path.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/db/switchgear.db"\n' + MODEL)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def ok(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    return out


@pytest.mark.parametrize(
    "words",
    [[], *([name] for name in commands.COMMANDS), ["keys", "create"], ["keys", "list"], ["keys", "revoke"],
     ["ledger", "export"], ["bench", "schedule"], ["cache", "replay"]],
    ids=" ".join,
)  # fmt: skip
def test_everything_has_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert " ".join(["usage: switchgear", *words]) in ok(capsys, *words, "--help")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    out = ok(capsys, "--help")
    assert all(
        f"{name} " in out and summary in " ".join(out.split()) for name, summary in commands.COMMANDS.items()
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["keys"],
        ["check"],
        ["keys", "create", "--name", "n"],
        ["keys", "create", "--rpm", "x"],
    ],
)
def test_a_wrong_call_says_how_it_goes_on_stderr(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert "usage: switchgear" in err


def test_the_installed_command_answers() -> None:
    command = Path(sys.executable).parent / "switchgear"
    done = subprocess.run(
        [command, "check", "--config", "/none.toml"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "switchgear: /none.toml: no such file. Name a TOML file with --config.\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(capsys, "--version") == f"switchgear {importlib.metadata.version('switchgear')}\n"


def test_the_summaries_name_every_action(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(ok(capsys, "--help").split())
    for words in ("what-if", "autoscaling"):
        assert words in out


# ---------------------------------------------------------------- check
def test_check_prints_what_would_be_served(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    out = ok(capsys, "check", "--config", str(config))
    assert "http://127.0.0.1:8080/v1" in out
    assert "model m: vllm at http://127.0.0.1:9001/v1" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nworkers = 2\n" + MODEL, "server.workers: "),
        (MODEL.replace("0.05", "0.00005"), "models[0].price: "),
        (MODEL + "[cache]\nttl = 3", "cache: unknown key 'ttl'"),
        ("[[models]", "not valid TOML"),
    ],
)
def test_check_fails_with_the_file_and_the_key(
    capsys: pytest.CaptureFixture[str], config: Path, text: str, said: str
) -> None:
    config.write_text(text)
    status, out, err = run(capsys, "check", "--config", str(config))
    assert (status, out) == (1, "")
    assert f"{config}: {said}" in err
    assert "Traceback" not in err


def launched(config: Path, more: str = "", engine: str = "") -> Path:
    weights = config.parent / "weights"
    config.write_text(
        f'{more}[[models]]\nname = "m"\nprice = {{ input = 1.0 }}\n{engine}\n'
        f'[models.launch]\nweights = "{weights}"\n'
    )
    return weights


@pytest.mark.parametrize("command", ["check", "plan"])
def test_weights_that_are_not_there_are_named_with_file_key_and_remedy(
    capsys: pytest.CaptureFixture[str], config: Path, command: str
) -> None:
    weights = launched(config)
    status, out, err = run(capsys, command, "--config", str(config))
    assert (status, out) == (1, "")
    assert f"{config}: models[0].launch.weights: there is no {weights}; name a directory that exists" in err


def test_weights_of_a_fleet_that_runs_apart_need_not_be_here(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    weights = launched(config, "[fleet]\napart = true\n")
    status, out, err = run(capsys, "check", "--config", str(config))
    assert (status, "launched from" in out) == (0, True)
    assert f"note: models[0].launch.weights: there is no {weights} here" in err


def test_weights_of_every_version_are_looked_for(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    weights = launched(config, engine='versions = [{ name = "a", share = 1, weights = "/no/such" }]')
    weights.mkdir()
    status, _, err = run(capsys, "check", "--config", str(config))
    assert status == 1
    assert f"{config}: models[0].versions[0].weights: there is no /no/such" in err


def test_check_tells_of_the_key_in_the_credentials_beside_the_file(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    made_ = credentials.made(config.parent)
    status, out, err = run(capsys, "check", "--config", str(config))
    assert status == 0
    assert f"keys: 0 in the file; with 'switchgear up' also that of {config.parent}/credentials.json" in out
    assert "keys create" in err
    assert made_.api_key not in out + err


# ---------------------------------------------------------------- plan
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "vocab_size": 30522}


def test_the_plan_of_an_embedding_child_has_no_kv_cache(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    weights = launched(config, engine='kind = "embedding"\nengine = "local"')
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps(SHAPE))
    out = ok(capsys, "plan", "--config", str(config))
    assert "m: fits" in out
    assert "KV cache: none" in out
    assert "sequences at once" not in out


def test_what_cannot_be_planned_is_not_said_to_be_too_large(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    weights = launched(config)
    weights.mkdir()
    status, out, _ = run(capsys, "plan", "--config", str(config))
    assert status == 1
    assert out.startswith("m: CANNOT BE PLANNED\n")
    assert f"problem: {weights}/config.json cannot be read: No such file or directory; " in out
    assert "download" in out


# ---------------------------------------------------------------- keys
def create(capsys: pytest.CaptureFixture[str], config: Path, *more: str) -> dict[str, str]:
    out = ok(capsys, "keys", "create", "--config", str(config), "--name", "n", "--json", *more)
    made: dict[str, str] = json.loads(out)
    assert set(made) == {"id", "key", "prefix"}
    return made


def stored(config: Path) -> list[keys.KeyRecord]:
    engine = database.connect(f"sqlite:///{config.parent}/db/switchgear.db")
    with engine.connect() as connection:
        found = key_store.all_keys(connection)
    engine.dispose()
    return found


def test_a_key_is_made_listed_and_revoked(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    made = create(
        capsys, config, "--org", "acme", "--project", "chat", "--rpm", "5", "--tpm", "6",
        "--concurrency", "7", "--budget-usd", "1.5", "--prepaid-usd", "10", "--floor-usd", "0.1",
        "--band", "batch", "--models", "m,auto",
    )  # fmt: skip
    (key,) = stored(config)
    assert key.sha256 == keys.digest(made["key"])
    assert made["key"].startswith(made["prefix"])
    terms = key.terms
    assert (key.org, key.project, terms.rpm, terms.tpm, terms.concurrency) == ("acme", "chat", 5, 6, 7)
    assert (terms.budget_nanousd, terms.credit, terms.floor_nanousd) == (15 * 10**8, "prepaid", 10**8)
    assert (key.prepaid_nanousd, key.origin) == (10**10, "cli")
    assert (terms.band, terms.models, key.id) == ("batch", ("m", "auto"), made["id"])

    (listed,) = json.loads(ok(capsys, "keys", "list", "--config", str(config), "--json"))
    assert (listed["id"], listed["prefix"], listed["revoked_s"]) == (made["id"], made["prefix"], None)
    assert "sha256" not in listed
    titles, row = ok(capsys, "keys", "list", "--config", str(config)).splitlines()
    assert titles.split() == ["ID", "PREFIX", "ORGANISATION/PROJECT", "NAME", "SCOPES", "STATE"]
    assert row.split() == [made["id"], made["prefix"], "acme/chat", "n", "inference", "valid"]

    said = ok(capsys, "keys", "revoke", made["id"], "--config", str(config), "--json")
    assert json.loads(said) == {"revoked": True}
    assert stored(config)[0].revoked_s is not None
    assert "revoked" in ok(capsys, "keys", "list", "--config", str(config))
    for path in (config.parent / "db").iterdir():
        assert made["key"].encode() not in path.read_bytes()


def test_a_key_for_people_is_shown_once(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    out = ok(capsys, "keys", "create", "--config", str(config), "--name", "n")
    text = out.splitlines()[0]
    assert stored(config)[0].sha256 == keys.digest(text)
    assert text not in ok(capsys, "keys", "list", "--config", str(config))


@pytest.mark.parametrize(
    "flags",
    [["--rpm", "0"], ["--rpm", "9" * 30], ["--budget-usd", "-1"], ["--budget-usd", "inf"],
     ["--prepaid-usd", "nan"], ["--org", ""], ["--org", "x" * 201], ["--org", "a/b"], ["--weight", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_impossible_limits_are_refused_by_name(
    capsys: pytest.CaptureFixture[str], config: Path, flags: list[str]
) -> None:
    status, out, err = run(capsys, "keys", "create", "--config", str(config), "--name", "n", *flags)
    assert (status, out) == (1, "")
    assert flags[0].removeprefix("--").replace("-", "_") in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--org", "a/b"], "org: must be 1 to 200 characters, without '/', '*' and control characters"),
     (["--project", "*"], "project: must be 1 to 200 characters, without"),
     (["--name", ""], "name: ")],
    ids=" ".join,
)  # fmt: skip
def test_what_a_name_may_be_is_said_in_words(
    capsys: pytest.CaptureFixture[str], config: Path, flags: list[str], said: str
) -> None:
    status, _, err = run(capsys, "keys", "create", "--config", str(config), "--name", "n", *flags)
    assert status == 1
    assert said in err
    assert "regex" not in err


def test_a_key_can_expire_and_be_for_something_else_than_inference(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    made = create(capsys, config, "--expires-days", "0", "--scope", "usage", "--scope", "admin")
    (key,) = stored(config)
    assert (key.scopes, key.expires_s) == (("usage", "admin"), key.created_s)
    row = ok(capsys, "keys", "list", "--config", str(config)).splitlines()[1]
    assert row.split()[-2:] == ["usage,admin", "expired"]
    assert made["id"] == key.id


def test_an_unknown_key_cannot_be_revoked(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, err = run(capsys, "keys", "revoke", "key_none", "--config", str(config))
    assert (status, out) == (1, "")
    assert "there is no key with the id 'key_none'" in err


def test_a_database_that_cannot_be_opened_is_one_sentence(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    (config.parent / "db").write_text("in the way")
    for words in (["keys", "list"], ["ledger", "export"]):
        status, out, err = run(capsys, *words, "--config", str(config))
        assert (status, out) == (1, "")
        assert err.startswith("switchgear: the database cannot be opened")
        assert err.count("\n") == 1


# ---------------------------------------------------------------- ledger
@pytest.fixture
def filled(config: Path) -> Path:
    engine = database.connect(f"sqlite:///{config.parent}/db/switchgear.db")
    database.migrate(engine)
    day_s = 86400.0
    rows = [
        entry(f"r{day}", ts=1_790_000_000.0 + day * day_s, replicas="" if day else "a,b") for day in range(3)
    ]
    ledger.insert(engine, [*rows, entry("odd", ts=1_790_000_000.5, org='a "quoted", é\nname')])
    engine.dispose()
    return config


def export(capsys: pytest.CaptureFixture[str], config: Path, *more: str) -> list[dict[str, Any]]:
    out = ok(capsys, "ledger", "export", "--config", str(config), *more)
    return [json.loads(line) for line in out.splitlines()]


def test_the_ledger_as_lines_of_json(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    rows = export(capsys, filled)
    assert [row["request_id"] for row in rows] == ["r0", "odd", "r1", "r2"]
    assert set(COLUMNS) <= set(rows[0])
    assert rows[0]["ts"] == "2026-09-21T14:13:20+00:00"
    assert (rows[0]["amount_nanousd"], rows[0]["replicas"], rows[2]["replicas"]) == (1234, ["a", "b"], [])


def test_the_ledger_as_csv(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    out = ok(capsys, "ledger", "export", "--config", str(filled), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert set(COLUMNS) <= set(rows[0])
    assert [row["request_id"] for row in rows] == ["r0", "odd", "r1", "r2"]
    assert (rows[0]["replicas"], rows[1]["org"]) == ("a b", 'a "quoted", é\nname')


def test_a_span_of_the_ledger_is_half_open(capsys: pytest.CaptureFixture[str], filled: Path) -> None:
    def ids(*more: str) -> list[str]:
        return [row["request_id"] for row in export(capsys, filled, *more)]

    assert ids("--from", "2026-09-22") == ["r1", "r2"]
    assert ids("--to", "2026-09-22") == ["r0", "odd"]
    assert ids("--from", "2026-09-21T14:13:20Z", "--to", "2026-09-22T14:13:20+00:00") == ["r0", "odd"]
    assert ids("--from", "2030-01-01") == []
    status, out, err = run(capsys, "ledger", "export", "--config", str(filled), "--from", "yesterday")
    assert (status, out) == (1, "")
    assert "'yesterday' is not an ISO time" in err


def test_an_export_into_a_closed_pipe_is_quiet(filled: Path) -> None:
    engine = database.connect(f"sqlite:///{filled.parent}/db/switchgear.db")
    ledger.insert(engine, [entry(f"many{number}") for number in range(5000)])
    engine.dispose()
    child = subprocess.Popen(
        [sys.executable, "-m", "gateway", "ledger", "export", "--config", str(filled)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    child.wait()
    assert said == ""


# ---------------------------------------------------------------- fleet
ROW = {"id": "small-0", "model": "small", "phase": "ready", "running": 2, "reason": "",
       "start": [{"step": "spawn", "seconds": 1.25}], "log": ["one", "two"]}  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "logs", "shown"),
    [("ready", False, False), ("sleeping", False, False), ("draining", False, False), ("ready", True, True),
     ("loading", False, True), ("failed", False, True), ("ejected", False, True)],
)  # fmt: skip
def test_the_list_shows_the_logs_of_those_that_do_not_serve(phase: str, logs: bool, shown: bool) -> None:
    lines = fleet.lines_of({**ROW, "phase": phase}, logs=logs)
    assert lines[0] == f"small-0  small  {phase}  running 2"
    assert ("    one" in lines) is shown


def test_fleet_says_where_the_admin_key_is(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, _, err = run(capsys, "fleet", "list")
    assert status == 1
    assert "SWITCHGEAR_ADMIN_KEY is not set" in err
    assert "--config" in err
    credentials.made(config.parent)
    config.write_text("[server]\nport = 1\n" + config.read_text())
    status, _, err = run(capsys, "fleet", "list", "--config", str(config))
    assert status == 1
    assert "no gateway answers at http://127.0.0.1:1" in err


# ---------------------------------------------------------------- serve and chat
def test_serve_refuses_models_that_it_would_have_to_launch(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    config.write_text('[[models]]\nname = "m"\n[models.launch]\nweights = "/x"\n')
    status, out, err = run(capsys, "serve", "--config", str(config))
    assert (status, out) == (1, "")
    assert "run it with 'switchgear up'" in err


def test_chat_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "chat", "--base-url", "http://127.0.0.1:1/v1", "--api-key", "", "hello")
    assert status == 1
    assert "no API key" in err
    assert "credentials.json" in err
    status, _, err = run(capsys, "chat", "--base-url", "http://127.0.0.1:1/v1", "--api-key", "k", "hello")
    assert status == 1
    assert "no connection to http://127.0.0.1:1/v1" in err
    assert "--base-url" in err


def test_serve_refuses_a_port_that_cannot_be(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, err = run(capsys, "serve", "--config", str(config), "--port", "99999")
    assert (status, out) == (1, "")
    assert "--port must be 0 to 65535" in err


@pytest.mark.parametrize("option", ["--home", "--engine"])
def test_up_names_the_folder_that_cannot_be_made(
    capsys: pytest.CaptureFixture[str], config: Path, option: str
) -> None:
    (config.parent / "file").write_text("")
    there = {"--home": str(config.parent / "h"), "--engine": str(config.parent / "e")}
    there[option] = str(config.parent / "file" / "x" / "y")
    words = [word for pair in there.items() for word in pair]
    status, out, err = run(capsys, "up", "--config", str(config), *words)
    assert (status, out) == (1, "")
    assert (
        f"{option}: {there[option]} cannot be made: Not a directory; name a folder that can be written" in err
    )


def test_what_to_try_first_is_something_that_the_models_can_do() -> None:
    models = parse(MODEL.replace('"m"', '"e"\nkind = "embedding"') + MODEL, "c.toml")
    assert '"model": "m"' in how_to_try("http://h", "k", models)
    assert "/v1/chat/completions" in how_to_try("http://h", "k", models)
    (embed, _) = models.models
    said = how_to_try("http://h", "k", msgspec.structs.replace(models, models=(embed,)))
    assert "/v1/embeddings" in said
    assert 'client.embeddings.create(model="e"' in said
    assert "chat" not in said


def test_an_address_that_cannot_be_taken_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken, match=r"port.*--port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(PortTaken, match=r"203\.0\.113\.1:0.*address of this machine.*--host"):
        listen("203.0.113.1", 0)


def test_a_database_or_state_directory_that_cannot_be_used_is_named_by_its_key(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    (config.parent / "db").write_text("in the way")
    status, _, err = run(capsys, "keys", "list", "--config", str(config))
    assert status == 1
    assert "database.url" in err
    with pytest.raises(JournalError, match=r"server\.state_dir"):
        Journal(config.parent / "db" / "journal", "n", config.parent / "kept")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return ok(capsys, "bench", "schedule", "--seeds", "2", "--requests", "40", *arguments)


def test_bench_schedule_compares_policies_on_every_kind_of_trace(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(bench(capsys, "--json", "--seed", "3"))
    assert set(found) == set(KINDS)
    for rows in found.values():
        assert set(rows) == set(POLICIES)
        assert all(0 < row["ttft_p50_s"] <= row["ttft_p99_s"] for row in rows.values())
    assert json.loads(bench(capsys, "--json", "--seed", "3")) == found
    assert json.loads(bench(capsys, "--json", "--seed", "4")) != found


def test_bench_schedule_prints_a_row_for_each_policy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = tmp_path / "mine.jsonl"
    trace.write_text('{"at_s": 1, "prompt": [["s", 100]], "output_tokens": 3}\n' * 3)
    lines = bench(capsys, "--trace", str(trace), "--policies", "adaptive,round_robin").splitlines()
    assert lines[1] == "mine.jsonl"
    assert [line.split()[0] for line in lines[3:]] == ["adaptive", "round_robin"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policies", "adaptive,best"], "unknown policy 'best'; known are adaptive,"),
        (["--replicas", "0"], "must be 1 or more"),
        (["--trace", "/nowhere/t"], "/nowhere/t: cannot be read"),
        (["--trace", __file__], "line 1:"),
    ],
)
def test_bench_schedule_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = run(capsys, "bench", "schedule", *arguments)
    assert (status, out) == (1, "")
    assert said in err
