"""The ledger as an operator sees it: every accepted request once, at the right price, whatever happened."""

import csv
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gateway.errors import ours
from gateway.tenancy.accounts import end_user_hash
from tests.fakes.processes import until
from tests.fakes.upstream import PROMPT_TOKENS, script
from tests.integration.gateway import (
    COMMAND,
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    running,
    unique,
)

COLUMNS = {
    "request_id",
    "ts",
    "org",
    "project",
    "key_id",
    "model",
    "status",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "amount_nanousd",
    "price_version",
    "source",
    "attempts",
    "replicas",
}
FULL = 4 * 1000 + 3 * 500 + 5 * 2000


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstreams]]:
    directory = tmp_path_factory.mktemp("ledger")
    upstreams = Upstreams(3)
    models = model("small", upstreams.ports[:2])
    models += model("free", upstreams.ports[2:]).replace("price = { input = 1.0", "# price = { input = 1.0")
    models += model("narrow", upstreams.ports[2:], max_concurrency=1)
    one_at_once = '[[keys]]\nname = "one"\nkey_env = "TEST_LIMITED_KEY"\nconcurrency = 1'
    settings = config(models, directory=directory, cache="exact_ttl_s = 3600", more=one_at_once)
    with running(Gateway(directory, settings), upstreams) as house:
        until(house[0].ready)
        yield house


