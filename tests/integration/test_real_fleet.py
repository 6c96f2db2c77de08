"""Real vLLM under load: from 0 to 1 to 2 and back, one reclaimed, adapters; no client sees an error."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.engines import LaunchProfile
from backends.placement import Machine, fit
from backends.weights import read_shape
from tests.appliance import Appliance, fetch
from tests.engine_env import engine_python
from tests.fakes.processes import until
from tests.integration.clients import Load

CONFIG = """
[server]
state_dir = "{home}/state"
port = 0
heartbeat_after_s = 1

[database]
url = "sqlite:///{home}/switchgear.db"

[[models]]
name = "m"
context_tokens = 1024
queue_timeout_s = 400
stall_timeout_s = 200
first_byte_timeout_s = 300
price = {{ input = 0.05, output = 0.20 }}
[models.launch]
weights = "{weights}"
cpu_cores = [0, 1]
kv_cache_bytes = 1073741824
max_num_seqs = 2
min_replicas = 0
max_replicas = 2
lora = {{ runtime = true }}
[models.launch.scaling]
out_window_s = 2
in_window_s = 10
idle_s = 15
peak_share = 0.1
peak_memory_s = 20
"""
SLOW_S = 400.0


@contextlib.contextmanager
def appliance_of(directory: Path, models: Path) -> Iterator[Appliance]:
    engine_python()
    home = directory / "home"
    home.mkdir()
    config = home / "switchgear.toml"
    config.write_text(CONFIG.format(home=home, weights=models / "small"))
    appliance = Appliance(home, directory, "--config", str(config))
    try:
        yield appliance.started()
    finally:
        appliance.destroy()


def replicas(appliance: Appliance) -> dict[str, dict[str, Any]]:
    """The model's replicas as the admin API shows them."""
    headers = {"authorization": f"Bearer {appliance.admin_key}"}
    reply = fetch(f"{appliance.root}/admin/v1/replicas?limit=200", None, headers, method="GET")
    return {one["id"]: one for one in reply.json["data"]}


def order(appliance: Appliance, path: str, body: object) -> Any:
    headers = {"authorization": f"Bearer {appliance.admin_key}"}
    reply = fetch(f"{appliance.root}/admin/v1/{path}", body, headers)
    assert reply.status == 200, reply.body
    return reply.json


def ready(appliance: Appliance) -> set[str]:
    return {id_ for id_, one in replicas(appliance).items() if one["phase"] == "ready"}


