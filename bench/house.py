"""A gateway for a measurement of its own, and the bytes that it is asked with."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.contenders import KEY
from bench.processes import free_port, started, wait_for

CONFIG = """
[server]
port = {port}
state_dir = "{folder}"
[database]
url = "sqlite:///{folder}/bench.db"
[cache]
{cache}
{models}
[[keys]]
name = "bench"
key_env = "BENCH_KEY"
{key}
"""


@contextmanager
def gateway(
    folder: Path,
    cores: int | Sequence[int],
    models: str,
    *,
    key: str = "",
    options: Sequence[str] = (),
    cache: str = "exact_ttl_s = 0",
) -> Iterator[tuple[int, int]]:
    """Run a gateway in a folder, without a cache by default; gives its port and process id.

    ``models`` are tables, ``key`` is more about the one key.
    """
    folder.mkdir(exist_ok=True)
    port, config = free_port(), folder / "bench.toml"
    config.write_text(CONFIG.format(port=port, folder=folder, models=models, key=key, cache=cache))
    command = [str(Path(sys.executable).parent / "switchgear"), "serve", "--config", str(config), *options]
    with started(command, cores, {"BENCH_KEY": KEY}, folder) as pid:
        wait_for(f"http://127.0.0.1:{port}/readyz", folder)
        yield port, pid


def request(
    port: int, body: Mapping[str, object], *, path: str = "chat/completions", header: str = ""
) -> bytes:
    """Give the bytes of one request; ``header`` is one line more of its head."""
    data = json.dumps(body, separators=(",", ":")).encode()
    head = [f"POST /v1/{path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"authorization: Bearer {KEY}"]
    head += ["content-type: application/json", f"content-length: {len(data)}", *([header] if header else [])]
    return "\r\n".join([*head, "", ""]).encode() + data
