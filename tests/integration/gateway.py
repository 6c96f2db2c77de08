"""Real processes for the tests: the gateway by its own command, scripted upstreams behind it."""

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from gateway import database
from gateway.tenancy import ledger
from tests.fakes.processes import until

ROOT = Path(__file__).parents[2]
KEY = "sk-test-" + "k" * 40
LIMITED = "sk-test-" + "l" * 40
COMMAND = str(Path(sys.executable).parent / "switchgear")


class Upstreams:
    """The scripted upstream of ``tests.fakes.upstream``, its ports and its control."""

    def __init__(self, ports: int) -> None:
        command = [sys.executable, "-m", "tests.fakes.upstream", "--ports", str(ports)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.ports: list[int] = told["ports"]
        self._control_port: int = told["control"]

    def control(self, **wish: Any) -> None:
        """Make it do something; see ``Upstream.control``."""
        call(self._control_port, "POST", "/control", json.dumps(wish).encode())

    def seen(self, tag: str | None = None) -> dict[str, Any]:
        """Tell what it got and what runs."""
        path = "/seen" if tag is None else f"/seen?tag={tag}"
        found: dict[str, Any] = json.loads(call(self._control_port, "GET", path)[2])
        return found

    def states(self, tag: str) -> list[str]:
        """Give the states of the requests with a tag."""
        return [one["state"] for one in self.seen(tag)["requests"]]

    def close(self) -> None:
        end(self.process, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Gateway:
    """``switchgear serve`` in a directory of its own."""

    def __init__(
        self, directory: Path, config: str, *, command: str | Path = COMMAND, **environ: str
    ) -> None:
        self.directory = directory
        self.command = command
        self.config = directory / "gateway.toml"
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SWITCHGEAR")},
            "TEST_KEY": KEY,
            "TEST_LIMITED_KEY": LIMITED,
            "PYTHONPATH": str(ROOT),
            "OTEL_BSP_SCHEDULE_DELAY": "500",  # milliseconds: tests wait for spans
            **environ,
        }
        self.write(config)
        self.start()

    def write(self, config: str) -> None:
        """Write the configuration; a running gateway reads it at SIGHUP."""
        self.config.write_text(config)

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self.log = (self.directory / "gateway.log").open("ab")
        self.process = subprocess.Popen(
            [self.command, "serve", "--config", str(self.config), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=self.directory,
            env=self._environ,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("Switchgear serves on "), self.logged()[-3000:]
        address = urlsplit(line.split()[-1])
        assert address.port is not None
        self.port: int = address.port
        self.base_url = line.split()[-1]

    def logged(self) -> str:
        return (self.directory / "gateway.log").read_text(errors="replace")

    def call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request with the test key; gives status, headers, body."""
        sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **(headers or {})}
        return call(self.port, method, path, body, sent)

    def chat(self, model: str, prompt: str, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        """Ask for a chat completion; ``headers`` among the fields are HTTP headers."""
        headers = fields.pop("headers", None)
        return self.call("POST", "/v1/chat/completions", chat_body(model, prompt, **fields), headers)

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """Open a bare connection."""
        bare = socket.socket()
        if receive_bytes is not None:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        bare.settimeout(20.0)
        bare.connect(("127.0.0.1", self.port))
        return bare

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=KEY, max_retries=0, timeout=30.0, **options)

    def metric(self, name: str, **labels: str) -> float:
        """Give the sum of the samples of a metric that have these labels."""
        total = 0.0
        status, _, text = self.call("GET", "/metrics")
        assert status == 200
        for line in text.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            given = sample.partition("{")[2]
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in given for k, v in labels.items()):
                total += float(value)
        return total

    def idle(self) -> bool:
        """Tell whether nothing runs and nothing waits."""
        return self.metric("switchgear_running") == 0 and self.metric("switchgear_queue_depth") == 0

    def ready(self) -> bool:
        """Tell whether every model has only ready replicas."""
        return bool(json.loads(self.call("GET", "/readyz")[2])["status"] == "ready")

    def rows(self) -> list[dict[str, Any]]:
        """Give the ledger as it is in the database now."""
        engine = database.connect(f"sqlite:///{self.directory / 'gateway.db'}")
        try:
            return list(ledger.export(engine, 0.0, 1e12))
        finally:
            engine.dispose()

    def row(self, request_id: str) -> dict[str, Any]:
        """Wait for the one ledger row of a request."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [row for row in self.rows() if row["request_id"] == request_id]
            return bool(found)

        until(there)
        assert len(found) == 1
        return found[0]

    def stop(self, *signals: signal.Signals) -> int:
        """End the process; gives its exit status."""
        status = end(self.process, *(signals or (signal.SIGTERM,)))
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return status


def end(process: "subprocess.Popen[bytes]", *signals: signal.Signals) -> int:
    """Send the signals and wait for the end."""
    for one in signals:
        if process.poll() is None:
            process.send_signal(one)
    return process.wait(timeout=60)


def call(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one HTTP request; gives status, headers in lower case, body."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


def chat_body(model: str, prompt: str, **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], **fields}).encode()


def chat_request(model: str, prompt: str, *more: str, **fields: Any) -> bytes:
    """Give the bytes of a chat request; ``more`` are header lines."""
    body = chat_body(model, prompt, **fields)
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", *more]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


def read_until(connection: socket.socket, *marks: bytes) -> bytes:
    """Read until all marks have come, or the other side has closed."""
    data = b""
    while not all(mark in data for mark in marks):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    return read_until(connection, b"\0never\0")


def config(
    models: str, *, server: str = "", cache: str = "exact_ttl_s = 0", directory: Path, more: str = ""
) -> str:
    """Give a configuration; ``models`` are ``[[models]]`` tables, see ``model``."""
    return f"""
[server]
state_dir = "{directory / "state"}"
{server}
[database]
url = "sqlite:///{directory / "gateway.db"}"
[cache]
{cache}
{models}
[[keys]]
name = "test"
key_env = "TEST_KEY"
{more}
"""


def model(name: str, ports: Iterable[int], **options: Any) -> str:
    """Give a ``[[models]]`` table; ``max_concurrency`` among the options is that of each replica."""
    concurrency = options.pop("max_concurrency", 64)
    lines = [f'[[models]]\nname = "{name}"', "price = { input = 1.0, cached_input = 0.5, output = 2.0 }"]
    options = {"policy": "round_robin", "upstream_model": "upstream-name", **options}
    lines += [f"{key} = {_toml(value)}" for key, value in options.items()]
    for port in ports:
        lines.append(f'[[models.replicas]]\nurl = "http://127.0.0.1:{port}/v1"')
        lines.append(f"max_concurrency = {concurrency}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def unique() -> str:
    """Give a tag for one request."""
    return secrets.token_hex(6)


@contextlib.contextmanager
def running(gateway: Gateway, upstreams: Upstreams) -> Iterator[tuple[Gateway, Upstreams]]:
    """End both processes with the block; the gateway must end well and have logged no bug."""
    try:
        yield gateway, upstreams
    finally:
        status = gateway.stop() if gateway.process.poll() is None else gateway.process.returncode
        upstreams.close()
    assert status == 0, gateway.logged()[-3000:]
    assert "Traceback" not in gateway.logged(), gateway.logged()[-6000:]