@pytest.fixture(scope="module")
def appliance(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with appliance_of(tmp_path_factory.mktemp("fleet"), demo_home / "models") as found:
        yield found


def proved(appliance: Appliance, load: Load) -> None:
    """No client saw an error; every request has one row of the ledger, and it was billed."""
    assert load.errors == []
    assert load.ids
    rows: dict[str, dict[str, Any]] = {}

    def there() -> bool:
        rows.update(appliance.ledger())
        return set(load.ids) <= set(rows)

    until(there, 60.0)
    assert all(rows[one]["status"] == "ok" and rows[one]["completion_tokens"] for one in load.ids)


@pytest.mark.soak
def test_from_zero_to_two_and_back_under_load(appliance: Appliance) -> None:
    assert replicas(appliance) == {}
    load = Load(appliance.base_url, appliance.api_key)
    try:
        load.more(1)
        until(lambda: len(ready(appliance)) == 1, SLOW_S)
        load.more(7)
        until(lambda: len(ready(appliance)) == 2, SLOW_S)
        for one in replicas(appliance).values():
            print("start of", one["id"], {step["step"]: step["seconds"] for step in one["start"]})
            assert [step["step"] for step in one["start"]][:2] == ["spawn", "import"]
            assert {"weights", "kv and compile", "warm-up"} <= {step["step"] for step in one["start"]}
    finally:
        load.end()
    print("requests", len(load.ids), "heartbeats", load.heartbeats)
    assert load.heartbeats > 0, "the first stream was held while the engine started"
    until(lambda: replicas(appliance) == {}, SLOW_S)
    proved(appliance, load)


@pytest.mark.soak
def test_a_reclaimed_engine_s_requests_finish_and_a_substitute_serves(appliance: Appliance) -> None:
    order(appliance, "models/m/scale", {"replicas": 2})
    until(lambda: len(ready(appliance)) == 2, SLOW_S)
    gone = min(ready(appliance))
    load = Load(appliance.base_url, appliance.api_key)
    try:
        load.more(4)
        until(lambda: len(load.ids) >= 6, SLOW_S)
        order(appliance, f"replicas/{gone}/reclaim", {"notice_s": 60})
        until(lambda: gone not in replicas(appliance), SLOW_S)
        until(lambda: len(ready(appliance)) == 2, SLOW_S)
        assert gone not in ready(appliance)
        order(appliance, f"replicas/{min(ready(appliance))}/reclaim", {"notice_s": 0})
        served = len(load.ids)
        until(lambda: len(load.ids) >= served + 6, SLOW_S)
    finally:
        load.end()
    moved = [one for one in appliance.ledger().values() if one["attempts"] > 1]
    print("requests", len(load.ids), "reclaimed", gone, "handed over", len(moved))
    proved(appliance, load)
    assert moved, "what ran on the second one went on elsewhere"


@pytest.mark.soak
def test_an_engine_outlives_a_gateway_that_is_killed(appliance: Appliance) -> None:
    order(appliance, "models/m/scale", {"replicas": 1})
    until(lambda: len(replicas(appliance)) == len(ready(appliance)) == 1, SLOW_S)
    (before,) = replicas(appliance).values()
    appliance.stop(signal.SIGKILL)
    began_s = time.monotonic()
    appliance.started()
    (after,) = replicas(appliance).values()
    print(f"taken over {time.monotonic() - began_s:.1f} s after the gateway's start")
    assert (after["id"], after["url"], after["phase"]) == (before["id"], before["url"], "ready")
    body = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    assert appliance.post("/chat/completions", body).status == 200


@pytest.mark.soak
def test_kv_capacity_is_as_planned(appliance: Appliance, demo_home: Path) -> None:
    weights = str(demo_home / "models" / "small")
    profile = LaunchProfile(weights=weights, kv_cache_bytes=1 << 30)
    planned = fit(read_shape(weights), profile, Machine(), [1024]).kv_tokens
    assert f"KV cache size: {planned:,} tokens" in appliance.engines_logged(10_000)


ADAPTER = """
import json, pathlib, sys, torch
from safetensors.torch import save_file
folder, config = pathlib.Path(sys.argv[1]), json.load(open(sys.argv[2]))
folder.mkdir(parents=True)
width = config["hidden_size"]
tensors = {}
for layer in range(config["num_hidden_layers"]):
    at = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
    tensors[f"{at}.lora_A.weight"] = torch.full((8, width), 0.05)
    tensors[f"{at}.lora_B.weight"] = torch.full((width, 8), 0.05)
save_file(tensors, folder / "adapter_model.safetensors")
shape = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
(folder / "adapter_config.json").write_text(json.dumps(shape))
"""


@pytest.mark.soak
def test_an_adapter_is_loaded_answers_and_is_unloaded(
    appliance: Appliance, demo_home: Path, tmp_path: Path
) -> None:
    folder, shape = tmp_path / "tax", demo_home / "models" / "small" / "config.json"
    subprocess.run([engine_python(), "-P", "-c", ADAPTER, str(folder), str(shape)], check=True, timeout=120)
    order(appliance, "models/m/scale", {"replicas": 1})
    until(lambda: len(ready(appliance)) == 1, SLOW_S)
    order(appliance, "models/m/adapters/load", {"name": "tax", "path": str(folder)})

    def said(model: str) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        reply = appliance.post("/chat/completions", {**body, "temperature": 0})
        assert reply.status == 200, reply.body
        return str(reply.json["choices"][0]["message"]["content"])

    assert said("m:tax") != said("m")
    order(appliance, "models/m/adapters/unload", {"name": "tax"})
    body = {"model": "m:tax", "messages": [{"role": "user", "content": "Hi"}]}
    assert appliance.post("/chat/completions", body).status == 404
