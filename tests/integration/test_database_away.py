"""PostgreSQL away for ten minutes while two gateways serve: nothing is lost, nothing is given away."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import Tenant, good, models, open_gateway
from tests.integration.gateway import COMMAND, Gateway, Upstreams, call, chat_body, running, unique
from tests.integration.redis_server import RedisServer

pytestmark = pytest.mark.soak

COST = 15_500
COVERED = 500  # requests for which there is credit: it is used up while the database is away


class Crowd:
    """Clients that ask without a pause; ``answered`` are the request ids by key."""

    def __init__(self, gateways: list[Gateway], keys: list[str]) -> None:
        self.answered: dict[str, set[str]] = {key: set() for key in keys}
        self.refused: set[str] = set()
        self.over = threading.Event()
        self.pairs = [(gateway, key) for gateway in gateways for key in keys]

    def ask(self, gateway: Gateway, key: str) -> int:
        body = chat_body("small", script("ok", tag=unique()), max_tokens=5)
        headers = {"authorization": f"Bearer {key}"}
        status, got, answer = call(gateway.port, "POST", "/v1/chat/completions", body, headers)
        if status == 200:
            self.answered[key].add(got["x-request-id"])
        else:
            assert json.loads(answer)["error"]["code"] == "insufficient_quota", answer
            self.refused.add(key)
        return status

    def go_on(self, gateway: Gateway, key: str) -> None:
        while not self.over.is_set():
            self.over.wait(0.05 if self.ask(gateway, key) == 200 else 1.0)


def degraded(gateway: Gateway) -> bool:
    status, _, body = gateway.call("GET", "/readyz")
    return (status, json.loads(body)["status"]) == (200, "degraded")


def proved(gateway: Gateway) -> None:
    command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, json.loads(done.stdout)["gap_nanousd"]) == (0, 0), done.stdout[-3000:]


def test_complaint_34_ten_minutes_without_postgresql_under_traffic(
    tmp_path: Path, start_postgres: Callable[[Path], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    away_s = min(600.0, float(os.environ.get("MINUTES", "20")) * 60)
    server, redis, upstreams = start_postgres(tmp_path / "postgres"), RedisServer(tmp_path), Upstreams(1)
    with ExitStack() as stack:
        stack.callback(server.cleanup)
        stack.callback(redis.close)
        gateways = []
        for name in ("a", "b"):
            more = f'[redis]\nurl = "{redis.url}"\n'
            gateway = open_gateway(tmp_path / name, server.get_uri(), upstreams, more=more)
            gateways.append(stack.enter_context(running(gateway, upstreams))[0])
            until(gateway.ready)
        tenant = Tenant(gateways[0], credit="prepaid")
        free_id, free = tenant.make_key()
        credit = {"kind": "top_up", "amount_usd": COVERED * COST / 1e9, "key_id": tenant.key_id}
        good(gateways[0], "POST", "credits", credit)
        crowd = Crowd(gateways, [tenant.key, free])
        for gateway, key in crowd.pairs:
            until(lambda gateway=gateway, key=key: models(gateway, key) == 200)  # type: ignore[misc]  # defaults bind
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(crowd.go_on, *pair) for pair in crowd.pairs]
            try:
                server.stop()
                until(lambda: all(map(degraded, gateways)), 60.0)
                crowd.over.wait(away_s)
                assert all(map(degraded, gateways))
                server.start()
                until(lambda: all(gateway.ready() for gateway in gateways), 120.0)
            finally:
                crowd.over.set()
            for client in clients:
                client.result()
        paid, unpaid = len(crowd.answered[tenant.key]), len(crowd.answered[free])
        assert crowd.refused == {tenant.key}

        def booked() -> dict[str, int]:
            sums = good(gateways[0], "GET", f"usage?by=key_id&org={quote(tenant.org)}")["data"]
            return {one["key_id"]: one["requests"] for one in sums}

        until(lambda: booked() == {tenant.key_id: paid, free_id: unpaid}, 120.0)
        left = good(gateways[0], "GET", f"balance?account=key:{tenant.key_id}")["balance_nanousd"]
        assert 0 <= left == (COVERED - paid) * COST
        for gateway in gateways:
            proved(gateway)
    with capsys.disabled():
        print(f"\n{away_s:.0f} s without PostgreSQL: {paid} paid and {unpaid} free requests, all booked once")
