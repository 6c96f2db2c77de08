"""The fleet page before a fleet that launches engines: scaled, put to sleep, woken, reclaimed; their logs.

The engines are fakes that stand for vLLM; the fleet that starts, ends and replaces them is a real one.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.visit import NARROW, Visit, kept, visit
from tests.fakes.processes import until
from tests.integration.admin import ADMIN, good
from tests.integration.gateway import Gateway, config
from tests.integration.test_fleet_apart import FleetProcess

MODEL = """
[[models]]
name = "m"
price = { input = 1.0, output = 2.0 }
[models.launch]
weights = "hub/model"
min_replicas = 1
max_replicas = 3
shutdown_timeout_s = 1
[fleet]
apart = true
"""
STARTS_MS = 60_000.0  # an engine's start, where others have much to do


@pytest.fixture
def steered(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway and its fleet, with one replica ready."""
    gateway = Gateway(tmp_path, config(MODEL, directory=tmp_path), SWITCHGEAR_ADMIN_KEY=ADMIN)
    fleet = FleetProcess(gateway, "fleet")
    try:
        until(gateway.ready)
        yield gateway
    finally:
        assert fleet.stop() == 0, fleet.said()[-3000:]
        gateway.stop()


def row(tab: Visit, replica: str) -> Locator:
    return tab.page.get_by_role("row", name=re.compile(rf"^{replica} "))


def becomes(tab: Visit, replica: str, phase: str) -> None:
    expect(row(tab, replica)).to_contain_text(phase, timeout=STARTS_MS)


def done(tab: Visit, replica: str, verb: str) -> None:
    """Press a replica's button, and that of the dialog, which names it."""
    row(tab, replica).get_by_role("button", name=verb, exact=True).click()
    expect(tab.within()).to_contain_text(replica)
    tab.within().get_by_role("button", name=verb, exact=True).click()
    expect(tab.within()).to_have_count(0)


@pytest.mark.soak
def test_replicas_are_scaled_slept_woken_and_reclaimed(chromium: Browser, steered: Gateway) -> None:
    with visit(chromium, steered) as tab:
        tab.by_key().open("fleet")
        becomes(tab, "m-0", "ready")

        tab.press("Scale")
        tab.within().get_by_label("Replicas").fill("2")
        tab.within().get_by_role("button", name="Set it").click()
        wanted = tab.page.get_by_text("2 replicas are wanted: set by hand (1 to 3 may be).")
        expect(wanted).to_be_visible(timeout=STARTS_MS)
        becomes(tab, "m-1", "ready")

        done(tab, "m-1", "Sleep")
        becomes(tab, "m-1", "stopped")
        kept(tab, "fleet-asleep")
        done(tab, "m-1", "Wake")
        becomes(tab, "m-1", "ready")

        done(tab, "m-1", "Reclaim")
        becomes(tab, "m-2", "ready")
        tab.press("Give back")
        expect(tab.within()).to_contain_text("between 1 and 3")
        tab.within().get_by_role("button", name="Give it back").click()
        expect(tab.page.get_by_text("set by hand")).to_have_count(0, timeout=STARTS_MS)
        assert good(steered, "GET", "models")["data"][0]["scaling"]["pinned"] is None


def test_a_ready_replica_tells_its_start_and_its_log(chromium: Browser, steered: Gateway) -> None:
    for dark, width in ((False, 1280), (True, NARROW)):
        with visit(chromium, steered, scheme="dark" if dark else "light", width=width) as tab:
            tab.by_key().open("fleet")
            row(tab, "m-0").get_by_role("button", name="Details").click()
            expect(tab.within().get_by_text("Last start:")).to_be_visible()
            expect(tab.within().locator("pre.log")).to_contain_text("engine ")
            assert tab.barriers() == []
            assert not tab.wider_than_the_window()
            kept(tab, f"fleet-log-{'dark' if dark else 'light'}-{width}")
