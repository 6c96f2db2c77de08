"""`switchgear up` as a real process: started, looked into, ended, and nothing of it left."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.processes import alive, until

ROOT = Path(__file__).resolve().parents[1]
COMMAND = str(Path(sys.executable).parent / "switchgear")
MARK = "LC_SWITCHGEAR_TEST"
"""Everything that an appliance starts inherits it: `LC_*` is what the launcher lets through."""
NO_NETWORK = {
    "PIP_NO_INDEX": "1",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
}
READY = "SWITCHGEAR_READY "
START_S = 900.0


class Reply:
    """One HTTP answer, read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def payloads(self) -> list[Any]:
        """The `data:` payloads of a stream, `[DONE]` included as it is."""
        events = [event.strip() for event in self.body.decode().split("\n\n")]
        data = [event.removeprefix("data: ") for event in events if event.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


def fetch(
    url: str, body: object = None, headers: Mapping[str, str] | None = None, *, method: str = "POST"
) -> Reply:
    """Send a request (bytes as they are, anything else as JSON) and read the answer."""
    parts = urlsplit(url)
    sent = {"content-type": "application/json", **(headers or {})}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)) as connection:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, data if method == "POST" else None, sent)
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())


class Appliance:
    """One run of `switchgear up`; its stdout and stderr are files of `directory`."""

    def __init__(self, home: Path, directory: Path, *options: str, **environ: str) -> None:
        self.home, self.directory = home, directory
        self.mark = secrets.token_hex(8)
        self.command = [COMMAND, "up", "--home", str(home), "--engine", str(ROOT / ".engine"), *options]
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "MAKELEVEL" and not name.startswith(("SWITCHGEAR", "OPENAI"))
        }
        self.environ = {**kept, "PYTHONPATH": str(ROOT), **environ, MARK: self.mark}
        self.out, self.err = directory / "out.txt", directory / "err.txt"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start the process; it does not serve yet."""
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env=self.environ,
                start_new_session=True,
            )

    def started(self) -> "Appliance":
        """Start, and wait for the ready line; where it does not come, the log is shown."""
        self.start()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait for the ready line and take the addresses from it."""
        until(lambda: READY in self.printed() or not alive(self.process.pid), START_S)
        assert READY in self.printed(), f"{self.logged()}\n{self.engines_logged()}"
        (line,) = [one for one in self.printed().splitlines() if one.startswith(READY)]
        ready = json.loads(line.removeprefix(READY))
        self.base_url, self.api_key, self.admin_key = ready["base_url"], ready["api_key"], ready["admin_key"]
        self.console = ready["console"]
        self.root = self.base_url.removesuffix("/v1")

    def printed(self) -> str:
        return self.out.read_text(errors="replace")

    def logged(self) -> str:
        return self.err.read_text(errors="replace")

    def engines_logged(self, lines: int = 40) -> str:
        """The last lines of each engine's log."""
        logs = sorted(self.home.glob("state/engines/*.log"))
        tails = [log.read_text(errors="replace").splitlines()[-lines:] for log in logs]
        return "\n".join(line for tail in tails for line in tail)

    def direct(self, replica: str) -> str:
        """The base url of a replica that was launched, such as `small-0`."""
        log = (self.home / "state" / "engines" / f"{replica}.log").read_text(errors="replace")
        port = re.findall(rf"^switchgear: starting {replica} on port (\d+)$", log, re.MULTILINE)[-1]
        return f"http://127.0.0.1:{port}/v1"

    def post(
        self, path: str, body: object, headers: Mapping[str, str] | None = None, key: str | None = None
    ) -> Reply:
        """Send a request to the gateway."""
        authorization = {"authorization": f"Bearer {self.api_key if key is None else key}"}
        return fetch(self.base_url + path, body, {**authorization, **(headers or {})})

    def readyz(self) -> Reply:
        return fetch(f"{self.root}/readyz", method="GET")

    def switchgear(self, *arguments: str, **environ: str) -> str:
        """Run another command of this installation beside it; gives its stdout."""
        done = subprocess.run(
            [COMMAND, *arguments],
            capture_output=True,
            text=True,
            env={**self.environ, **environ},
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The ledger as `switchgear ledger export` tells it, by request id."""
        text = self.switchgear("ledger", "export", "--config", str(self.home / "switchgear.toml"))
        rows = [json.loads(line) for line in text.splitlines()]
        assert len({row["request_id"] for row in rows}) == len(rows)
        return {row["request_id"]: row for row in rows}

    def row(self, request_id: str) -> dict[str, Any]:
        """Wait for the ledger row of a request."""
        found: dict[str, dict[str, Any]] = {}

        def there() -> bool:
            found.update(self.ledger())
            return request_id in found

        until(there, 60.0)
        return found[request_id]

    def left(self) -> dict[int, str]:
        """The living processes that it started and itself: process id and command line."""
        entry, found = f"{MARK}={self.mark}".encode(), {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if entry in (directory / "environ").read_bytes().split(b"\0") and alive(int(directory.name)):
                    found[int(directory.name)] = (directory / "cmdline").read_text().replace("\0", " ")
            except OSError:  # gone meanwhile, or somebody else's
                continue
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal and wait; gives its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=300)

    def destroy(self) -> None:
        """End whatever is left; for the end of a test that failed.

        It ends its engines, whose own processes write over the environment that would name them; were it
        killed, they would wait for a next one to take them over. The second signal has it wait for nobody.
        """
        if hasattr(self, "process"):
            for number in (signal.SIGTERM, signal.SIGINT):
                self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=60)
            self.process.kill()
            self.process.wait(timeout=60)
        with suppress(AssertionError):
            until(lambda: not self.left())
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
