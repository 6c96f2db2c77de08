"""Long walks: every page in either light, narrow and wide, with nothing, much, and a million requests."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import books
from tests.browser.conftest import opened
from tests.browser.visit import NARROW, PAGES, SHOTS, STILL, TABS, Visit, details, kept, visit
from tests.fakes.processes import until
from tests.integration.gateway import Gateway, Upstreams, running

pytestmark = pytest.mark.soak
Scheme = Literal["light", "dark"]
LOOKS = [("light", NARROW), ("dark", NARROW), ("dark", 1280), ("light", 2200)]
MILLION = 1_000_000


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose ledger holds a million requests of a month."""
    upstreams = Upstreams(2)
    with running(opened(tmp_path_factory.mktemp("vast"), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        books.fill(gateway, MILLION)
        yield gateway


def looked_at(tab: Visit, path: str, name: str) -> None:
    """Open a page: nothing serious for axe, nothing wider than the window, a picture to look at."""
    tab.open(path)
    kept(tab, f"{name}-{path.partition('/')[0].replace('?', '-') or 'overview'}{'-one' * ('/' in path)}")
    assert tab.barriers() == [], path
    assert not tab.wider_than_the_window(), path
    assert tab.cut_off() == [], path
    moved, what = tab.jumped()
    assert moved < STILL, (path, what)


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_every_page_on_much_data(chromium: Browser, full: Gateway, scheme: Scheme, width: int) -> None:
    with visit(chromium, full, scheme=scheme, width=width) as tab:
        tab.page.goto(f"{tab.root}/console")
        tab.page.get_by_role("button", name="Sign in").wait_for()
        assert tab.barriers() == []
        kept(tab, f"{scheme}-{width}-sign-in")
        tab.by_key()
        for path in (*PAGES, *TABS, *details(full)):
            looked_at(tab, path, f"{scheme}-{width}")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_every_page_with_nothing(chromium: Browser, bare: Gateway, scheme: Scheme, width: int) -> None:
    with visit(chromium, bare, scheme=scheme, width=width) as tab:
        tab.by_key()
        for path in (*PAGES, *TABS):
            looked_at(tab, path, f"empty-{scheme}-{width}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dialogs_are_as_good_as_pages(chromium: Browser, full: Gateway, scheme: Scheme) -> None:
    asked = {
        "fleet": ("Drain", "Sleep", "Reclaim", "Details"),
        "tenants": ("New organisation",),
        "keys": ("New key",),
        "people": ("New account", "Change"),
        "webhooks": ("New webhook",),
        "billing": ("New price", "End"),
        "billing?tab=credit": ("Book",),
        "cache": ("Purge all",),
        "settings": ("Read the file again",),
    }
    with visit(chromium, full, scheme=scheme, width=NARROW) as tab:
        tab.by_key()
        for path, names in asked.items():
            tab.open(path)
            for name in names:
                tab.page.get_by_role("button", name=name, exact=True).first.click()
                expect(tab.within()).to_be_visible()
                assert tab.barriers() == [], name
                kept(tab, f"dialog-{scheme}-{name.lower().replace(' ', '-')}")
                tab.page.keyboard.press("Escape")
                expect(tab.within()).to_have_count(0)


def test_a_million_requests(chromium: Browser, vast: Gateway) -> None:
    """Pages open, lists turn their pages; how long each took is kept beside the pictures."""
    took_ms: dict[str, int] = {}
    with visit(chromium, vast) as tab:
        tab.by_key()
        filters = (
            "requests?org=tenant-001", "requests?status=error,interrupted", "requests?status=stopped",
            "requests?source=joined&model=large", "usage?days=90&by=key_id", "?span=24h",
        )  # fmt: skip
        for path in (*PAGES, *TABS, *filters, *details(vast)):
            started_s = time.perf_counter()
            tab.shown(path)
            took_ms[path or "overview"] = round((time.perf_counter() - started_s) * 1000)
            kept(
                tab,
                f"million-{path.partition('/')[0].replace('?', '-') or 'overview'}{'-one' * ('/' in path)}",
            )
            assert tab.page.get_by_role("alert").count() == 0, path
        tab.open("requests")
        seen: set[str] = set()
        for number in range(1, 11):
            expect(tab.page.get_by_text(f"Page {number}", exact=True)).to_be_visible()
            rows = tab.page.locator("tbody a").evaluate_all("links => links.map(one => one.pathname)")
            assert not seen & set(rows)
            seen |= set(rows)
            started_s = time.perf_counter()
            tab.press("Next")
            expect(tab.page.get_by_text(f"Page {number + 1}", exact=True)).to_be_visible()
            tab.page.locator("table:not(.busy)").wait_for()
            took_ms[f"requests, page {number + 1}"] = round((time.perf_counter() - started_s) * 1000)
        assert len(seen) == 500
    Path(SHOTS / "million.json").write_text(json.dumps(took_ms, indent=1))
