"""Fills a gateway with tenants through its own door, and its ledger with a month of requests of theirs.

Every stored name tries to be markup: what shows it as anything but text is found out.
"""

import itertools
import random
import time
from collections.abc import Iterator

from gateway import database
from gateway.tenancy import ledger
from gateway.tenancy.journal import Entry
from tests.integration.admin import good
from tests.integration.gateway import Gateway

EVIL = "<img src=x onerror=alert(1)>"
MONTH_S = 30 * 86400.0
BATCH = 20_000


def tenants(gateway: Gateway, organisations: int) -> list[tuple[str, str, str]]:
    """Make organisations with projects and keys; gives organisation, project and key id of every key."""
    made = []
    for number in range(organisations):
        org = f"{EVIL} {number}" if number % 7 == 3 else f"tenant-{number:03d}"
        terms = {"rpm": 600, "budget_nanousd": 1_500_000_000} if number % 3 else {}
        good(gateway, "POST", "orgs", {"name": org, "title": f"Tenant {number} {EVIL}", "terms": terms})
        for project in ("chat", "search")[: 1 + number % 2]:
            wish = {"org": org, "name": project, "title": f"{project} \"'><script>alert(2)</script>"}
            project_id = good(gateway, "POST", "projects", wish)["id"]
            for name in (f"web {EVIL}", "batch"):
                key = good(gateway, "POST", "keys", {"project_id": project_id, "name": name})
                made.append((org, project, key["id"]))
    return made


def entries(keys: list[tuple[str, str, str]], rows: int, until_s: float, seed: int = 1) -> Iterator[Entry]:
    """Give a month of requests of these keys in order of time, the last hour the busiest."""
    chance = random.Random(seed)
    for number in range(rows):
        share = number / rows
        ts = until_s - MONTH_S * (1 - share) if number % 8 else until_s - 3600.0 * (1 - share)
        org, project, key_id = keys[min(int(chance.paretovariate(0.9)), len(keys)) - 1]
        large = chance.random() < 0.25
        source = chance.choices(("upstream", "hit-exact", "hit-semantic", "joined"), (70, 15, 10, 5))[0]
        full = (3200 if large else 400) * chance.randint(40, 900)
        yield Entry(
            request_id=f"req_{chance.getrandbits(128):032x}",
            ts=ts,
            org=org,
            project=project,
            key_id=key_id,
            model="large" if large else "small",
            route="auto" if chance.random() < 0.7 else "",
            status=chance.choices(("ok", "error", "refused"), (96, 2, 2))[0],
            prompt_tokens=chance.randint(20, 1800),
            cached_tokens=16,
            completion_tokens=chance.randint(5, 700),
            amount_nanousd=full if source == "upstream" else full // 10,
            price_version="p-0123456789abcdef",
            source=source,
            attempts=2 if chance.random() < 0.03 else 1,
            replicas="large-0" if large else "small-0",
            estimated=False,
            baseline_nanousd=full * (1 if large else 8),
            operation="chat",
            metadata='{"team": "<b>red</b>"}' if number % 4 == 0 else "",
        )


def fill(gateway: Gateway, rows: int, organisations: int = 60) -> None:
    """Make tenants, and write so many requests of theirs into the gateway's ledger."""
    keys = tenants(gateway, organisations)
    engine = database.connect(f"sqlite:///{gateway.directory / 'gateway.db'}")
    source = entries(keys, rows, time.time())
    while batch := list(itertools.islice(source, BATCH)):
        ledger.insert(engine, batch)
    engine.dispose()
