"""What is measured: how each contender is started, which model it is asked for, and with which key."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
KEY = "sk-bench"
# The newest that installs everywhere: later ones ask for a certifi that some indexes do not have yet.
LITELLM_VERSION = "1.91.0"


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One row; ``command`` is empty for the upstream itself. Files are written before the start.

    ``{port}``, ``{upstream}`` (its root URL), ``{sink}`` (of traces) and ``{folder}`` are filled in.
    """

    name: str
    command: Sequence[str] = ()
    model: str = "upstream"
    repeat: bool = False
    files: Mapping[str, str] = {}
    environ: Mapping[str, str] = {}
    shares: str = ""  # the name of the row whose process it uses
    missing: str = ""  # why it cannot run here, and what to do


CONFIG = """
[server]
port = {port}
state_dir = "{folder}/state"
[database]
url = "sqlite:///{folder}/bench.db"
[[models]]
name = "small"
upstream_model = "upstream"
price = {{ input = 0.05, cached_input = 0.01, output = 0.20, cache_hit = 0.1, joined = 0.1 }}
context_tokens = 2048
[[models.replicas]]
url = "{upstream}/v1"
max_concurrency = 64
"""
KEYS = """
[[keys]]
name = "bench"
key_env = "BENCH_KEY"
"""
BARE = CONFIG + "[cache]\nexact_ttl_s = 0\n" + KEYS
# The sample configuration of the documentation, with limits that are checked but never reached.
FULL = (
    CONFIG
    + """
[[models]]
name = "large"
upstream_model = "upstream"
price = {{ input = 0.20, cached_input = 0.04, output = 0.80 }}
[[models.replicas]]
url = "{upstream}/v1"
[[routes]]
name = "auto"
tiers = ["small", "large"]
objective = {{ large_share = 0.3 }}
fallback = ["large"]
[cache]
exact_ttl_s = 3600
semantic = {{ error_bound = 0.01, precision = 0.95, ttl_s = 86400 }}
"""
    + KEYS
    + """
rpm = 100000000
tpm = 100000000000
concurrency = 10000
budget_usd = 1000000
prepaid_usd = 1000000
"""
)
NGINX = """
worker_processes 1; master_process off; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream replicas {{ server {address}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
LITELLM_CONFIG = """
model_list:
  - model_name: upstream
    litellm_params: {{ model: openai/upstream, api_base: "{upstream}/v1", api_key: none }}
litellm_settings: {{ telemetry: false, drop_params: true }}
general_settings: {{ master_key: {key} }}
"""


def contenders(*, litellm: str = "") -> list[Contender]:
    """Give the rows in order; that version of LiteLLM if one is named, else one that is installed already."""
    python = sys.executable
    serve = [str(Path(python).parent / "switchgear"), "serve", "--config", "{folder}/bench.toml"]
    uvicorn = [python, "-m", "uvicorn", "bench.floor:app", "--port", "{port}", "--log-level", "critical"]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"]
    floor = {"BENCH_UPSTREAM": "{upstream}"}
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": "{sink}"}
    full = "switchgear, everything on"
    rows = [
        Contender(name="direct"),
        _nginx(),
        Contender(name="bare floor: uvicorn, aiohttp, key check", command=uvicorn, environ=floor),
        Contender(name="switchgear, bare proxy", command=serve, model="small", files={"bench.toml": BARE}),
        Contender(name=full, command=serve, model="auto", files={"bench.toml": FULL}, environ=traced),
        Contender(name="switchgear, exact hit", shares=full, model="small", repeat=True),
    ]
    if litellm or _litellm_program(LITELLM_VERSION).exists():
        rows.append(_litellm(litellm or LITELLM_VERSION))
    return rows


def _nginx() -> Contender:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    name = "nginx, plain proxy"
    if found is None:
        return Contender(name=name, missing="no nginx found: apt install nginx")
    command = [found, "-p", "{folder}", "-c", "{folder}/nginx.conf"]
    return Contender(name=name, command=command, files={"nginx.conf": NGINX})


def _litellm_program(version: str) -> Path:
    return ROOT / ".cache" / f"bench-litellm-{version}" / "bin" / "litellm"


def _litellm(version: str) -> Contender:
    """Install LiteLLM into an environment of its own, where it is not there yet."""
    program, name = _litellm_program(version), f"LiteLLM {version}"
    # proxy-runtime brings the OpenTelemetry SDK: without it, each request tries to import it again.
    if not installed(program.parents[1], [f"litellm[proxy,proxy-runtime]=={version}"]):
        return Contender(name=name, missing="pip could not install it; its message is above")
    address = ["--host", "127.0.0.1", "--port", "{port}"]
    command = [str(program), "--config", "{folder}/litellm.yaml", *address, "--num_workers", "1"]
    environ = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Contender(name=name, command=command, files={"litellm.yaml": LITELLM_CONFIG}, environ=environ)


def installed(home: Path, packages: Sequence[str]) -> bool:
    """Make an environment with packages in it, where it is not there yet; tells whether it is there now."""
    done = home / "installed"
    if done.exists():
        return True
    print(f"bench: installing {', '.join(packages)} into {home} (some minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "on", *packages]
    if subprocess.run(pip, check=False, stdout=sys.stderr).returncode:
        shutil.rmtree(home)
        return False
    done.touch()
    return True
