"""What the chart says, at work: its preStop hooks on real processes, its queries on a real Prometheus."""

import math
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from socket import socket

import pytest

from dashboards.grafana.boards import BOARDS
from tests.fakes.chart import BASE, LARGE, MODEL, PLACE, Object, of, over, rendered
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import (
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)
from tests.integration.prometheus import Prometheus

ENGINE = """
vllm:num_requests_running{{engine="0"}} {0}
vllm:num_requests_waiting{{engine="0"}} 0
vllm:kv_cache_usage_perc{{engine="0"}} 0.5
"""


def hook(values: Object) -> list[str]:
    """Give the command of the gateway's preStop hook."""
    (gateway,) = [one for one in of(rendered(values), "Deployment") if one["metadata"]["name"] == "sg"]
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    command: list[str] = container["lifecycle"]["preStop"]["exec"]["command"]
    return command


def test_the_hooks_turn_readiness_red_first_and_let_requests_end(tmp_path: Path) -> None:
    """The gateway's, with a stream and a new request; the engine's beside it, while that has requests."""
    upstreams, tag = Upstreams(1), unique()
    upstreams.control(metrics=ENGINE.format(1))
    with ExitStack() as stack:
        engine = subprocess.Popen(
            [sys.executable, PLACE / "files" / "drain.py", str(upstreams.ports[0]), "60"]
        )
        stack.callback(engine.wait)
        settings = config(model("small", upstreams.ports), directory=tmp_path, server="drain_s = 60")
        gateway, _ = stack.enter_context(running(Gateway(tmp_path, settings), upstreams))
        until(gateway.ready)
        connection = stack.enter_context(gateway.connect())
        connection.sendall(chat_request("small", script("ok", tag=tag, n=5, lockstep=True), stream=True))
        upstreams.control(release=tag, times=2)
        begun = read_until(connection, b"w0")
        shell, flag, line = hook(over(BASE, {"gateway": {"preStopSeconds": 1}}))
        assert line == "kill -USR1 1; sleep 1"
        leaving = subprocess.Popen([shell, flag, line.replace("USR1 1;", f"USR1 {gateway.process.pid};")])
        until(lambda: gateway.call("GET", "/readyz")[0] == 503)
        assert b'"shutdown":"leaving"' in gateway.call("GET", "/readyz")[2]
        assert gateway.call("GET", "/livez")[0] == 200
        assert gateway.chat("small", unique())[0] == 200, "load balancers have not heard it yet"
        assert leaving.wait(30) == 0
        gateway.process.terminate()
        until(lambda: b'"shutdown":"draining"' in gateway.call("GET", "/readyz")[2])
        assert gateway.chat("small", unique())[0] == 503
        upstreams.control(release=tag, times=20)
        rest = begun + read_until(connection, b"0\r\n\r\n")
        assert b"w4" in rest
        assert b"data: [DONE]\n\n" in rest
        assert gateway.process.wait(30) == 0
        gateway.stop()
        assert {row["status"] for row in gateway.rows()} == {"ok"}
        assert engine.poll() is None, "it has a request"
        upstreams.control(metrics=ENGINE.format(0))
        assert engine.wait(30) == 0


def queries(values: Object) -> dict[str, dict[str, str]]:
    """Give the queries of each ScaledObject by the name of their trigger."""
    return {
        one["metadata"]["name"]: {
            trigger["name"]: trigger["metadata"]["query"] for trigger in one["spec"]["triggers"]
        }
        for one in of(rendered(values), "ScaledObject")
    }


SCALED: Object = {
    "models": [
        {**MODEL, "maxConcurrency": 2},
        {**MODEL, "name": "idle", "maxConcurrency": 2},
        {**LARGE, "name": "large", "maxConcurrency": 2},
    ],
    "tenants": [{"name": "team-a", "create": True}],
}


BOARDED = {
    panel.title: panel.queries[0][1].replace("$model", ".*").replace("$replica", ".*")
    for board in BOARDS
    for panel in board.panels
    if panel.title in ("Replicas by phase", "Running in the engine", "Wanted and ready")
}


