"""Several gateway processes on one database, and a database that goes away and comes back."""

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import ADMIN, Tenant, ask, change, chat, emptied, good, models, open_gateway
from tests.integration.gateway import COMMAND, Gateway, Upstreams, call, chat_body, running, unique
from tests.integration.redis_server import RedisServer

COST = 15_500


@pytest.fixture(params=["sqlite", "postgresql"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two processes on one database."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if request.param == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    with ExitStack() as stack:
        found = []
        for name in ("a", "b"):
            upstreams = Upstreams(1)
            gateway = open_gateway(tmp_path / name, url, upstreams)
            found.append(stack.enter_context(running(gateway, upstreams))[0])
        for gateway in found:
            until(gateway.ready)
        yield found[0], found[1]


def test_what_one_process_changes_holds_in_the_other(two: tuple[Gateway, Gateway]) -> None:
    """The promise is two seconds; the test polls ten times as long."""
    here, there = two
    tenant = Tenant(here)
    until(lambda: models(there, tenant.key) == 200)
    good(there, "POST", f"keys/{tenant.key_id}/revoke")
    assert models(there, tenant.key) == 401
    until(lambda: models(here, tenant.key) == 401, 20.0)
    other = tenant.make_key()[1]
    change(there, f"orgs/{tenant.org_id}", {"terms": {"models": ["large"]}})
    until(lambda: chat(here, other)[0] == 403, 20.0)
    assert chat(there, other)[0] == 403


def test_changes_at_the_same_time_are_one_after_another(two: tuple[Gateway, Gateway]) -> None:
    tenant = Tenant(two[0])
    etag = ask(two[0], "GET", f"projects/{tenant.project_id}")[1]["etag"]
    replies = _at_once(two, f"projects/{tenant.project_id}", etag)
    assert sorted(status for status, _ in replies) == [200, *[412] * (len(replies) - 1)]
    (won,) = [body["title"] for status, body in replies if status == 200]
    assert good(two[1], "GET", f"projects/{tenant.project_id}")["title"] == won
    assert len(good(two[0], "GET", f"audit?subject={tenant.project_id}&action=project.change")["data"]) == 1


def _at_once(two: tuple[Gateway, Gateway], path: str, etag: str) -> list[tuple[int, Any]]:
    def one(number: int) -> tuple[int, Any]:
        status, _, body = ask(two[number % 2], "PATCH", path, {"title": f"t{number}"}, if_match=etag)
        return status, body

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(8)))


