"""The console before ``switchgear up`` as it comes: two real vLLM servers, a route, embeddings."""

import re

import openai
import pytest
from playwright.sync_api import Browser, expect

from tests.appliance import Appliance
from tests.browser.visit import NARROW, kept, visit

pytestmark = pytest.mark.soak
SLOW_MS = 180_000.0  # an engine on a CPU that has more to do


def test_the_first_run_the_playground_and_every_page(chromium: Browser, appliance: Appliance) -> None:
    with visit(chromium, appliance.root) as tab:
        tab.page.set_default_timeout(SLOW_MS)
        tab.by_key(appliance.admin_key).open("begin")
        tab.page.get_by_label("Organisation").fill("first")
        tab.press("Go on")
        tab.press("Make the key")
        expect(tab.page.get_by_text("copy it now")).to_be_visible()
        key = re.search(r"sk-sg-[A-Za-z0-9_-]+", tab.page.get_by_role("main").inner_text())
        assert key is not None
        tab.press("I have it: go on")
        tab.press("Send")
        tab.press("Watch it arrive")
        expect(tab.page.get_by_text("It has arrived")).to_be_visible(timeout=SLOW_MS)
        kept(tab, "vllm-arrived")
        tab.page.get_by_role("link", name="how it was decided").click()
        for said in ("Timeline", "Decision", "What it cost"):
            expect(tab.page.get_by_role("heading", name=said)).to_be_visible()
        kept(tab, "vllm-request")

        with openai.OpenAI(base_url=appliance.base_url, api_key=key[0], max_retries=0) as client:
            sent = client.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": "What is a gear?"}], max_tokens=16
            )
        appliance.row(sent.headers["x-request-id"])
        tab.open("requests?org=first")
        expect(tab.page.locator(f"a[href$='{sent.headers['x-request-id']}']")).to_be_visible()
        tab.open("billing?tab=ledger&org=first")
        expect(tab.page.locator(f"a[href$='{sent.headers['x-request-id']}']")).to_be_visible()

        tab.open("playground?model=small&other=large")
        tab.page.locator("input[type=password]").fill(key[0])
        tab.page.get_by_label("Prompt").fill("Count to five.")
        tab.press("Send")
        for name in ("small", "large"):
            answer = tab.page.locator("section", has=tab.page.get_by_role("heading", name=name, exact=True))
            expect(answer.get_by_role("rowheader", name="cost")).to_be_visible(timeout=SLOW_MS)
        kept(tab, "vllm-playground")

        for name in tab.walk():
            assert tab.barriers() == [], name
            kept(tab, f"vllm-{name or 'overview'}")
        tab.open("fleet")
        tab.page.get_by_role("row", name=re.compile("large-0")).get_by_role("button", name="Details").click()
        for said in ("Last start:", "Last lines of its log"):
            expect(tab.within().get_by_text(said)).to_be_visible()
        expect(tab.within().get_by_text("It runs elsewhere")).to_have_count(0)
        kept(tab, "vllm-cold-start")
        tab.page.keyboard.press("Escape")
        tab.press("Plan on this machine")
        expect(tab.page.get_by_role("table", name="Plan").locator("tbody tr")).to_have_count(3)
        kept(tab, "vllm-plan")
    with visit(chromium, appliance.root, scheme="dark", width=NARROW) as tab:
        tab.by_key(appliance.admin_key)
        for path in ("", "fleet", "routing", "health"):
            tab.open(path)
            assert not tab.wider_than_the_window(), path
            kept(tab, f"vllm-dark-{path or 'overview'}")
