"""Three gateways behind nginx on one Redis and one PostgreSQL, while each of these dies and comes back."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import (
    COMMAND,
    KEY,
    LIMITED,
    Gateway,
    Upstreams,
    call,
    chat_body,
    config,
    end,
    model,
    unique,
)
from tests.integration.prometheus import free_port
from tests.integration.redis_server import RedisServer

RPM = 30
NGINX = """
daemon off; error_log {directory}/nginx.log; pid {directory}/nginx.pid;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream gateways {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateways; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 60s; proxy_next_upstream error non_idempotent;
    }}
  }}
}}
"""


class Three:
    """The gateways, what they share, and nginx in front; gateways may be killed and added."""

    def __init__(self, directory: Path, postgres: Any, stack: ExitStack) -> None:
        self.directory, self.postgres = directory, postgres
        self.redis = RedisServer(directory)
        stack.callback(self.redis.close)
        self.upstreams = Upstreams(2)
        stack.callback(self.upstreams.close)
        self.gateways = [self._open(number) for number in range(3)]
        stack.callback(self._stop_all)
        self.port = free_port()
        self._configure()
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.nginx = subprocess.Popen([program, "-c", str(directory / "nginx.conf"), "-p", str(directory)])
        stack.callback(lambda: end(self.nginx, signal.SIGQUIT))
        until(self._serves)

    def _serves(self) -> bool:
        with suppress(OSError):
            return self.asks("GET", "/readyz")[0] == 200
        return False

    def _open(self, number: int) -> Gateway:
        directory = self.directory / f"g{number}"
        directory.mkdir()
        more = f"""