@pytest.mark.soak
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_complaint_14_fifty_at_once_over_two_gateways_on_a_balance_for_ten(
    tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    """Redis shares the balance; it is killed afterwards, comes back empty, and SQL says what is left."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    if database == "postgresql":
        url = emptied(request.getfixturevalue("postgres"))
    redis, upstreams = RedisServer(tmp_path), Upstreams(1)
    with ExitStack() as stack:
        stack.callback(redis.close)
        found = []
        for name in ("a", "b"):
            more = f'[redis]\nurl = "{redis.url}"\ntimeout_ms = 5000\n'
            gateway = open_gateway(tmp_path / name, url, upstreams, more=more)
            found.append(stack.enter_context(running(gateway, upstreams))[0])
            until(gateway.ready)
        tenant = Tenant(found[0], credit="prepaid")
        tag = unique()
        prompt = script("ok", n=5, lockstep=True, tag=tag)
        # The most that one can cost: no more tokens than bytes come in, and five go out.
        reserved = len(chat_body("small", prompt, max_tokens=5, seed=10)) * 1000 + 5 * 2000
        credit = {"kind": "grant", "amount_usd": 10 * reserved / 1e9, "key_id": tenant.key_id}
        good(found[0], "POST", "credits", credit)
        for gateway in found:
            until(lambda gateway=gateway: models(gateway, tenant.key) == 200, 20.0)  # type: ignore[misc]  # bound now

        def once(number: int) -> int:
            body = chat_body("small", prompt, max_tokens=5, seed=number + 10)
            sent = {"authorization": f"Bearer {tenant.key}"}
            return call(found[number % 2].port, "POST", "/v1/chat/completions", body, sent)[0]

        with ThreadPoolExecutor(50) as pool:
            asked = [pool.submit(once, number) for number in range(50)]
            until(lambda: sum(one.done() for one in asked) >= 40, 60.0)
            upstreams.control(release=tag, times=1000)
            statuses = [one.result() for one in asked]
        served = statuses.count(200)
        assert set(statuses) == {200, 429}
        assert 0 < served <= 10

        def left() -> int:
            return int(good(found[0], "GET", f"balance?account=key:{tenant.key_id}")["balance_nanousd"])

        until(lambda: left() == 10 * reserved - served * COST, 60.0)
        redis.stop()
        redis.start()
        until(lambda: all(gateway.ready() for gateway in found), 60.0)
        until(lambda: [chat_cost(gateway, tenant.key) for gateway in found] == [200, 200], 60.0)
        good(found[0], "POST", "credits", {**credit, "kind": "correction", "amount_usd": -left() / 1e9})
        until(lambda: [chat_cost(gateway, tenant.key) for gateway in found] == [429, 429], 60.0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [int(os.environ.get("SEED", "1")) * 10 + n for n in range(3)])
def test_a_redis_that_is_killed_again_and_again_under_load_loses_and_doubles_nothing(
    tmp_path: Path, seed: int
) -> None:
    """A budget is spent to its end and not past it; slots come back; every answer has its row."""
    url, chance = f"sqlite:///{tmp_path / 'shared.db'}", random.Random(seed)
    redis, upstreams = RedisServer(tmp_path), Upstreams(1)
    with ExitStack() as stack:
        stack.callback(redis.close)
        found = []
        for name in ("a", "b"):
            more = f'[redis]\nurl = "{redis.url}"\ntimeout_ms = 500\n'
            gateway = open_gateway(tmp_path / name, url, upstreams, more=more)
            found.append(stack.enter_context(running(gateway, upstreams))[0])
        for gateway in found:
            until(gateway.ready)
        budget = 600 * COST
        tenant = Tenant(found[0], budget_nanousd=budget, budget_period="total", concurrency=6)
        for gateway in found:
            until(lambda gateway=gateway: models(gateway, tenant.key) == 200, 20.0)  # type: ignore[misc]  # bound now
        load = Load(found, tenant.key)
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(load.ask, number) for number in range(4)]
            for _ in range(8):
                seen = len(load.ids)
                until(lambda seen=seen: len(load.ids) >= seen + 15 or load.spent)  # type: ignore[misc]  # bound now
                threading.Event().wait(chance.random() * 0.3)
                redis.stop()
                threading.Event().wait(chance.random() * 0.5)
                redis.start()
            for one in asking:
                one.result()
        until(lambda: all(gateway.ready() for gateway in found), 60.0)
        org = quote(tenant.org)

        def booked() -> int:
            (total,) = good(found[0], "GET", f"usage?org={org}&by=org")["data"]
            return int(total["amount_nanousd"])

        def rows() -> list[Any]:
            body = call(found[0].port, "GET", f"/admin/v1/usage/export?org={org}", b"",
                        {"authorization": f"Bearer {ADMIN}"})[2]  # fmt: skip
            return [json.loads(line) for line in body.splitlines()]

        until(lambda: {row["request_id"] for row in rows()} >= load.ids, 60.0)
        settled = [row for row in rows() if row["amount_nanousd"]]
        assert sorted(row["request_id"] for row in settled) == sorted(load.ids)
        assert booked() == len(load.ids) * COST <= budget

        def reserves() -> int:
            return len(chat_body("small", script("ok", n=5, tag=unique()), max_tokens=5)) * 1000 + 5 * 2000

        def more_fits() -> bool:
            for gateway in found:
                load.once(gateway)
            return booked() > budget - 2 * reserves()

        until(more_fits, 60.0)  # nothing stays reserved for ever
        assert booked() <= budget
        proof = [COMMAND, "ledger", "reconcile", "--config", str(found[0].config), "--json"]
        done = subprocess.run(proof, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, json.loads(done.stdout)["gap_nanousd"]) == (0, 0), done.stdout


class Load:
    """Clients who ask until they are told, again and again, that the budget is spent."""

    def __init__(self, gateways: list[Gateway], key: str) -> None:
        self.gateways, self.key = gateways, key
        self.ids: set[str] = set()
        self.spent = False

    def once(self, gateway: Gateway) -> int:
        body = chat_body("small", script("ok", n=5, tag=unique()), max_tokens=5)
        sent = {"authorization": f"Bearer {self.key}"}
        status, headers, _ = call(gateway.port, "POST", "/v1/chat/completions", body, sent)
        if status == 200:
            self.ids.add(headers["x-request-id"])
        return status

    def ask(self, number: int) -> None:
        refused = 0
        while refused < 40:
            status = self.once(self.gateways[(number + refused) % 2])
            assert status in (200, 429)
            refused = 0 if status == 200 else refused + 1
        self.spent = True


def chat_cost(gateway: Gateway, key: str) -> int:
    body = chat_body("small", script("ok", tag=unique()), max_tokens=5)
    return call(gateway.port, "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})[0]


def state(gateway: Gateway) -> tuple[int, str, dict[str, Any]]:
    status, _, body = gateway.call("GET", "/readyz")
    said = json.loads(body)
    return status, said["status"], said["parts"]


def test_complaint_34_postgresql_restarted_again_and_again_under_traffic_loses_nothing(
    tmp_path: Path, start_postgres: Callable[[Path], Any]
) -> None:
    """Four clients ask without a pause; each answer they got has its one row, and the books agree."""
    server = start_postgres(tmp_path / "postgres")
    upstreams = Upstreams(1)
    with running(open_gateway(tmp_path / "g", server.get_uri(), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        tenant = Tenant(gateway)
        over = threading.Event()

        def asking() -> list[str]:
            asked = []
            while not over.is_set():
                status, headers, body = chat(gateway, tenant.key, unique())
                assert status == 200, body
                asked.append(headers["x-request-id"])
            return asked

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(asking) for _ in range(4)]
            for _ in range(2):
                server.stop()
                until(lambda: state(gateway)[:2] == (200, "degraded"), 60.0)
                server.start()
                until(gateway.ready, 60.0)
            over.set()
            wanted = {one for client in clients for one in client.result()}
        used = f"usage?by=key_id&key_id={tenant.key_id}"
        until(lambda: [one["requests"] for one in good(gateway, "GET", used)["data"]] == [len(wanted)], 60.0)
        found = good(gateway, "GET", f"requests?limit=200&key_id={tenant.key_id}")["data"]
        assert {row["request_id"] for row in found} <= wanted
        command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, json.loads(done.stdout)["gap_nanousd"]) == (0, 0)
    server.cleanup()


def test_complaint_34_a_database_that_goes_away_stops_no_known_key(
    tmp_path: Path, start_postgres: Callable[[Path], Any]
) -> None:
    """PostgreSQL away while the gateway runs, away at a start, and back: never a 401, never a lost row."""
    server = start_postgres(tmp_path / "postgres")
    upstreams = Upstreams(1)
    asked = []
    with running(open_gateway(tmp_path / "g", server.get_uri(), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        tenant = Tenant(gateway)

        def answered() -> None:
            status, headers, body = chat(gateway, tenant.key, unique())
            assert status == 200, body
            asked.append(headers["x-request-id"])

        answered()
        server.stop()
        until(lambda: state(gateway)[:2] == (200, "degraded"), 30.0)
        assert {"database", "keys", "ledger"} & set(state(gateway)[2])
        for _ in range(5):
            answered()
        status, headers, body = ask(gateway, "GET", "keys")
        assert (status, body["error"]["code"]) == (503, "database_unavailable")
        assert int(headers["retry-after"]) > 0
        assert ask(gateway, "POST", "orgs", {"name": "x"})[0] == 503

        gateway.stop()
        gateway.start()
        until(lambda: state(gateway)[1] == "degraded", 30.0)
        for _ in range(5):
            answered()
        assert chat(gateway, "sk-sg-unknown")[0] == 401
        assert ask(gateway, "GET", "orgs")[0] == 503

        server.start()
        until(gateway.ready, 60.0)
        answered()
        wanted = set(asked)
        found = f"requests?limit=200&key_id={tenant.key_id}"
        until(lambda: {row["request_id"] for row in good(gateway, "GET", found)["data"]} == wanted)
        assert len(asked) == len(wanted) == 12
        assert time.time() > good(gateway, "GET", f"keys/{tenant.key_id}")["created_s"]
    server.cleanup()
