"""A client that leaves: the real engine stops working for it, and only what was delivered is billed."""

import json
import re
import secrets
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.api.inference import new_request_id
from tests.appliance import Appliance, fetch
from tests.fakes.processes import until

ENDLESS = {"model": "small", "max_tokens": 3500, "ignore_eos": True, "temperature": 0}


def working(appliance: Appliance) -> int:
    """How many requests the engine runs or holds."""
    url = appliance.direct("small-0").removesuffix("/v1") + "/metrics"
    text = fetch(url, method="GET").body.decode()
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)
    assert len(found) == 2, found
    return int(sum(map(float, found)))


def sent(appliance: Appliance) -> int:
    """How many requests the gateway has with the engine."""
    text = fetch(f"{appliance.root}/metrics", method="GET").body.decode()
    found = re.search(r'^switchgear_running\{model="small"\} (\S+)$', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def send(appliance: Appliance, prompt: str, path: str = "chat/completions", **fields: Any) -> socket.socket:
    """Send a request on a bare connection that the test may drop at any point."""
    said = (
        {"prompt": prompt} if path == "completions" else {"messages": [{"role": "user", "content": prompt}]}
    )
    body = json.dumps({**ENDLESS, **said, **fields}).encode()
    where = urlsplit(appliance.base_url)
    connection = socket.create_connection((where.hostname or "", where.port or 0), timeout=120)
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {appliance.api_key}\r\n"
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.fixture
def idle(appliance: Appliance) -> Iterator[str]:
    """Nothing runs before and after; gives what the ids of later requests are greater than: their time."""
    until(lambda: working(appliance) == 0)
    yield new_request_id()[: len("req_0123456789ab")]
    until(lambda: working(appliance) == 0)
    assert sent(appliance) == 0


def cancelled(appliance: Appliance, after: str) -> dict[str, Any]:
    """Wait for the ledger row of the one later request; it says that the client left."""
    new: list[dict[str, Any]] = []

    def there() -> bool:
        new[:] = [row for request_id, row in appliance.ledger().items() if request_id > after]
        return bool(new)

    until(there, 60.0)
    (row,) = new
    assert (row["status"], row["model"], row["attempts"]) == ("cancelled", "small", 1)
    return row


def test_in_the_middle_of_a_stream(appliance: Appliance, idle: str) -> None:
    with send(appliance, "Count.", stream=True) as connection:
        data = b""
        while data.count(b'"content":') < 8:
            data += connection.recv(65536)
        assert working(appliance) == 1
    until(lambda: working(appliance) == 0)
    row = cancelled(appliance, idle)
    delivered = data.count(b'"content":') - 1  # the first chunk says the role, with an empty content
    assert delivered <= row["completion_tokens"] < 3500
    assert row["prompt_tokens"] > 0
    assert row["amount_nanousd"] == row["prompt_tokens"] * 50 + row["completion_tokens"] * 200
    assert not row["estimated"]


def test_before_the_first_byte(appliance: Appliance, idle: str) -> None:
    # The gateway says at once that it was sent; the engine, between two steps of the prompt, hardly ever.
    long = f"{secrets.token_hex(8)} " + "The quick brown fox jumps over the lazy dog. " * 320
    with send(appliance, long, stream=True, max_tokens=400):
        until(lambda: sent(appliance) == 1)
    until(lambda: sent(appliance) == 0 and working(appliance) == 0, 100.0)
    row = cancelled(appliance, idle)
    assert (row["prompt_tokens"], row["completion_tokens"], row["amount_nanousd"]) == (0, 0, 0)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_while_a_buffered_answer_is_made(appliance: Appliance, idle: str, path: str) -> None:
    with send(appliance, "Count.", path):
        until(lambda: working(appliance) == 1)
    until(lambda: working(appliance) == 0)
    row = cancelled(appliance, idle)
    assert (row["completion_tokens"], row["amount_nanousd"]) == (0, 0)  # nothing was delivered


def test_in_the_middle_of_a_streamed_text(appliance: Appliance, idle: str) -> None:
    with send(appliance, "One, two, three,", "completions", stream=True) as connection:
        data = b""
        while data.count(b'"text":') < 8:
            data += connection.recv(65536)
        assert working(appliance) == 1
    until(lambda: working(appliance) == 0)
    row = cancelled(appliance, idle)
    assert data.count(b'"text":') <= row["completion_tokens"] < 3500
    assert row["amount_nanousd"] == row["prompt_tokens"] * 50 + row["completion_tokens"] * 200
