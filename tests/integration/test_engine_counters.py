"""The ledger held against the engines' own token counters, by ``switchgear ledger reconcile``."""

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import database
from gateway.tenancy import ledger
from tests.fakes.entries import entry
from tests.integration.gateway import COMMAND, config, model

METRICS = """
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0"} 60.0
vllm:prompt_tokens_total{engine="1"} 40.0
vllm:prompt_tokens_created{engine="0"} 1000.0
vllm:generation_tokens_total{engine="0"} 50.0
vllm:generation_tokens_created{engine="0"} 1000.0
"""


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/metrics"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(METRICS.encode() if found else b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def reconciled(directory: Path, port: int) -> tuple[int, dict[str, Any]]:
    file = directory / "gateway.toml"
    file.write_text(config(model("small", [port, 1]), directory=directory).partition("[[keys]]")[0])
    command = [COMMAND, "ledger", "reconcile", "--config", str(file), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_more_in_the_ledger_than_the_engine_worked_on_is_a_fault(tmp_path: Path, port: int) -> None:
    engine = database.connect(f"sqlite:///{tmp_path / 'gateway.db'}")
    database.migrate(engine)
    usage: dict[str, Any] = {"replicas": "small-0", "prompt_tokens": 40, "completion_tokens": 20}
    ledger.insert(engine, [entry("before", ts=900.0, **usage), entry("a", ts=2000.0, **usage)])
    ledger.insert(engine, [entry("elsewhere", ts=2000.0, **{**usage, "replicas": "small-1"})])
    status, said = reconciled(tmp_path, port)
    (check,) = said["engines"]  # nobody answers for small-1
    assert check == {
        "replica": "small-0",
        "since_s": 1000.0,
        "engine_prompt_tokens": 100,
        "ledger_prompt_tokens": 40,
        "engine_completion_tokens": 50,
        "ledger_completion_tokens": 20,
    }
    assert status == 0
    ledger.insert(engine, [entry(f"b{n}", ts=2000.0, **usage) for n in range(2)])
    engine.dispose()
    assert reconciled(tmp_path, port)[0] == 1