[redis]
url = "{self.redis.url}"
timeout_ms = 2000
[coalescing]
lease_s = 2
[[keys]]
name = "limited"
key_env = "TEST_LIMITED_KEY"
rpm = {RPM}
"""
        said = config(
            model("m", self.upstreams.ports, max_concurrency=500),
            directory=directory,
            cache="exact_ttl_s = 3600",
            more=more,
        ).replace(f"sqlite:///{directory / 'gateway.db'}", self.postgres.get_uri())
        found = Gateway(directory, said)
        until(found.ready)
        return found

    def _configure(self) -> None:
        servers = " ".join(f"server 127.0.0.1:{one.port} max_fails=0;" for one in self.gateways)
        text = NGINX.format(directory=self.directory, servers=servers, port=self.port)
        (self.directory / "nginx.conf").write_text(text)

    def _stop_all(self) -> None:
        for one in self.gateways:
            if one.process.poll() is None:
                one.stop()

    def kill(self, number: int) -> None:
        """Kill a gateway and start another on its state; nginx hears of its new port."""
        gateway = self.gateways[number]
        end(gateway.process, signal.SIGKILL)
        assert gateway.process.stdout is not None
        gateway.process.stdout.close()
        gateway.log.close()
        gateway.start()
        self._configure()
        os.kill(self.nginx.pid, signal.SIGHUP)

    def add(self) -> None:
        self.gateways.append(self._open(len(self.gateways)))
        self._configure()
        os.kill(self.nginx.pid, signal.SIGHUP)

    def asks(
        self, method: str, path: str, body: bytes = b"", key: str = KEY, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return call(self.port, method, path, body, sent)

    def chat(self, prompt: str, key: str = KEY, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        headers = fields.pop("headers", {})
        return self.asks("POST", "/v1/chat/completions", chat_body("m", prompt, **fields), key, **headers)


@contextmanager
def opened(directory: Path, start_postgres: Callable[[Path], Any]) -> Iterator[Three]:
    postgres = start_postgres(directory / "postgres")
    with ExitStack() as stack:
        stack.callback(postgres.cleanup)
        yield Three(directory, postgres, stack)


class Crowd:
    """Clients that ask without a pause: streams, repetitions under one idempotency key, a limited key."""

    def __init__(self, three: Three, seed: int) -> None:
        self.three, self.over = three, threading.Event()
        self.answered: dict[str, str] = {}  # request id -> the row it must have
        self.repeated: dict[str, set[bytes]] = {}  # idempotency key -> the answers to it
        self.broken = 0
        self.wrong: list[str] = []
        works = (self._stream, self._repeat, self._stream, self._cached)
        self.threads = [
            threading.Thread(target=self._run, args=(work, random.Random(seed * 10 + number)))
            for number, work in enumerate(works)
        ]

    def _run(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self.over.is_set():
            try:
                work(chance)
            except (OSError, http.client.HTTPException):
                self.broken += 1
                self.over.wait(0.05)

    def _took(self, reply: tuple[int, dict[str, str], bytes]) -> None:
        status, headers, body = reply
        if status == 200:
            self.answered[headers["x-request-id"]] = headers["x-switchgear-cache"]
        elif status not in (409, 502, 503, 504):  # somebody died, or is still at it
            self.wrong.append(f"{status} {body[:200]!r}")

    def _stream(self, chance: random.Random) -> None:
        prompt = script("ok", n=chance.randrange(5, 60), gap_s=0.002, tag=unique())
        status, headers, body = self.three.chat(prompt, stream=True)
        if (
            status == 200
            and b"data: [DONE]" not in body
            and b"event: error" not in body
            and b'"error"' not in body
        ):
            self.broken += 1  # its gateway was killed: cut off, never ended as if it were whole
        self._took((status, headers, body))

    def _repeat(self, chance: random.Random) -> None:
        name, tag = unique(), unique()
        for _ in range(3):
            with suppress(OSError, http.client.HTTPException):
                reply = self.three.chat(
                    script("ok", n=5, tag=tag),
                    headers={"idempotency_key": name, "x_switchgear_cache": "bypass"},
                )
                if reply[0] == 200:
                    self.repeated.setdefault(name, set()).add(reply[2])

    def _cached(self, chance: random.Random) -> None:
        self._took(self.three.chat(f"the same question {chance.randrange(5)}", temperature=0))

    @contextmanager
    def asking(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in self.threads:
                thread.join()

    def goes_on(self, more: int = 15) -> None:
        """Wait until so many more were answered."""
        seen = len(self.answered)
        until(lambda: len(self.answered) >= seen + more, 90.0)


def proved(three: Three, crowd: Crowd) -> None:
    """Every answer has one row, nothing is doubled, the books of all gateways agree."""
    assert crowd.wrong == []
    gateway = three.gateways[0]
    command = [COMMAND, "ledger", "export", "--config", str(gateway.config), "--format", "jsonl"]

    def rows() -> list[dict[str, Any]]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    until(lambda: set(crowd.answered) <= {row["request_id"] for row in rows()}, 60.0)
    counts = Counter(row["request_id"] for row in rows())
    assert max(counts.values()) == 1
    for name, answers in crowd.repeated.items():
        assert len(answers) == 1, f"{name} was answered in {len(answers)} ways"
    three._stop_all()
    done = subprocess.run(
        [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert json.loads(done.stdout)["gap_nanousd"] == 0, done.stdout


@pytest.mark.soak
def test_three_gateways_behind_nginx_stay_right_whatever_dies(
    tmp_path: Path, start_postgres: Callable[[Path], Any]
) -> None:
    seed = int(os.environ.get("SEED", "1"))
    chance = random.Random(seed)
    with opened(tmp_path, start_postgres) as three:
        crowd = Crowd(three, seed)
        with crowd.asking():
            crowd.goes_on()
            for _ in range(4):
                three.kill(chance.randrange(3))
                crowd.goes_on()
            three.add()
            crowd.goes_on()
            three.redis.stop()
            crowd.goes_on()
            three.redis.start()
            crowd.goes_on()
            three.postgres.stop()
            crowd.goes_on()
            three.postgres.start()
            crowd.goes_on()
            three.kill(chance.randrange(3))
            crowd.goes_on()
        for gateway in three.gateways:
            until(gateway.ready, 90.0)
        limits_hold(three)
        one_call_and_one_stream(three)
        for _ in range(3):
            a_stream_of_a_killed_gateway(three, chance.randrange(3))
        proved(three, crowd)


def limits_hold(three: Three) -> None:
    """A limit is a limit for all of them together."""
    statuses = Counter(three.chat(unique(), LIMITED)[0] for _ in range(RPM * 2))
    assert set(statuses) == {200, 429}
    assert statuses[200] <= RPM + RPM // 10 + 1  # what the window lets through again meanwhile


def one_call_and_one_stream(three: Three) -> None:
    """Identical requests over all gateways are one upstream call; a stream is read on at another."""
    tag = unique()
    prompt = script("ok", n=40, gap_s=0.02, tag=tag)
    replies: list[tuple[int, dict[str, str], bytes]] = []
    body = chat_body("m", prompt, temperature=0, stream=True)
    sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    sent["x-switchgear-resumable"] = "true"
    clients = [
        threading.Thread(
            target=lambda one=one: replies.append(call(one.port, "POST", "/v1/chat/completions", body, sent))
        )
        for one in three.gateways
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert {status for status, _, _ in replies} == {200}
    assert len(three.upstreams.seen(tag)["requests"]) == 1
    name = replies[0][1]["x-switchgear-stream-id"]
    for one in three.gateways:
        status, _, again = call(one.port, "GET", f"/v1/streams/{name}", b"", sent)
        assert status == 200
        assert b"[DONE]" in again


def a_stream_of_a_killed_gateway(three: Three, number: int) -> None:
    """Read on through nginx as far as it was recorded; asked for again, it is answered whole, once."""
    key, tag = unique(), unique()
    body = chat_body("m", script("ok", n=100, gap_s=0.03, tag=tag), stream=True)
    sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    sent |= {"idempotency-key": key, "x-switchgear-resumable": "true"}
    with closing(http.client.HTTPConnection("127.0.0.1", three.gateways[number].port, timeout=30)) as first:
        first.request("POST", "/v1/chat/completions", body, sent)
        reply = first.getresponse()
        name, seen = reply.headers["x-switchgear-stream-id"], b""
        while b"w9 " not in seen:
            seen += reply.readline()
        reply.close()
    last = max(int(found) for found in re.findall(rb"^id: (\d+)$", seen, re.MULTILINE))
    killing = threading.Thread(target=three.kill, args=(number,))
    killing.start()
    other = three.gateways[(number + 1) % 3]
    status, _, rest = call(
        other.port, "GET", f"/v1/streams/{name}", b"", {**sent, "last-event-id": str(last)}
    )
    killing.join()
    assert status == 200
    numbers = [int(found) for found in re.findall(rb"^id: (\d+)$", rest, re.MULTILINE)]
    assert numbers == list(range(last + 1, last + 1 + len(numbers))), "each event once, in order"
    assert (b"process that recorded the answer is gone" in rest) != (b"[DONE]" in rest)

    def whole() -> bool:
        with suppress(OSError, http.client.HTTPException):
            status, _, again = three.asks("POST", "/v1/chat/completions", body, **without(sent))
            return status == 200 and b"[DONE]" in again and again.count(b"w99 ") == 1
        return False

    until(whole, 60.0)
    until(three.gateways[number].ready, 60.0)


def without(sent: dict[str, str]) -> dict[str, str]:
    """Give the headers that ``Three.asks`` does not send by itself, as its arguments."""
    return {name.replace("-", "_"): value for name, value in sent.items() if name.startswith(("x-", "idem"))}
