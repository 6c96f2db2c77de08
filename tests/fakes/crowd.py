"""Many clients at once: raw HTTP, so that each one's bytes are seen as they came."""

import asyncio
import json
from collections.abc import Sequence

import msgspec

TIMEOUT_S = 60.0


class Got(msgspec.Struct):
    """What one client got: status, headers in lower case, the body without its framing."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(port: int, request: bytes) -> Got:
    """Send one request, which should ask for ``connection: close``, and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            data = await reader.read()
    finally:
        writer.close()
    return parsed(data)


def parsed(data: bytes) -> Got:
    """Read one answer; one that breaks off gives what there is."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    body = unchunked(rest) if headers.get("transfer-encoding") == "chunked" else rest
    return Got(int(lines[0].split()[1]), headers, body)


def unchunked(data: bytes) -> bytes:
    """Take the framing of a chunked body away."""
    found = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        found += rest[:length]
        data = rest[length + 2 :]
    return found


def content(got: Got) -> str:
    """Give the text of an answer in either form."""
    if got.headers["content-type"] == "application/json":
        return str(json.loads(got.body)["choices"][0]["message"]["content"])
    events = [event[6:] for event in got.body.decode().split("\n\n") if event.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def crowd(port: int, requests: Sequence[bytes]) -> list[Got]:
    """Ask all at once."""
    return crowd_over([(port, one) for one in requests])


def crowd_over(requests: Sequence[tuple[int, bytes]]) -> list[Got]:
    """Ask all at once, each at its port."""

    async def together() -> list[Got]:
        return await asyncio.gather(*(ask(port, one) for port, one in requests))

    return asyncio.run(together())
