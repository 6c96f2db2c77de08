"""What live traffic taught a route, as the console shows it: labels, regret, a challenger in force."""

import time
from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from gateway import database, lessons
from gateway.grading import Grading
from tests.browser.conftest import opened
from tests.browser.visit import NARROW, kept, visit
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import good
from tests.integration.gateway import Gateway, Upstreams, running, unique
from tests.integration.test_shared_lessons import TENANT, of_auto, taught


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose route has 200 labels, and a challenger that they put in force."""
    upstreams = Upstreams(2)
    with running(opened(tmp_path_factory.mktemp("learnt"), upstreams), upstreams) as (gateway, _):
        until(gateway.ready)
        engine = database.connect(f"sqlite:///{gateway.directory / 'gateway.db'}")
        lessons.add(engine, taught(Grading.load(time.monotonic), 200))
        engine.dispose()
        until(lambda: of_auto(gateway)["in_force"] == [TENANT], 60.0)
        yield gateway


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", NARROW)])
def test_what_was_learnt_is_told(
    chromium: Browser, learnt: Gateway, scheme: Literal["light", "dark"], width: int
) -> None:
    with visit(chromium, learnt, scheme=scheme, width=width) as tab:
        tab.by_key().open("routing")
        card = tab.page.locator(
            "section", has=tab.page.get_by_role("heading", name="Shadow, feedback and regret")
        )
        expect(card).to_contain_text("Labels: 200, with both tiers' outcomes: 200.")
        expect(card).to_contain_text(f"{TENANT}: challenger")
        expect(card).to_contain_text("the challenger is in force")
        assert tab.barriers() == []
        assert not tab.wider_than_the_window()
        assert tab.cut_off() == []
        kept(tab, f"routing-learnt-{scheme}-{width}")
        tab.press("Go back to what is shipped")
        expect(tab.within()).to_contain_text("Forget what auto learnt")
        kept(tab, f"routing-forget-{scheme}-{width}")


def test_labels_lead_to_the_routes_requests_and_those_say_why(chromium: Browser, learnt: Gateway) -> None:
    names = {name: learnt.chat(name, script(tag=unique()))[1]["x-request-id"] for name in ("auto", "small")}
    for name in names.values():
        learnt.row(name)
    found = good(learnt, "GET", "requests?route=auto&limit=200")["data"]
    assert {row["route"] for row in found} == {"auto"}
    with visit(chromium, learnt) as tab:
        tab.by_key().open("routing")
        tab.page.get_by_role("link", name="200", exact=True).first.click()
        expect(tab.page.get_by_label("Route", exact=True)).to_have_value("auto")
        expect(tab.page.locator(f"a[href$='{names['auto']}']")).to_be_visible()
        expect(tab.page.locator(f"a[href$='{names['small']}']")).to_have_count(0)
        tab.page.locator(f"a[href$='{names['auto']}']").click()
        expect(tab.page.get_by_text("What moved the score:")).to_be_visible()
        expect(tab.page.get_by_text("alike: “").first).to_be_visible()
        assert tab.barriers() == []
        kept(tab, "request-explained")
