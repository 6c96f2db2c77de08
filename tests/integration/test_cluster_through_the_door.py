"""A gateway whose replicas are pods, through its own door: asleep, woken by a request, moved, pinned."""

import json
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.kubernetes import ApiServer, slice_of
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, ask, good
from tests.integration.gateway import Gateway, Upstreams, config, running, unique

SPACE = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"
DEPLOYMENT = "/apis/apps/v1/namespaces/llm/deployments/small-v1"
MODELS = """
[kubernetes]
api = "{api}"
namespace = "llm"
timeout_s = 0.3
watch_s = 1
[[models]]
name = "small"
upstream_model = "upstream-name"
price = {{ input = 1.0, output = 2.0 }}
queue_timeout_s = 90
[models.kubernetes]
namespace = "llm"
min_replicas = 0
workloads = [{{ name = "small-v1", version = "v1" }}]
"""


class Controller:
    """What the cluster does when a number changes: pods appear, on the ports of the scripted upstream."""

    def __init__(self, server: ApiServer, upstreams: Upstreams) -> None:
        self.server, self.upstreams = server, upstreams
        server.scaled = self.scaled
        server.put(DEPLOYMENT, {"spec": {"replicas": 0}})

    def scaled(self, path: str, replicas: int) -> None:
        for number, port in enumerate(self.upstreams.ports):
            pods = [f"pod-{number}"] if number < replicas else []
            self.server.put(f"{SPACE}/s{number}", slice_of("small-v1", *pods, port=port))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ApiServer, Upstreams]]:
    tmp_path, server, upstreams = tmp_path_factory.mktemp("pods"), ApiServer(), Upstreams(2)
    Controller(server, upstreams)
    text = config(MODELS.format(api=server.url), directory=tmp_path)
    with running(Gateway(tmp_path, text, SWITCHGEAR_ADMIN_KEY=ADMIN, POD_NAME="g0"), upstreams) as (
        gateway,
        _,
    ):
        yield gateway, server, upstreams
    server.close()


def test_a_request_wakes_a_sleeping_model_and_an_operator_scales_it(
    house: tuple[Gateway, ApiServer, Upstreams],
) -> None:
    gateway, server, _ = house
    until(lambda: gateway.call("GET", "/readyz")[0] == 200)
    assert json.loads(gateway.call("GET", "/readyz")[2])["parts"]["models"] == {"small": "asleep"}
    answers: list[int] = []
    clients = [
        threading.Thread(target=lambda: answers.append(gateway.chat("small", unique())[0])) for _ in range(5)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert answers == [200] * 5
    scales = [path for method, path in server.asked if method == "PUT" and path.endswith("/scale")]
    assert scales == [f"{DEPLOYMENT}/scale"], "woken once for all"
    shown = good(gateway, "GET", "replicas")["data"]
    assert [(one["id"], one["phase"], one["version"]) for one in shown] == [("pod-0.llm", "ready", "v1")]

    good(gateway, "POST", "models/small/scale", {"replicas": 2})
    until(lambda: len(good(gateway, "GET", "replicas")["data"]) == 2)
    until(gateway.ready)
    server.put(f"{SPACE}/s0", slice_of("small-v1"))  # its machine has gone
    until(lambda: [one["id"] for one in good(gateway, "GET", "replicas")["data"]] == ["pod-1.llm"])
    status, headers, body = gateway.chat("small", unique())  # also where it was not probed yet
    assert status == 200, body
    assert headers["x-switchgear-replica"] == "pod-1.llm"
    server.drop_watches()
    server.put(DEPLOYMENT, {"spec": {"replicas": 5}})
    good(gateway, "POST", "models/small/scale", {"replicas": None})
    assert ask(gateway, "POST", "models/small/scale", {"replicas": -1})[0] == 400


def loops(gateway: Gateway) -> dict[str, str]:
    """Give what ``/readyz`` says of loops that fail; serving goes on."""
    status, _, body = gateway.call("GET", "/readyz")
    told = json.loads(body)
    assert status == 200
    assert told["status"] == ("degraded" if told["parts"]["loops"] else "ready")
    found: dict[str, str] = told["parts"]["loops"]
    return found


@pytest.mark.soak
def test_an_api_server_that_is_late_or_silent_stops_nobody_and_is_told(
    house: tuple[Gateway, ApiServer, Upstreams],
) -> None:
    gateway, server, upstreams = house
    server.put(DEPLOYMENT, {"spec": {"replicas": 1}})
    server.scaled(DEPLOYMENT, 1)

    def known() -> list[str]:
        return [one["id"] for one in good(gateway, "GET", "replicas")["data"]]

    def appears(name: str) -> None:
        server.put(f"{SPACE}/{name}", slice_of("small-v1", name, port=upstreams.ports[1]))

    over = threading.Event()

    def late(method: str, path: str) -> None:
        over.wait()

    until(lambda: known() == ["pod-0.llm"] and gateway.ready())
    server.faults = late
    server.drop_watches()
    until(lambda: "cluster" in loops(gateway))
    assert "TimeoutError" in loops(gateway)["cluster"]
    appears("during")
    assert gateway.chat("small", unique())[0] == 200
    assert known() == ["pod-0.llm"], "what was known last"
    over.set()
    until(lambda: known() == ["during.llm", "pod-0.llm"] and not loops(gateway))

    server.silent = True  # watches begin and tell nothing; lists are answered
    server.drop_watches()
    until(lambda: "silent" in loops(gateway).get("cluster", ""))
    appears("silently")
    until(lambda: "silently.llm" in known())
    server.silent = False
    server.drop_watches()
    until(lambda: not loops(gateway))