@pytest.mark.soak
def test_scaling_asks_for_what_a_real_gateways_load_needs(tmp_path: Path) -> None:
    """Five requests on two slots; twenty of two versions with a floor; none; and no gateway at all.

    A second gateway has the same replicas and nothing to do: figures are as if it were not there.
    """
    asked, upstreams = queries(over(BASE, SCALED)), Upstreams(4)
    upstreams.control(metrics=ENGINE.format(2))
    ports = upstreams.ports
    models = model("small", ports[:1], max_concurrency=2, queue_timeout_s=90) + model("idle", ports[1:2])
    settings = config(models + model("large", ports[2:]), directory=tmp_path)
    with ExitStack() as stack:
        gateway, _ = stack.enter_context(running(Gateway(tmp_path, settings), upstreams))
        (tmp_path / "second").mkdir()
        second = Gateway(
            tmp_path / "second", config(models + model("large", ports[2:]), directory=tmp_path / "second")
        )
        stack.callback(lambda: second.process.poll() is None and second.stop())
        for one in (gateway, second):
            until(one.ready)
        prometheus = Prometheus(tmp_path, {"switchgear": [gateway.port, second.port]})
        stack.callback(prometheus.close)

        def figure(workload: str, signal: str) -> float:
            ((_, value),) = prometheus.query(asked[workload][signal])
            return value

        def hold(name: str, number: int, tag: str) -> list[socket]:
            held = [stack.enter_context(gateway.connect()) for _ in range(number)]
            for one in held:
                prompt = script("ok", tag=tag, n=3, lockstep=True)
                one.sendall(chat_request(name, prompt + unique(), stream=True))
            return held

        def ended(tag: str, held: list[socket]) -> None:
            upstreams.control(release=tag, times=1000)
            for one in held:
                assert b"[DONE]" in read_until(one, b"[DONE]")

        first = [unique(), unique()]
        held = [hold("small", 5, first[0]), hold("large", 20, first[1])]
        running_now = 'switchgear_running{model="%s"}'
        until(lambda: prometheus.value(running_now % "small") == 2)
        until(lambda: prometheus.value('switchgear_queue_depth{model="small"}') == 3)
        until(lambda: prometheus.value(running_now % "large") == 20)
        until(lambda: prometheus.value("switchgear_engine_kv_usage_ratio") == 2 * 4 * 0.5)
        shown = {title: sum(value for _, value in prometheus.query(text)) for title, text in BOARDED.items()}
        assert shown == {"Replicas by phase": 4, "Running in the engine": 8, "Wanted and ready": 4}
        # 2 run on 2 slots, used at 85 %; 3 wait, 5 s each as nobody knows better, for 1.5 s at most
        work = 2 / (2 * 0.85) + 3 * 5 / (2 * 1.5)
        assert figure("sg-small-v1", "work") == pytest.approx(work)
        assert math.ceil(work) == 7, "what KEDA makes of it, one being the threshold"
        assert figure("sg-small-v1", "kv") == pytest.approx(0.5 / 0.85)
        assert figure("sg-large-2026-11", "work") == pytest.approx(20 / (2 * 0.85) * 0.9 - 2)
        assert figure("sg-large-canary", "work") == 0.0, "a tenth of it is less than its floor"
        assert figure("sg-large-2026-11", "kv") == 0.0, "two half-full caches are less than the floor of two"
        idle = {signal: figure("sg-idle-v1", signal) for signal in asked["sg-idle-v1"]}
        assert idle == {"work": 0.0, "kv": pytest.approx(0.5 / 0.85), "first-token": 0.0}
        for tag, each in zip(first, held, strict=True):
            ended(tag, each)
        until(lambda: prometheus.value(running_now % "small") == 0)
        until(lambda: prometheus.value("gen_ai_server_time_to_first_token_seconds_count") >= 25)

        tag, since_s = unique(), time.monotonic()
        late = hold("small", 2, tag)
        until(lambda: upstreams.states(tag) == ["running"] * 2 and time.monotonic() > since_s + 2.0)
        ended(tag, late)
        until(lambda: figure("sg-small-v1", "first-token") > 0)
        assert figure("sg-small-v1", "first-token") > 1.0, "a goal of 0.5 s, missed by one ready replica"
        assert figure("sg-idle-v1", "first-token") == 0.0
        assert figure("sg-small-v1", "work") == 0.0

        gateway.stop()
        second.stop()
        every = [query for each in asked.values() for query in each.values()]
        until(lambda: all(prometheus.query(query) == [] for query in every), 60.0)  # so the fallback holds
