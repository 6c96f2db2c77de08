"""Nothing jumps: what is on the screen stays where it is while the rest of a page comes."""

import pytest
from playwright.sync_api import Browser

from tests.browser.visit import NARROW, PAGES, STILL, TABS, details, visit
from tests.integration.gateway import Gateway


def test_a_jump_would_be_seen(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("health")
        assert tab.jumped()[0] < STILL
        tab.page.evaluate("document.querySelector('main').style.marginTop = '40px'")
        tab.page.wait_for_function("jumps.length > 0")
        assert tab.jumped()[0] > STILL


@pytest.mark.parametrize("width", [NARROW, pytest.param(1280, marks=pytest.mark.soak)])
def test_nothing_jumps_on_much_data(chromium: Browser, full: Gateway, width: int) -> None:
    with visit(chromium, full, width=width) as tab:
        tab.by_key()
        for path in (*PAGES, *TABS, *details(full)):
            tab.open(path)
            moved, what = tab.jumped()
            assert moved < STILL, (path, what)


@pytest.mark.parametrize("width", [1280, pytest.param(NARROW, marks=pytest.mark.soak)])
def test_nothing_jumps_with_nothing(chromium: Browser, bare: Gateway, width: int) -> None:
    with visit(chromium, bare, width=width) as tab:
        tab.by_key()
        for path in (*PAGES, *TABS):
            tab.open(path)
            moved, what = tab.jumped()
            assert moved < STILL, (path, what)
