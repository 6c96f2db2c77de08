"""The gateway's memory: what a stream under way takes, and that mixed traffic leaves nothing behind."""

import asyncio
import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.gateway import (
    Gateway,
    Upstreams,
    chat_request,
    config,
    model,
    read_until,
    running,
    unique,
)

MIB = 2**20
STREAM_LIMIT_BYTES = 150_000
GROWTH_LIMIT_MIB = 4.0
SETTLED_MIB = 2.5  # of growth over 1,500 requests: less than 2 KiB for each
CLIENTS = 24
PATIENCE_S = 300.0  # of a busy machine

House = tuple[Gateway, Upstreams]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    upstreams = Upstreams(4)
    patient = {"max_concurrency": 1000, "stall_timeout_s": 600.0, "first_byte_timeout_s": 600.0}
    models = model("steady", upstreams.ports[:2], **patient)
    models += model("shaky", upstreams.ports[2:], **patient)
    small_cache = "exact_ttl_s = 2\nmax_bytes = 1000000"
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    gateway = Gateway(tmp_path, config(models, directory=tmp_path, cache=small_cache), **nowhere)
    with running(gateway, upstreams):
        until(gateway.ready)
        yield gateway, upstreams


def rss_mib(gateway: Gateway) -> float:
    pages = int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def hold(house: House, count: int) -> float:
    """Hold so many streams in their middle, then let all end well; gives the bytes that each one took."""
    gateway, upstreams = house
    tag = unique()
    request = chat_request("steady", script("ok", tag=tag, lockstep=True, n=4), stream=True)
    before_mib = rss_mib(gateway)
    streams: list[socket.socket] = []
    try:
        for number in range(count):
            streams.append(gateway.connect())
            streams[-1].settimeout(PATIENCE_S)
            streams[-1].sendall(request)
            if not number % 50:  # no more than a listener's backlog at once
                until(lambda wanted=number + 1: gateway.metric("switchgear_running") >= wanted)  # type: ignore[misc]
        until(lambda: gateway.metric("switchgear_running") == count)
        upstreams.control(release=tag, times=2 * count)
        for one in streams:
            assert b"data: " in read_until(one, b"data: ")
        took_bytes = (rss_mib(gateway) - before_mib) * MIB / count
        upstreams.control(release=tag, times=20 * count)
        for one in streams:
            assert b"data: [DONE]" in read_until(one, b"data: [DONE]")
    finally:
        for one in streams:
            one.close()
    until(gateway.idle, PATIENCE_S)
    return took_bytes


def test_streams_under_way_take_little(house: House) -> None:
    hold(house, 100)
    assert hold(house, 200) < STREAM_LIMIT_BYTES


@pytest.mark.soak
def test_fifteen_hundred_streams_at_once(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    took_bytes = hold(house, 1500)
    hold(house, 1500)
    before_mib = rss_mib(house[0])
    hold(house, 1500)
    growth_mib = rss_mib(house[0]) - before_mib
    with capsys.disabled():
        print(f"\n1,500 streams: {took_bytes:,.0f} bytes each; the third time {growth_mib:+.1f} MiB remained")
    assert took_bytes < STREAM_LIMIT_BYTES
    assert growth_mib < 10  # 7 kB a stream: what circles of objects left behind before they were undone


async def client(gateway: Gateway, draw: random.Random, going: Callable[[], bool]) -> int:
    """Send one request after another, each with its own fate, until told to stop; gives how many."""
    sent = 0
    while going():
        request, marks = fate(draw)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            writer.write(request)
            if marks:
                data = b""
                while not all(mark in data for mark in marks) and (piece := await reader.read(65536)):
                    data += piece
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        sent += 1
    return sent


def fate(draw: random.Random) -> tuple[bytes, tuple[bytes, ...]]:
    """Draw a request and how much of its answer the client waits for."""
    whole, ended = (b"}", b"\r\n\r\n"), (b"0\r\n\r\n",)
    tag = f"{draw.randrange(10**9)}"
    match draw.randrange(8):
        case 0 | 1:  # fills the cache and pushes others out of it
            return chat_request("steady", script("ok", tag=tag, size=2000)), whole
        case 2:  # often found in the cache
            return chat_request("steady", script("ok", tag=f"common-{draw.randrange(5)}")), whole
        case 3:
            return chat_request("steady", script("ok", tag=tag, n=20), stream=True), ended
        case 4:  # leaves in the middle
            return chat_request("steady", script("ok", tag=tag, n=20, gap_s=0.01), stream=True), (b"data: ",)
        case 5:  # leaves at once
            return chat_request("steady", script("ok", tag=tag, gap_s=0.01)), ()
        case 6:
            fault = draw.choice(
                ["500", "400", "429", "fin:2", "rst:1", "malformed:1", "early-end:2", "503-after"]
            )
            return chat_request("shaky", script(fault, "ok", tag=tag), stream=draw.random() < 0.5), (
                b"\r\n\r\n",
            )
        case _:
            name = draw.choice(["absent", "steady"])
            return chat_request(name, "x").replace(b"Bearer", b"Wrong"), whole


def traffic(house: House, seed: int, going: Callable[[], bool]) -> int:
    async def main() -> int:
        draws = [random.Random(seed * 1000 + number) for number in range(CLIENTS)]
        return sum(await asyncio.gather(*(client(house[0], draw, going) for draw in draws)))

    sent = asyncio.run(main())
    house[1].control(forget=True)
    until(house[0].idle, PATIENCE_S)
    return sent


def counted(requests: int) -> Callable[[], bool]:
    left = iter(range(requests))
    return lambda: next(left, None) is not None


def test_mixed_traffic_leaves_nothing_behind(house: House) -> None:
    """The short form: the memory settles. 2 KiB kept for each request would let no round pass."""
    traffic(house, 1, counted(1500))
    rounds_mib = [rss_mib(house[0])]
    for seed in range(2, 7):
        traffic(house, seed, counted(1500))
        rounds_mib.append(rss_mib(house[0]))
        if rounds_mib[-1] - rounds_mib[-2] < SETTLED_MIB:
            return
    pytest.fail(f"the memory grew in each round of 1,500 requests: {rounds_mib} MiB")


@pytest.mark.soak
def test_mixed_traffic_for_minutes(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    minutes, seed = float(os.environ.get("MINUTES", "20")), int(os.environ.get("SEED", "1"))
    began_s = time.monotonic()
    sent = 0
    samples: list[tuple[float, float]] = []
    while (now_s := time.monotonic() - began_s) < minutes * 60:
        until_s = time.monotonic() + 5
        sent += traffic(house, seed + len(samples), lambda until_s=until_s: time.monotonic() < until_s)  # type: ignore[misc]
        samples.append((now_s / 60, rss_mib(house[0])))
    later = samples[len(samples) // 3 :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    middle, last = later[: len(later) // 2], later[len(later) // 2 :]
    growth_mib = statistics.median(one for _, one in last) - statistics.median(one for _, one in middle)
    with capsys.disabled():
        print(f"\n{sent} requests, seed {seed}: {later[-1][1]:.0f} MiB, {slope:+.2f} MiB a minute")
        print("MiB after each round:", *(f"{one:.0f}" for _, one in samples))
    assert growth_mib < GROWTH_LIMIT_MIB
