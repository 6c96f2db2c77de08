"""Spot notices: what each cloud's metadata service says, by a server that speaks as they do."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gateway.outbound.notices import Cloud, NoMetadata, notice_s

NOW_S = 1_795_400_000.0


class Metadata:
    """What the service answers, by path: a status and a body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.url = ""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    found = Metadata()
    with served(found):
        yield found


@contextlib.contextmanager
def served(found: Metadata) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert self.headers["x-aws-ec2-metadata-token-ttl-seconds"]
            self._send(200, b"token")

        def do_GET(self) -> None:
            if "/meta-data/" in self.path and self.headers["x-aws-ec2-metadata-token"] != "token":
                self._send(401, b"")
            elif "computeMetadata" in self.path and self.headers["metadata-flavor"] != "Google":
                self._send(403, b"")
            elif "scheduledevents" in self.path and self.headers["metadata"] != "true":
                self._send(400, b"")
            else:
                self._send(*found.answers.get(self.path, (404, b"")))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


AWS = "/latest/meta-data/spot/instance-action"
GCP = "/computeMetadata/v1/instance/preempted"
AZURE = "/metadata/scheduledevents?api-version=2020-07-01"


def events(*found: dict[str, Any]) -> bytes:
    return json.dumps({"DocumentIncarnation": 1, "Events": list(found)}).encode()


@pytest.mark.parametrize(
    ("cloud", "path", "status", "body", "left_s"),
    [
        ("aws", AWS, 404, b"", None),
        ("aws", AWS, 200, b'{"action": "terminate", "time": "2026-11-23T01:35:20Z"}', 120.0),
        ("gcp", GCP, 200, b"FALSE", None),
        ("gcp", GCP, 200, b"TRUE\n", 30.0),
        ("azure", AZURE, 200, events(), None),
        ("azure", AZURE, 200, events({"EventType": "Reboot", "NotBefore": ""}), None),
        (
            "azure",
            AZURE,
            200,
            events({"EventType": "Preempt", "NotBefore": "Mon, 23 Nov 2026 01:33:50 GMT"}),
            30.0,
        ),
        ("azure", AZURE, 200, events({"EventType": "Preempt", "NotBefore": ""}), 0.0),
    ],
)
def test_what_a_cloud_says(
    metadata: Metadata, cloud: Cloud, path: str, status: int, body: bytes, left_s: float | None
) -> None:
    metadata.answers[path] = (status, body)
    now_s = 1795397600.0  # 2026-11-23T01:33:20Z
    assert asyncio.run(notice_s(cloud, now_s, metadata.url)) == left_s


@pytest.mark.parametrize(
    ("cloud", "path", "status", "body"),
    [
        ("aws", AWS, 500, b""),
        ("aws", AWS, 200, b'{"action": "terminate"}'),
        ("aws", AWS, 200, b"not JSON"),
        ("gcp", GCP, 503, b""),
        ("azure", AZURE, 200, b"{}"),
    ],
)
def test_what_is_no_answer(metadata: Metadata, cloud: Cloud, path: str, status: int, body: bytes) -> None:
    metadata.answers[path] = (status, body)
    with pytest.raises(NoMetadata, match=cloud):
        asyncio.run(notice_s(cloud, NOW_S, metadata.url))


def test_a_service_that_is_not_there() -> None:
    with pytest.raises(NoMetadata, match="does not answer"):
        asyncio.run(notice_s("gcp", NOW_S, "http://127.0.0.1:9"))