def exported(gateway: Gateway, *options: str) -> str:
    command = [COMMAND, "ledger", "export", "--config", str(gateway.config), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=gateway.directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_way_of_a_request_has_its_row(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    prompt = script("ok")
    replies = {
        "bought": gateway.chat("small", prompt),
        "again": gateway.chat("small", prompt),
        "again streamed": gateway.chat("small", prompt, stream=True),
        "past the cache": gateway.chat("small", prompt, headers={"x-switchgear-cache": "bypass"}),
        "second try": gateway.chat("small", script("503-after", "ok"), stream=True),
        "cut": gateway.chat("small", script("fin:3"), stream=True, frequency_penalty=0.5),  # not carried on
        "refused": gateway.chat("small", script("400")),
        "free": gateway.chat("free", script("ok")),
        "unknown": gateway.chat("absent", prompt),
    }
    until(lambda: len(gateway.rows()) == 8)
    rows = {row["request_id"]: row for row in map(json.loads, exported(gateway).splitlines())}
    named = {name: rows.get(headers["x-request-id"]) for name, (_, headers, _) in replies.items()}
    assert named.pop("unknown") is None, "what was never accepted is not in the ledger"
    assert len(rows) == len(named)
    seen = {
        name: (row["status"], row["source"], row["amount_nanousd"], row["attempts"])
        for name, row in named.items()
        if row is not None
    }
    cut = seen.pop("cut")
    assert cut[0] == "error"
    assert cut[2] in [0, *(PROMPT_TOKENS * 1000 + n * 2000 for n in (1, 2))]
    assert seen == {
        "bought": ("ok", "upstream", FULL, 1),
        "again": ("ok", "hit-exact", FULL // 10, 0),
        "again streamed": ("ok", "hit-exact", FULL // 10, 0),
        "past the cache": ("ok", "upstream", FULL, 1),
        "second try": ("ok", "upstream", FULL, 2),
        "refused": ("refused", "upstream", 0, 1),
        "free": ("ok", "upstream", 0, 1),
    }
    assert named["free"] is not None
    assert named["free"]["price_version"] == "unpriced"
    assert all(row is not None and row.keys() >= COLUMNS for row in named.values())
    second = named["second try"]
    assert second is not None
    assert sorted(second["replicas"]) == ["small-0", "small-1"]
    assert replies["bought"][1]["x-switchgear-cost-usd"] == f"{FULL / 1e9:.9f}"
    assert replies["again"][1]["x-switchgear-cache"] == "hit-exact"


def test_only_a_failure_of_ours_is_an_error(house: tuple[Gateway, Upstreams]) -> None:
    """What the metrics count as a failure, and nothing else, is one in the ledger."""
    gateway, upstreams = house
    tag = unique()
    wanted = {"400": "refused", "413": "refused", "422": "refused", "404": "error", "500": "error"}
    replies = {fault: gateway.chat("free", script(fault)) for fault in wanted}
    with gateway.connect() as holder:
        holder.sendall(chat_request("narrow", script("hang", tag=tag)))
        until(lambda: upstreams.states(tag) == ["running"])
        replies["late"] = gateway.chat("narrow", script("ok"), headers={"x-switchgear-timeout-ms": "50"})
    found = {
        fault: (status, gateway.row(headers["x-request-id"])["status"])
        for fault, (status, headers, _) in replies.items()
    }
    assert found.pop("late") == (408, "error")
    assert {fault: status for fault, (_, status) in found.items()} == wanted
    assert all(ours(status) == (row == "error") for status, row in found.values())


def test_an_answer_that_came_bit_by_bit_is_kept_whole(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    prompt = script("ok", n=8, gap_s=0.02, tag=unique())
    bought, again = (gateway.chat("small", prompt, stream=True) for _ in range(2))
    assert [one[1]["x-switchgear-cache"] for one in (bought, again)] == ["miss", "hit-exact"]
    for _, _, body in (bought, again):
        assert [body.count(b"w%d " % number) for number in range(9)] == [*[1] * 8, 0]


def test_a_cut_answer_is_not_kept(house: tuple[Gateway, Upstreams]) -> None:
    gateway, upstreams = house
    for fault in ("no-usage", "fin:3"):
        until(gateway.ready)
        before = len(upstreams.seen()["requests"])
        prompt = script(fault, tag=f"kept-{fault}")
        for _ in range(2):
            status, headers, _ = gateway.chat("small", prompt, stream=True, frequency_penalty=0.5)
            assert (status, headers["x-switchgear-cache"]) == (200, "miss")
        assert len(upstreams.seen()["requests"]) == before + 2


def test_a_slot_of_a_key_is_given_back_once(house: tuple[Gateway, Upstreams]) -> None:
    """After many requests, however they ended, one at once is still one at once."""
    gateway, upstreams = house
    until(gateway.ready)
    limited = {"authorization": f"Bearer {LIMITED}", "x-switchgear-cache": "bypass"}
    faults = ("ok", "400", "fin:3", "ok")
    found = [gateway.chat("free", script(fault), stream=True, headers=limited)[0] for fault in faults]
    assert found == [200, 400, 200, 200]
    tag = unique()
    with gateway.connect() as holder:
        request = chat_request("free", script("hang", tag=tag))
        holder.sendall(request.replace(KEY.encode(), LIMITED.encode()))
        until(lambda: upstreams.states(tag) == ["running"])
        status, headers, _ = gateway.chat("free", script("ok"), headers=limited)
        assert (status, headers["retry-after"]) == (429, "1")
    until(lambda: gateway.chat("free", script("ok"), headers=limited)[0] == 200)


def reconciled(gateway: Gateway) -> tuple[int, dict[str, Any]]:
    command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=gateway.directory, check=False
    )
    return done.returncode, json.loads(done.stdout)


def test_the_books_agree_and_a_planted_deletion_is_named(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    until(gateway.ready)
    labels = {"team": "a\0", "stage": "test"}
    headers = gateway.chat(
        "small", script("ok", tag=unique()), metadata=labels, user="someone@example.com", stream=True
    )[1]
    row = gateway.row(headers["x-request-id"])
    assert json.loads(row["metadata"]) == {"team": "a", "stage": "test"}
    assert row["end_user"] == end_user_hash("someone@example.com")
    assert (row["operation"], row["service"], row["baseline_nanousd"]) == ("chat", "standard", FULL)
    status, report = reconciled(gateway)
    assert (status, report["gap_nanousd"], report["missing"], report["doubled"]) == (0, 0, [], [])
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as raw, raw:
        raw.execute("DELETE FROM ledger WHERE request_id = ?", (row["request_id"],))
    status, report = reconciled(gateway)
    assert (status, report["gap_nanousd"], report["missing"]) == (1, FULL, [row["request_id"]])
    with closing(sqlite3.connect(gateway.directory / "gateway.db")) as raw, raw:
        marks = ", ".join("?" for _ in row)
        raw.execute(f"INSERT INTO ledger ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    assert reconciled(gateway)[0] == 0


def test_metadata_that_is_none_is_refused(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    for wrong in (["a"], {"a": 1}, {"a": "x" * 513}, {str(n): "" for n in range(17)}):
        status, _, body = gateway.chat("small", script("ok"), metadata=wrong)
        assert (status, json.loads(body)["error"]["param"]) == (400, "metadata")
    assert gateway.chat("small", script("ok"), metadata=None)[0] == 200


def test_csv_and_a_span_of_time(house: tuple[Gateway, Upstreams]) -> None:
    gateway, _ = house
    gateway.row(gateway.chat("small", script("ok"))[1]["x-request-id"])
    rows = list(csv.DictReader(exported(gateway, "--format", "csv").splitlines()))
    assert len(rows) == len(gateway.rows())
    assert exported(gateway, "--to", "2020-01-01") == ""
    assert len(exported(gateway, "--from", "2020-01-01").splitlines()) == len(rows)
