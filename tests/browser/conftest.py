"""A real Chromium before a real gateway: one with much in it, one with nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser import books
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, good
from tests.integration.gateway import Gateway, Upstreams, config, model, running

PASSWORD = "correct horse battery"
ROUTE = '[[routes]]\nname = "auto"\ntiers = ["small", "large"]\nobjective = { large_share = 0.3 }\n'
TRUSTED = "[webhooks]\nallow_private = true\n"
ELSEWHERE = "gateway.test"  # a name of this machine that the browser takes for another one
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser of this machine: ``CHROMIUM`` or one by its usual names.

    It ends with its file: while it lives, no other test of the process could run an event loop of its own.
    """
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        text = "no Chromium: install one, or name it in CHROMIUM"
        if os.environ.get("REQUIRE") == "all":
            pytest.fail(text)
        pytest.skip(text)
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=found, args=["--no-sandbox", f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"]
        )
        yield browser
        browser.close()


def opened(directory: Path, upstreams: Upstreams) -> Gateway:
    """Start a gateway with two models and a route."""
    tables = model("small", upstreams.ports[:1]) + model("large", upstreams.ports)
    text = config(tables, directory=directory, cache="exact_ttl_s = 3600", more=ROUTE + TRUSTED)
    return Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN, SWITCHGEAR_WEBHOOK_SECRET="w" * 40)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with 60 organisations, a month of 20,000 requests, and people of every role."""
    upstreams = Upstreams(2)
    with running(opened(tmp_path_factory.mktemp("full"), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        books.fill(gateway, 20_000)
        for role in ("owner", "admin", "billing", "viewer"):
            person = {
                "org": "*",
                "email": f"{role}@example.com",
                "name": role,
                "role": role,
                "password": PASSWORD,
            }
            good(gateway, "POST", "people", person)
        lead = {"email": "lead@example.com", "name": books.EVIL, "role": "admin", "password": PASSWORD}
        good(gateway, "POST", "people", {"org": "tenant-000", **lead})
        yield gateway


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that nobody has used."""
    upstreams = Upstreams(2)
    with running(opened(tmp_path_factory.mktemp("bare"), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        yield gateway
