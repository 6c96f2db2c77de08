"""Several workers behind one address, through the door: one limit, one sum, and nobody notices a death."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import ADMIN
from tests.integration.gateway import (
    COMMAND,
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    call,
    chat_body,
    chat_request,
    config,
    model,
    read_all,
    read_until,
    running,
    unique,
)
from tests.integration.redis_server import RedisServer

WORKERS = 3


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    yield made
    made.close()


def settings(directory: Path, upstreams: Upstreams, redis: RedisServer, *, limits: str = "rpm = 20") -> str:
    limited = f'[[keys]]\nname = "limited"\nkey_env = "TEST_LIMITED_KEY"\n{limits}\n'
    shared = f'[redis]\nurl = "{redis.url}"\ntimeout_ms = 20000\n'
    server = f"workers = {WORKERS}\ndrain_s = 20"
    models = model("small", upstreams.ports)
    return config(models, directory=directory, server=server, more=limited + shared)


@pytest.fixture
def both(tmp_path: Path, redis: RedisServer) -> Iterator[tuple[Gateway, Upstreams]]:
    redis.client.flushall()
    upstreams = Upstreams(1)
    gateway = Gateway(tmp_path, settings(tmp_path, upstreams, redis), SWITCHGEAR_ADMIN_KEY=ADMIN)
    with running(gateway, upstreams) as both:
        until(both[0].ready)
        yield both


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in text.split()]


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def owner(connection: socket.socket, pids: list[int]) -> int:
    """Give the process that has the other end of a connection."""
    host, port = connection.getsockname()
    wanted = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == wanted:
            link = f"socket:[{fields[9]}]"
            for pid in pids:
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if os.readlink(fd) == link:
                            return pid
    raise AssertionError("nobody has it")


def ask_as_limited(gateway: Gateway, times: int) -> list[int]:
    """Ask so often, each on a connection of its own; gives the statuses."""
    headers = {"authorization": f"Bearer {LIMITED}", "content-type": "application/json"}

    def once(number: int) -> int:
        body = chat_body("small", script("ok", tag=f"n{number}"))
        return call(gateway.port, "POST", "/v1/chat/completions", body, headers)[0]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        return list(pool.map(once, range(times)))


class Held(msgspec.Struct, eq=False):
    """A stream that goes on when it is told to."""

    connection: socket.socket
    tag: str
    pid: int


def hold_some(gateway: Gateway, upstreams: Upstreams) -> list[Held]:
    """Begin streams until every worker has one."""
    pids, found = children(gateway.process.pid), list[Held]()
    while {one.pid for one in found} != set(pids):
        assert len(found) < 200, "some worker never accepts"
        one = Held(gateway.connect(), unique(), 0)
        one.connection.sendall(
            chat_request("small", script("ok", n=5, lockstep=True, tag=one.tag), stream=True)
        )
        upstreams.control(release=one.tag, times=2)
        read_until(one.connection, b'"w0')
        one.pid = owner(one.connection, pids)
        found.append(one)
    return found


def finish(held: list[Held], upstreams: Upstreams) -> None:
    """Let streams go on; each must come to its good end."""
    for one in held:
        upstreams.control(release=one.tag, times=20)
        assert b"data: [DONE]\n\n" in read_until(one.connection, b"0\r\n\r\n")


def test_complaint_19_with_n_workers_the_limit_is_the_limit_and_the_metrics_one_sum(
    both: tuple[Gateway, Upstreams],
) -> None:
    gateway, _ = both
    statuses = ask_as_limited(gateway, 60)
    admitted = statuses.count(200)
    assert admitted in range(20, 30), "20, and what a slow machine's minute gives back"
    assert statuses.count(429) == 60 - admitted
    for _ in range(2 * WORKERS):  # whichever worker is asked
        assert gateway.metric("switchgear_requests_total", status="200") == admitted
        assert gateway.metric("switchgear_requests_total", status="429") == 60 - admitted
        assert (
            gateway.metric("gen_ai_server_request_duration_seconds_count", gen_ai_response_model="small")
            >= admitted
        )
        assert gateway.metric("switchgear_replicas", phase="ready") == 1
    assert gateway.metric("switchgear_limits_alone_total") == 0
    until(lambda: len(gateway.rows()) == admitted)


def test_the_death_of_a_worker_is_its_own_clients_affair(both: tuple[Gateway, Upstreams]) -> None:
    """``kill -9`` under load: others see no error, its place is filled, nothing is lost or counted twice."""
    gateway, upstreams = both
    held = hold_some(gateway, upstreams)
    victim = held[-1].pid
    theirs = [one for one in held if one.pid == victim]
    assert [gateway.chat("small", script("ok"))[0] for _ in range(7)] == [200] * 7
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(gateway.chat, "small", script("ok")) for _ in range(40)]
        os.kill(victim, signal.SIGKILL)
        outcomes = [one.exception() is None and one.result()[0] for one in waiting]
    lost = outcomes.count(False)  # those that the victim had accepted, and only those
    assert lost <= 4
    assert outcomes.count(200) == 40 - lost
    finish([one for one in held if one.pid != victim], upstreams)
    for one in theirs:
        with contextlib.suppress(ConnectionError):
            assert b"[DONE]" not in read_all(one.connection)
    until(lambda: len(children(gateway.process.pid)) == WORKERS)
    assert f"process {victim}" in gateway.logged()
    good = 7 + 40 - lost + len(held) - len(theirs)
    until(lambda: good <= gateway.metric("switchgear_requests_total", status="200") <= good + lost)
    until(lambda: len(gateway.rows()) >= good + len(theirs))
    rows = gateway.rows()
    assert len(rows) <= good + len(theirs) + lost
    assert len({row["request_id"] for row in rows}) == len(rows)
    statuses = [row["status"] for row in rows]
    assert statuses.count("ok") in range(good, good + lost + 1)
    assert statuses.count("interrupted") in range(len(theirs), len(theirs) + lost + 1)
    for one in held:
        one.connection.close()


def test_a_signal_reaches_all_and_the_parent_waits_for_all(
    both: tuple[Gateway, Upstreams], redis: RedisServer, tmp_path: Path
) -> None:
    gateway, upstreams = both
    changed = settings(tmp_path, upstreams, redis).replace('name = "small"', 'name = "renamed"')
    gateway.write(changed)
    gateway.process.send_signal(signal.SIGHUP)

    def seen() -> set[str]:
        return {json.loads(gateway.call("GET", "/v1/models")[2])["data"][0]["id"] for _ in range(10)}

    until(lambda: seen() == {"renamed"})
    gateway.write(settings(tmp_path, upstreams, redis))
    reply = gateway.call("POST", "/admin/v1/config/reload", headers={"authorization": f"Bearer {ADMIN}"})
    assert (reply[0], json.loads(reply[2])["models"]) == (200, ["small"])
    until(lambda: seen() == {"small"})
    until(lambda: all(gateway.ready() for _ in range(10)))  # each has asked the replica how it is
    held = hold_some(gateway, upstreams)
    gateway.process.send_signal(signal.SIGUSR1)
    until(lambda: all(gateway.call("GET", "/readyz")[0] == 503 for _ in range(10)))
    assert gateway.chat("small", unique())[0] == 200, "they leave, and serve on"
    gateway.process.send_signal(signal.SIGTERM)
    finish(held, upstreams)
    for one in held:
        one.connection.close()
    assert gateway.stop() == 0
    assert not any(alive(one.pid) for one in held)
    assert [row["status"] for row in gateway.rows()] == ["ok"] * (len(held) + 1)
    assert not list((tmp_path / "state" / "journal").glob("*.jsonl"))
    assert redis.client.zcard("switchgear:limits:holders") == 0


def test_a_killed_parent_leaves_nothing_behind(tmp_path: Path, redis: RedisServer) -> None:
    upstreams = Upstreams(1)
    gateway = Gateway(tmp_path, settings(tmp_path, upstreams, redis))
    pids = children(gateway.process.pid)
    assert len(pids) == WORKERS
    gateway.stop(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids))
    upstreams.close()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", gateway.port))


def test_a_worker_that_cannot_start_ends_all(tmp_path: Path, redis: RedisServer) -> None:
    upstreams = Upstreams(1)
    (tmp_path / "state").write_text("in the way")
    path = tmp_path / "gateway.toml"
    path.write_text(settings(tmp_path, upstreams, redis))
    environ = {**os.environ, "TEST_KEY": KEY, "TEST_LIMITED_KEY": LIMITED}
    done = subprocess.run(
        [COMMAND, "serve", "--config", str(path), "--port", "0", "--workers", "2"],
        capture_output=True, text=True, env=environ, check=False, timeout=60,
    )  # fmt: skip
    upstreams.close()
    assert done.returncode == 1
    assert "cannot write the usage journal" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_redis_requests_go_on_and_readiness_says_so(tmp_path: Path) -> None:
    redis, upstreams = RedisServer(tmp_path), Upstreams(1)
    text = settings(tmp_path, upstreams, redis).replace("timeout_ms = 20000", "timeout_ms = 50")
    text = text.replace(f"workers = {WORKERS}", "workers = 1")
    with running(Gateway(tmp_path, text), upstreams) as (gateway, _):
        until(gateway.ready)
        redis.hold()
        assert ask_as_limited(gateway, 5) == [200] * 5

        def health() -> tuple[int, str]:
            status, _, body = gateway.call("GET", "/readyz")
            return status, json.loads(body)["status"]

        until(lambda: health() == (200, "degraded"))
        assert (
            "limits are kept by each process"
            in json.loads(gateway.call("GET", "/readyz")[2])["parts"]["redis"]
        )
        assert gateway.metric("switchgear_limits_alone_total") >= 1
        redis.let_go()
        until(gateway.ready)
        assert 429 in ask_as_limited(gateway, 40)
        redis.stop()
        until(lambda: health() == (200, "degraded"))
        redis.start()
        until(gateway.ready)
        assert gateway.chat("small", script("ok"))[0] == 200
    redis.close()
