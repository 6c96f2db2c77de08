"""The cache page before a gateway that answers by likeness: audits and waits lead to their requests."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visit import kept, visit
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import ADMIN, good
from tests.integration.gateway import Gateway, Upstreams, config, model, running
from tests.integration.test_semantic import FORMS, THINGS

SETTINGS = """exact_ttl_s = 60.0
semantic = { error_bound = 0.3, precision = 0.5, ttl_s = 600.0 }"""


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one slot that has answered by likeness and audited some of it."""
    upstreams = Upstreams(1)
    directory = tmp_path_factory.mktemp("alike")
    text = config(model("m", upstreams.ports, max_concurrency=1), cache=SETTINGS, directory=directory)
    with running(Gateway(directory, text, SWITCHGEAR_ADMIN_KEY=ADMIN), upstreams) as (gateway, _):
        until(gateway.ready)
        missed = 0
        for form in FORMS:
            for thing in THINGS:
                _, headers, _ = gateway.chat("m", form.format(thing))
                missed += headers["x-switchgear-cache"] == "miss"
            until(lambda: gateway.metric("switchgear_semantic_texts") >= missed)  # noqa: B023 - called at once
        for number in range(60):
            gateway.chat("m", f"how would you clean the {THINGS[number % 10]} in house {number}")
        until(lambda: sum(good(gateway, "GET", "live")["cache_audits"].values()) > 0)
        yield gateway


def test_audits_and_similar_hits_lead_to_their_requests(chromium: Browser, alike: Gateway) -> None:
    with visit(chromium, alike) as tab:
        tab.by_key().open("cache")
        bound = tab.page.locator(
            "section", has=tab.page.get_by_role("heading", name="Kept now, and how wrong it may be")
        )
        expect(bound).to_contain_text("Wrong answers allowed: 30%")
        kept(tab, "cache-audited")
        bound.get_by_role("link", name=re.compile(r"\d+ audits?")).click()
        expect(tab.page.get_by_role("combobox", name="Noted")).to_have_value("asked again as an audit")
        expect(tab.page.locator("tbody tr td:nth-child(5)").first).to_contain_text("%")
        assert tab.barriers() == []
        kept(tab, "requests-audited")
        tab.page.locator("tbody a").first.click()
        expect(tab.page.get_by_role("heading", name="Decision")).to_be_visible()
        tab.open("cache")
        tab.page.get_by_role("link", name="similar hits").click()
        cells = tab.page.locator("tbody tr td:nth-child(4)")
        expect(cells.first).to_have_text("cache, similar")
        assert set(cells.all_inner_texts()) == {"cache, similar"}


def test_what_waited_in_the_queue_can_be_looked_at(chromium: Browser, alike: Gateway) -> None:
    with ThreadPoolExecutor(3) as clients:
        answers = list(
            clients.map(lambda number: alike.chat("m", script("late", tag=f"wait{number}")), range(3))
        )
    waited = [
        headers["x-request-id"] for _, headers, _ in answers if float(headers["x-switchgear-queue-ms"]) >= 1
    ]
    assert len(waited) == 2
    with visit(chromium, alike) as tab:
        tab.by_key().open("fleet")
        tab.page.get_by_role("link", name="0 waiting").click()
        for name in waited:
            expect(tab.page.locator(f"a[href$='{name}']")).to_be_visible()
        kept(tab, "requests-waited")


def test_an_answer_is_called_right_and_then_wrong(chromium: Browser, alike: Gateway) -> None:
    with visit(chromium, alike) as tab:
        tab.by_key().open("cache")
        entries = tab.page.get_by_role("table", name="Kept answers")
        first = entries.locator("tbody tr").first
        name = first.locator("td").first.inner_text()
        first.get_by_role("button", name="Inspect").click()
        for verdict, said in (("Right", "It is right"), ("Wrong", "It is wrong")):
            tab.press(verdict)
            asking = tab.page.get_by_role("dialog", name=f"This answer is {verdict.lower()}")
            if verdict == "Wrong":
                expect(asking).to_contain_text(name)
            asking.get_by_role("button", name=said).click()
            expect(asking).to_have_count(0)
        tab.open("cache")
        expect(entries).to_be_visible()
        expect(entries.get_by_text(name, exact=True)).to_have_count(0)
