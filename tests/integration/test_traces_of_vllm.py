"""What real vLLM tells of itself: its spans hang below the attempt's, its log is with the replica."""

from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.appliance import Appliance, fetch
from tests.fakes.processes import until
from tests.integration.collector import attributes, collecting

pytestmark = pytest.mark.soak

CONFIG = """
[server]
port = 0
state_dir = "{home}/state"
[database]
url = "sqlite:///{home}/switchgear.db"
[[models]]
name = "small"
context_tokens = 2048
[models.launch]
weights = "{weights}"
kv_cache_bytes = 536870912
extra_args = ["--otlp-traces-endpoint", "{collector}/v1/traces"]
env = {{ OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = "http/protobuf" }}
"""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_engines_own_spans_hang_below_the_attempt(demo_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with collecting() as collector:
        written = CONFIG.format(home=home, weights=demo_home / "models" / "small", collector=collector.url)
        (home / "switchgear.toml").write_text(written)
        made = Appliance(
            home,
            tmp_path,
            "--config",
            str(home / "switchgear.toml"),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        )
        try:
            made.started()
            asked = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
            sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            reply = made.post("/chat/completions", asked, sent)
            assert reply.status == 200, reply.body
            spans = collector.trace(reply.headers["x-request-id"])
            (request,) = spans["request"]
            assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
            (attempt,) = spans["attempt"]

            def engines() -> list[Span]:
                below = [one for one in list(collector.spans) if one.parent_span_id == attempt.span_id]
                return [one for one in below if one.name not in ("first token", "stream")]

            until(lambda: engines() != [], 60.0)
            (span,) = engines()
            assert span.trace_id == request.trace_id
            # vLLM has names of its own for what the conventions call output tokens.
            counted = [value for name, value in attributes(span).items() if name.startswith("gen_ai.usage.")]
            assert reply.json["usage"]["completion_tokens"] == 8
            assert 8 in counted
            as_admin = {"authorization": f"Bearer {made.admin_key}"}
            shown = fetch(f"{made.root}/admin/v1/replicas", headers=as_admin, method="GET").json["data"]
            assert all(one["phase"] == "ready" and one["log"] for one in shown)
        finally:
            made.destroy()
