"""The thundering herd: ``python -m bench.herd``. So many equal requests at once, with coalescing and without.

Both rows ask the same gateway in turn, the second with ``x-switchgear-coalesce: off``. Behind it stands one
replica that serves ``SLOTS`` requests at once, as an engine's batch does, each in ``SERVICE_S``; the upstream
counts its calls. Times are the clients' own, in milliseconds; the cache is off, so that nothing else helps.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.house import gateway, request
from bench.processes import cpu_s, free_port
from bench.upstream import WHOLE

SERVICE_S = 0.2
SLOTS = 16
RESULTS = Path(__file__).parent / "herd.json"


class Upstream(asyncio.Protocol):
    """Answers after a while, and counts."""

    calls = 0

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request: they are small and come whole."""
        if data.startswith(b"GET"):
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return
        Upstream.calls += 1
        asyncio.get_running_loop().call_later(SERVICE_S, self._transport.write, WHOLE)


def model(upstream: int) -> str:
    """Give the model of the one replica."""
    return f"""
[[models]]
name = "bench"
price = {{ input = 0.05, output = 0.20 }}
queue_limit = 100000
[[models.replicas]]
url = "http://127.0.0.1:{upstream}/v1"
max_concurrency = {SLOTS}
"""


def asked(port: int, number: int, coalesce: str) -> bytes:
    """Give the bytes of one herd's request."""
    messages = [{"role": "user", "content": f"Herd {number}: what is the capital of France? " * 10}]
    body = {"model": "bench", "messages": messages, "temperature": 0}
    return request(port, body, header=f"x-switchgear-coalesce: {coalesce}")


async def herd(port: int, size: int, number: int, coalesce: str) -> list[float]:
    """Ask all at once over open connections; gives each client's seconds."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(size)]
    data = asked(port, number, coalesce)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        began_s = time.perf_counter()
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"bench: {head.decode()}")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return time.perf_counter() - began_s

    try:
        return await asyncio.gather(*(one(*connection) for connection in connections))
    finally:
        for _, writer in connections:
            writer.close()


async def measured(port: int, pid: int, size: int, rounds: int, coalesce: str) -> dict[str, float]:
    """Give one row: the medians of the rounds."""
    rows = []
    for number in range(rounds):
        calls, cpu = Upstream.calls, cpu_s(pid)
        times_s = sorted(await herd(port, size, number, coalesce))
        rows.append(
            {
                "upstream_calls": float(Upstream.calls - calls),
                "p50_ms": times_s[size // 2] * 1000,
                "p99_ms": times_s[min(size - 1, size * 99 // 100)] * 1000,
                "cpu_us_per_request": (cpu_s(pid) - cpu) / size * 1e6,
            }
        )
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


async def run(size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Start everything and measure both rows."""
    upstream = free_port()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", upstream)
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # In a thread: it waits until the gateway has seen the upstream, which answers from this one.
        port, pid = await asyncio.to_thread(
            stack.enter_context, gateway(made / "gateway", 1, model(upstream))
        )
        await herd(port, 50, -1, "on")
        found = {
            name: await measured(port, pid, size, rounds, coalesce)
            for name, coalesce in (("coalescing", "on"), ("without", "off"))
        }
    server.close()
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="bench.herd", description=__doc__)
    parser.add_argument("--size", type=int, default=500, help="requests at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = asyncio.run(run(options.size, options.rounds))
    print(f"{options.size} equal requests at once, {SLOTS} slots of {SERVICE_S * 1000:.0f} ms")
    for name, row in found.items():
        print(f"{name:12}" + "".join(f"  {key} {value:.0f}" for key, value in row.items()))
    options.out.write_text(json.dumps({"size": options.size, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
