"""Versions through the door: shares, canaries by key, a shift and its rollback under load."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.integration.gateway import LIMITED, Gateway, Upstreams, call, config, unique

ADMIN = "admin-" + "a" * 40
VERSIONS = """
[[models]]
name = "v"
aliases = ["gpt-4o-mini"]
upstream_model = "base"
[[models.versions]]
name = "old"
share = 0.75
[[models.versions]]
name = "new"
share = 0.25
keys = ["limited"]
[[models.replicas]]
url = "http://127.0.0.1:{}/v1"
version = "old"
[[models.replicas]]
url = "http://127.0.0.1:{}/v1"
version = "new"
"""


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    made = Upstreams(2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("versions")
    limited = '[[keys]]\nname = "limited"\nkey_env = "TEST_LIMITED_KEY"\n'
    text = config(VERSIONS.format(*upstreams.ports), directory=directory, more=limited)
    made = Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN)
    until(made.ready)
    yield made
    made.stop()


def admin(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {ADMIN}", "content-type": "application/json"}
    data = b"" if body is None else json.dumps(body).encode()
    status, _, text = call(gateway.port, method, f"/admin/v1/{path}", data, headers)
    return status, json.loads(text)


def served(gateway: Gateway, name: str, times: int, key: str | None = None) -> Counter[str]:
    """Ask so often; gives how many answers came from each replica. Every one must be an answer."""
    found: Counter[str] = Counter()
    for _ in range(times):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        status, head, body = gateway.chat(name, unique(), headers=headers)
        assert status == 200, body
        found[head["x-switchgear-replica"]] += 1
    return found


def only(gateway: Gateway, ids: set[str]) -> bool:
    return set(served(gateway, "v", 6)) == ids


def test_a_shift_and_its_rollback_lose_no_request(gateway: Gateway) -> None:
    # three to one: the bound is missed once in a million runs
    assert abs(served(gateway, "v", 200)["v-0"] - 150) <= 5 * (200 * 0.75 * 0.25) ** 0.5
    assert set(served(gateway, "gpt-4o-mini", 60)) == {"v-0", "v-1"}
    assert set(served(gateway, "v@new", 5)) == {"v-1"}
    assert set(served(gateway, "v", 5, LIMITED)) == {"v-1"}
    assert admin(gateway, "POST", "models/v/rollback")[0] == 409
    stop, found = threading.Event(), list[Counter[str]]()

    def load() -> None:
        while not stop.is_set():
            found.append(served(gateway, "v", 1))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        for shares, ids in (({"old": 1.0}, {"v-0"}), ({"new": 1}, {"v-1"})):
            status, shown = admin(gateway, "POST", "models/v/versions", {"shares": shares})
            assert status == 200, shown
            until(partial(only, gateway, ids))
        status, shown = admin(gateway, "POST", "models/v/rollback")
        assert status == 200
        assert [(one["name"], one["share"], one["previous"]) for one in shown["data"]] == [
            ("old", 1.0, 0.0),
            ("new", 0.0, 1.0),
        ]
        until(lambda: set(served(gateway, "v", 6)) == {"v-0"})
        assert set(served(gateway, "v", 5, LIMITED)) == {"v-1"}, "a canary by key stays"
    finally:
        stop.set()
        for one in clients:
            one.join()
    assert sum(found, Counter())


def test_the_shares_stand_after_a_restart(gateway: Gateway) -> None:
    assert admin(gateway, "POST", "models/v/versions", {"shares": {"new": 1.0}})[0] == 200
    gateway.stop()
    gateway.start()
    until(gateway.ready)
    until(lambda: set(served(gateway, "v", 6)) == {"v-1"})


@pytest.mark.parametrize(
    ("shares", "said"),
    [({"old": 0.5}, "add up to 1"), ({"other": 1.0}, "'other' is no version of 'v'; it has old, new")],
)
def test_wrong_shares_change_nothing(gateway: Gateway, shares: dict[str, float], said: str) -> None:
    before = admin(gateway, "GET", "models/v/versions")
    status, shown = admin(gateway, "POST", "models/v/versions", {"shares": shares})
    assert (status, said in shown["error"]["message"]) == (409, True)
    assert admin(gateway, "GET", "models/v/versions") == before
