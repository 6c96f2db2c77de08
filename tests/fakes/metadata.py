"""A cloud's metadata service: says what a test has it say, and wants the headers that each cloud wants."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AWS = "/latest/meta-data/spot/instance-action"
GCP = "/computeMetadata/v1/instance/preempted"
AZURE = "/metadata/scheduledevents?api-version=2020-07-01"


class Metadata:
    """What the service answers, by path: a status and a body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.url = ""


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
