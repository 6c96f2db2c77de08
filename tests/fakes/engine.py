"""A small inference server as a real process: standard library only, with the faults that engines have.

`--load-s` waits before it listens, `--crash-after` ends it by itself so many seconds after it listens,
`--token-s` lies before each token of an answer,
`--ignore-sigterm` makes it deaf, `--spawn-child` gives it a grandchild that ignores SIGTERM and, with
`--child-session`, hides in a session of its own, or with `--child-unmarked` loses its environment (as vLLM's
engine core does, which writes its title over it).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHILD = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served_name = "fake"
    token_s = 0.0

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": self.served_name, "object": "model"}]})
        elif self.path == "/metrics":
            lines = ['vllm:num_requests_running{engine="0"} 2', 'vllm:num_requests_waiting{engine="0"} 1']
            self._send(200, "\n".join([*lines, 'vllm:kv_cache_usage_perc{engine="0"} 0.25\n']).encode())
        elif self.path == "/environment":
            self._answer(200, dict(os.environ) | {"cwd": os.getcwd()})
        else:
            self._answer(404, {"error": {"message": "no such address"}})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))))
        if self.path == "/v1/embeddings":
            self._answer(200, {"object": "list", "data": [{"index": 0, "embedding": [0.0, 1.0]}]})
            return
        if request.get("stream"):
            self._stream(request)
            return
        time.sleep(self.token_s)
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
        told = {"model": request.get("model"), "asked_priority": request.get("priority")}
        self._answer(200, {"object": "chat.completion", **told, "choices": [choice]})

    def _stream(self, request: Any) -> None:
        """Answer with four tokens, their times apart, and with usage."""
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": request.get("model")}
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for number in range(4):
            time.sleep(self.token_s)
            finish = "stop" if number == 3 else None
            choice = {"index": 0, "delta": {"content": f"t{number} "}, "finish_reason": finish}
            self._event({**base, "choices": [choice]})
        usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        self._event({**base, "choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, payload: object) -> None:
        self.wfile.write(b"data: " + json.dumps(payload).encode() + b"\n\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        return

    def _answer(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--crash-after", type=float, default=None)
    parser.add_argument("--token-s", type=float, default=0.0)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-child", action="store_true")
    parser.add_argument("--child-session", action="store_true")
    parser.add_argument("--child-unmarked", action="store_true")
    options = parser.parse_args()
    print(f"engine {os.getpid()}", flush=True)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.spawn_child:
        environ: dict[str, str] | None = {} if options.child_unmarked else None
        command = [sys.executable, "-c", CHILD]
        child = subprocess.Popen(command, start_new_session=options.child_session, env=environ)
        print(f"child {child.pid}", flush=True)
    time.sleep(options.load_s)
    if options.crash_after is not None:
        threading.Timer(options.crash_after, lambda: os._exit(3)).start()
    Handler.token_s = options.token_s
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
