"""A real Prometheus and Alertmanager for the tests, unpacked below ``.cache`` by ``make test``."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.fakes.processes import until
from tests.integration.gateway import ROOT, call, end

BINARIES = ROOT / ".cache" / "prometheus" / "usr" / "bin"


def binary(name: str) -> str:
    """Give the path of a program of Prometheus's."""
    path = BINARIES / name
    if not path.exists() and os.environ.get("REQUIRE") != "all":
        pytest.skip(f"{name} is not there: 'make test' unpacks it where apt-get can download")
    return str(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """``prometheus`` that scrapes twice a second; ``jobs`` are names and ports."""

    def __init__(self, directory: Path, jobs: dict[str, list[int]], alertmanager: int | None = None) -> None:
        self.port = free_port()
        rules = (ROOT / "dashboards/prometheus/rules.yml").read_text()
        lines = [line for line in rules.splitlines() if not line.strip().startswith("for:")]
        (directory / "rules.yml").write_text("\n".join(lines))  # an alert need not last before it fires
        settings: dict[str, Any] = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
                for job, ports in jobs.items()
            ],
        }
        if alertmanager is not None:
            targets = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
            settings["alerting"] = {"alertmanagers": targets}
        (directory / "prometheus.yml").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            [
                binary("prometheus"),
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            stderr=subprocess.DEVNULL,
        )
        until(lambda: answers(self.port, "/-/ready"))

    def query(self, expression: str, at_s: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Give what an instant query gives: labels and values; ``at_s`` is its moment, else it is now."""
        moment = {} if at_s is None else {"time": f"{at_s:.3f}"}
        path = "/api/v1/query?" + urlencode({"query": expression, **moment})
        status, _, body = call(self.port, "GET", path)
        found = json.loads(body)
        assert status == 200, f"{expression}: {found}"
        return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]

    def over(
        self, expression: str, from_s: float, to_s: float, step_s: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Give what a range query gives: labels, and moments and values."""
        asked = {"query": expression, "start": f"{from_s:.3f}", "end": f"{to_s:.3f}", "step": str(step_s)}
        status, _, body = call(self.port, "GET", "/api/v1/query_range?" + urlencode(asked))
        assert status == 200, body
        return [
            (one["metric"], [(float(at), float(value)) for at, value in one["values"] if value != "NaN"])
            for one in json.loads(body)["data"]["result"]
        ]

    def value(self, expression: str) -> float:
        """Give the sum over all series; 0 where there is none."""
        return sum(value for _, value in self.query(expression))

    def scraped_s(self, metric: str) -> float:
        """Give the moment of the last scrape that found a metric, in seconds since the epoch."""
        return max(value for _, value in self.query(f"timestamp({metric})"))

    def close(self) -> None:
        end(self.process, signal.SIGTERM)


def answers(port: int, path: str) -> bool:
    """Tell whether an address gives 200."""
    with contextlib.suppress(OSError):
        return call(port, "GET", path)[0] == 200
    return False


@contextlib.contextmanager
def alertmanager(directory: Path) -> Iterator[tuple[int, set[str]]]:
    """Run a real Alertmanager; gives its port, and the alerts that its webhook has delivered."""
    fired: set[str] = set()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fired.update(one["labels"]["alertname"] for one in told["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = free_port()
    route = {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"}
    hook = {"name": "hook", "webhook_configs": [{"url": f"http://127.0.0.1:{server.server_port}/"}]}
    (directory / "alertmanager.yml").write_text(json.dumps({"route": route, "receivers": [hook]}))
    process = subprocess.Popen(
        [
            binary("prometheus-alertmanager"),
            f"--config.file={directory}/alertmanager.yml",
            f"--storage.path={directory}/alerts",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
            "--log.level=error",
        ],
        cwd=BINARIES.parent,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(port, "/-/ready"))
        yield port, fired
    finally:
        end(process, signal.SIGTERM)
        server.shutdown()
        thread.join()
        server.server_close()
