"""A server that webhooks are sent to: it keeps what comes and answers as it is told."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"


HANG, CUT = -1, 0


class Message(msgspec.Struct, frozen=True):
    """One request as it came; headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return msgspec.json.decode(self.body)


class Receiver:
    """``script`` says by path which statuses are given, one after the other; then 204.

    HANG answers nothing until the sender has left, CUT closes the connection without a word.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.script: dict[str, list[int]] = {}
        self.port = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str, event: str | None = None) -> list[Message]:
        """Give what came to a path, of a type or all."""
        found = [one for one in list(self.messages) if one.path == path]
        return [one for one in found if event is None or one.content["type"] == event]

    @contextlib.contextmanager
    def open(self) -> Iterator["Receiver"]:
        """Listen within the block, each time on the same port."""
        server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def documented_verify() -> Callable[..., None]:
    """Give the function that the document tells receivers to use."""
    block = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)  # the document's own example is what is tested
    found: Callable[..., None] = names["verify"]
    return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            statuses = receiver.script.get(self.path, [])
            status = statuses.pop(0) if statuses else 204
            receiver.messages.append(Message(self.path, headers, body))
            if status in (HANG, CUT):
                self.close_connection = True
                if status == HANG:
                    self.rfile.read()
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", receiver.url("/elsewhere"))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
