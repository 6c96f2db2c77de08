"""The admin API is as it describes itself: schemathesis asks a real gateway everything the schema allows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.golden import check_golden
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, Tenant, emptied, open_gateway
from tests.integration.gateway import Gateway, Upstreams, call, running

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")


@pytest.fixture(scope="module")
def door(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on PostgreSQL, which takes less than SQLite does."""
    upstreams = Upstreams(1)
    directory = tmp_path_factory.mktemp("schema")
    with running(open_gateway(directory, emptied(postgres), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        Tenant(gateway)
        yield gateway


@pytest.fixture(scope="module")
def schema(door: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(door.port, "GET", "/schema")[2])
    return found


def test_the_consoles_client_is_made_from_this_description(schema: dict[str, Any]) -> None:
    """REGOLD=1 writes it anew; `make console` then says which pages no longer fit."""
    check_golden("../../dashboards/console/schema.json", json.dumps(schema, indent=4) + "\n")


def asked_everything(door: Gateway, *options: str) -> None:
    settings = Path(__file__).with_name("schemathesis.toml")
    command = [
        SCHEMATHESIS, "--config-file", str(settings), "--no-color",
        "run", f"http://127.0.0.1:{door.port}/schema", "--header", f"Authorization: Bearer {ADMIN}",
        "--workers", "1", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=door.directory)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.soak
def test_schemathesis_finds_nothing(door: Gateway) -> None:
    asked_everything(door, "--phases", "coverage", "--seed", "1")


@pytest.mark.soak
def test_schemathesis_finds_nothing_in_many_examples(door: Gateway) -> None:
    asked_everything(door, "--max-examples", "100", "--seed", os.environ.get("SEED", "1"))


def test_everything_is_described(schema: dict[str, Any]) -> None:
    assert schema["openapi"].startswith("3.1")
    for path, operations in schema["paths"].items():
        assert path.startswith("/admin/v1/")
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["security"]
            assert {"400", "401", "503"} <= set(operation["responses"]), path


def test_the_schema_asks_for_nothing_from_another_host(door: Gateway) -> None:
    for path in ("/schema", "/schema/openapi.json"):
        status, headers, body = call(door.port, "GET", path)
        assert (status, headers["content-type"]) == (200, "application/vnd.oai.openapi+json")
        assert b"http://" not in body
        assert b"https://" not in body
    assert call(door.port, "GET", "/schema/swagger")[0] == 404
