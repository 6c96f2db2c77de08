"""Traces in the store of a third party: Arize Phoenix, installed by itself, takes and understands them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import ROOT, Gateway, Upstreams, call, config, end, model, running, unique
from tests.integration.prometheus import answers, free_port

pytestmark = pytest.mark.soak

VERSION = "arize-phoenix==20.26.1"
CONTENT = '[tracing.content]\ntenants = ["default"]\n'


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[int]:
    """``PHOENIX`` names its program; else it is installed below ``.cache`` (625 MB)."""
    program = Path(os.environ.get("PHOENIX", ROOT / ".cache/phoenix/bin/phoenix"))
    if not program.exists():
        home = program.parents[1]
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin/pip"), "install", "--quiet", VERSION], check=True)
    port, grpc = free_port(), free_port()
    environ = {
        **os.environ,
        "PHOENIX_WORKING_DIR": str(tmp_path / "phoenix"),
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PYTHONPATH": "",
    }
    process = subprocess.Popen(
        [str(program), "serve"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: answers(port, "/"), 240.0)
        yield port
    finally:
        end(process, signal.SIGTERM)


def test_requests_are_its_llm_spans(phoenix: int, tmp_path: Path) -> None:
    upstreams = Upstreams(1)
    text = config(model("small", upstreams.ports), directory=tmp_path, more=CONTENT)
    gateway = Gateway(tmp_path, text, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{phoenix}",
                      OTEL_METRICS_EXPORTER="none")  # fmt: skip
    with running(gateway, upstreams):
        until(gateway.ready)
        prompt = script("ok", n=7, tag=unique()) + " write to jane.doe@example.com"
        status, headers, _ = gateway.chat("small", prompt)
        assert status == 200

        def spans() -> list[dict[str, Any]]:
            found = json.loads(call(phoenix, "GET", "/v1/projects/default/spans?limit=100")[2])
            return [one for one in found["data"] if one["context"]["trace_id"]]

        until(lambda: any(one["span_kind"] == "LLM" for one in spans()), 30.0)
        (request,) = [one for one in spans() if one["span_kind"] == "LLM"]
        told = request["attributes"]
        assert told["switchgear.request.id"] == headers["x-request-id"]
        assert told["llm.token_count.completion"] == 7
        assert float(told["gen_ai.usage.cost"]) > 0
        assert "jane.doe" not in json.dumps(told)
        assert told["llm.input_messages.0.message.content"].endswith("write to [email]")
        below = {one["name"] for one in spans() if one["parent_id"] == request["context"]["span_id"]}
        assert {"authenticate", "admit", "queue", "attempt", "settle"} <= below
