"""Several gateway processes on one database, and a database that goes away and comes back."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.integration.admin import Tenant, ask, change, chat, emptied, good, models, open_gateway
from tests.integration.gateway import COMMAND, Gateway, Upstreams, running, unique


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
