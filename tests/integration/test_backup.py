"""Backup and restore by the very commands of the documentation, from a gateway that goes on serving."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway import database
from tests.fakes.processes import until
from tests.integration.admin import Tenant, chat, good, open_gateway
from tests.integration.gateway import COMMAND, ROOT, Gateway, Upstreams, running, unique

COST = 15_500


def commands(kind: str) -> tuple[str, str]:
    """Give what the documentation says for backup and restore."""
    text = (ROOT / "docs" / "admin.md").read_text().partition("## Backup")[2].partition(f"**{kind}**")[2]
    backup, restore = (part.partition("```")[0] for part in text.split("```sh\n")[1:3])
    return backup, restore


def run(command: str, directory: Path, **environ: str) -> None:
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=directory,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def proof(gateway: Gateway) -> dict[str, Any]:
    command = [COMMAND, "ledger", "reconcile", "--config", str(gateway.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def restored(
    gateway: Gateway, directory: Path, backup: str, restore: str, **environ: str
) -> tuple[set[str], set[str]]:
    """Back up under traffic, go on, restore; gives the requests that were answered and those in the books."""
    tenant = Tenant(gateway, credit="prepaid")
    good(gateway, "POST", "credits", {"kind": "grant", "amount_usd": 1, "key_id": tenant.key_id})
    over = threading.Event()

    def asking() -> set[str]:
        asked = set()
        while not over.is_set():
            status, headers, body = chat(gateway, tenant.key, unique())
            assert status == 200, body
            asked.add(headers["x-request-id"])
        return asked

    def booked() -> int:
        return sum(one["requests"] for one in good(gateway, "GET", f"usage?key_id={tenant.key_id}")["data"])

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(asking) for _ in range(2)]
        try:
            until(lambda: booked() > 5)
            run(backup, directory, **environ)
            before = booked()
            until(lambda: booked() > before + 20)
        finally:
            over.set()
        asked = {one for client in clients for one in client.result()}
    late = tenant.make_key()[1]
    gateway.stop()
    run(restore, directory, **environ)
    gateway.start()
    until(gateway.ready, 60.0)
    assert "the database comes from a backup" in gateway.logged()
    assert chat(gateway, late)[0] == 401, "what was changed after the backup is lost"
    assert booked() == len(asked)
    assert good(gateway, "GET", f"balance?account=key:{tenant.key_id}")[
        "balance_nanousd"
    ] == 10**9 - COST * len(asked)
    report = proof(gateway)
    assert report["rows"] == report["journal_entries"] == len(asked)
    gateway.stop()
    gateway.start()
    until(gateway.ready, 60.0)
    assert gateway.logged().count("the database comes from a backup") == 1
    found = subprocess.run(
        [COMMAND, "ledger", "export", "--config", str(gateway.config)],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    return asked, {json.loads(line)["request_id"] for line in found.splitlines()}


def test_sqlite(tmp_path: Path) -> None:
    upstreams = Upstreams(1)
    directory = tmp_path / "g"
    with running(
        open_gateway(directory, f"sqlite:///{directory / 'switchgear.db'}", upstreams), upstreams
    ) as both:
        until(both[0].ready)
        (directory / ".venv").symlink_to(ROOT / ".venv")
        asked, found = restored(both[0], directory, *commands("SQLite"))
    assert asked == found


@pytest.mark.soak
def test_postgresql(tmp_path: Path, start_postgres: Callable[[Path], Any]) -> None:
    server = start_postgres(tmp_path / "postgres")
    upstreams = Upstreams(1)
    directory = tmp_path / "g"
    with running(open_gateway(directory, server.get_uri(), upstreams), upstreams) as both:
        until(both[0].ready)
        path = f"{server.bin_path}{os.pathsep}{os.environ['PATH']}"
        backup, restore = commands("PostgreSQL")
        newer = """psql --command='CREATE TABLE newer (a int)' "$DATABASE_URL"\n"""
        environ = {"PATH": path, "DATABASE_URL": server.get_uri()}
        asked, found = restored(both[0], directory, backup, newer + restore, **environ)
        engine = database.connect(server.get_uri())
        assert "newer" not in sa.inspect(engine).get_table_names(), "a later upgrade would trip over it"
        engine.dispose()
    server.cleanup()
    assert asked == found
