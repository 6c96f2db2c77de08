"""Figures are ways to requests: bars for who points, tables for who reads by ear, by keyboard, or exactly."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visit import NARROW, Visit, kept, visit
from tests.fakes.upstream import script
from tests.integration.admin import good
from tests.integration.gateway import Gateway, unique

DAY_S = 86400


def pointed_at(tab: Visit, chart: str, along: float, up: float) -> None:
    """Click into a chart: how far along it, and how far up."""
    place = tab.page.get_by_role("figure", name=chart).locator(".pointed")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] * along, box["y"] + box["height"] * (1 - up))
    tab.page.mouse.down()
    tab.page.mouse.up()


def asked_for(page: Page) -> dict[str, str]:
    """Wait for the list of requests; gives the filters of its address."""
    page.get_by_role("heading", level=1, name="Requests").wait_for()
    found = parse_qs(urlsplit(page.url).query)
    return {name: values[0].strip('"') for name, values in found.items()}


def test_a_bar_leads_to_the_requests_of_its_day(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("usage?days=7&org=tenant-001")
        pointed_at(tab, "Cost per day", along=6.5 / 7, up=0.02)
        found = asked_for(tab.page)
        begins, ends = int(found["from"]), int(found["to"])
        assert (begins % DAY_S, ends - begins, found["org"]) == (0, DAY_S, "tenant-001")
        rows = good(full, "GET", f"requests?org=tenant-001&from_s={begins}&to_s={ends}&limit=1")["data"]
        expect(tab.page.locator(f"a[href$='{rows[0]['request_id']}']")).to_be_visible()


def test_a_slice_of_a_bar_leads_to_its_kind(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("cache")
        pointed_at(tab, "Answers from the cache", along=29.5 / 30, up=0.02)
        assert asked_for(tab.page)["source"] == "hit-exact"
        tab.open("cache")
        pointed_at(tab, "Answers from the cache", along=0.5 / 30, up=0.98)
        assert asked_for(tab.page)["source"] == "hit-exact,hit-semantic,joined", (
            "above the bar: all of the day"
        )


def test_what_is_pointed_at_is_told(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("usage?days=7")
        tab.page.get_by_role("figure", name="Tokens per day").locator(".pointed").hover()
        told = tab.page.get_by_role("figure", name="Tokens per day").locator(".told")
        expect(told).to_contain_text("In")
        expect(told).to_contain_text("Out")
        kept(tab, "chart-pointed")


def test_the_table_of_a_chart_has_its_figures_and_their_requests(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("cache")
        way = tab.page.get_by_text("As a table", exact=True)
        way.focus()
        tab.page.keyboard.press("Enter")
        table = tab.page.get_by_role("table", name="Answers from the cache")
        names = ("hit-exact", "hit-semantic", "joined")
        usage = good(full, "GET", "usage?by=day&by=source")["data"]
        first = min(row["day"] for row in usage if row["source"] in names)
        days = {row["day"] for row in usage}
        shown = table.locator("tbody tr").all_inner_texts()
        assert {row.split()[0] for row in shown} <= {day[5:] for day in days}
        assert len(shown) >= len(days) - 1 >= 29, first
        for at, name in enumerate(names):
            sums = {row["day"][5:]: row["requests"] for row in usage if row["source"] == name}
            for row in shown:
                day, *figures = row.replace(",", "").split()
                assert int(figures[at]) == sums.get(day, 0)
        assert tab.barriers() == []
        kept(tab, "chart-table")
        table.locator("tbody tr").last.get_by_role("link").nth(2).click()
        assert asked_for(tab.page)["source"] == "hit-semantic"


def test_steps_of_the_overview_lead_to_what_they_count(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("?span=24h")
        tab.page.get_by_text("As a table", exact=True).first.click()
        table = tab.page.get_by_role("table", name=re.compile("^Requests over time"))
        expect(table.locator("thead")).to_contain_text("Refused")
        cell = table.locator("tbody tr td:nth-child(2) a").last
        counted = int(cell.inner_text().replace(",", ""))
        cell.click()
        found = asked_for(tab.page)
        rows = good(
            full,
            "GET",
            f"requests?from_s={found['from']}&to_s={found['to']}&source=upstream&limit=200"
            "&status=ok&status=stopped&status=cancelled",
        )["data"]
        assert (found["source"], found["status"]) == ("upstream", "ok,stopped,cancelled")
        assert len(rows) == min(200, counted)


def test_what_runs_on_a_replica_leads_to_what_ran_there(chromium: Browser, bare: Gateway) -> None:
    sent = {name: bare.chat(name, script(tag=unique()))[1]["x-request-id"] for name in ("small", "large")}
    for request_id in sent.values():
        bare.row(request_id)
    replica = bare.row(sent["small"])["replicas"]
    with visit(chromium, bare) as tab:
        tab.by_key().open("fleet")
        tab.page.get_by_role("row", name=re.compile(rf"^{replica} ")).get_by_role("link", name="0").click()
        expect(tab.page.get_by_label("Replica", exact=True)).to_have_value(replica)
        expect(tab.page.locator(f"a[href$='{sent['small']}']")).to_be_visible()
        expect(tab.page.locator(f"a[href$='{sent['large']}']")).to_have_count(0)
        assert tab.barriers() == []
        tab.open("fleet")
        tab.page.get_by_role("link", name="0 running").first.click()
        expect(tab.page.get_by_role("combobox", name="Noted")).to_have_value("sent to a replica")


@pytest.mark.parametrize(
    ("path", "active"), [("requests", "Filters"), ("requests?org=tenant-001&status=error", "Filters (2)")]
)
def test_filters_do_not_fill_a_narrow_screen(
    chromium: Browser, full: Gateway, path: str, active: str
) -> None:
    with visit(chromium, full, width=NARROW) as tab:
        tab.by_key().open(path)
        way = tab.page.get_by_role("button", name=active, exact=True)
        expect(way).to_have_attribute("aria-expanded", "false")
        expect(tab.page.get_by_role("search")).to_be_hidden()
        expect(tab.page.locator("tbody tr").first).to_be_in_viewport()
        way.click()
        expect(way).to_have_attribute("aria-expanded", "true")
        expect(tab.page.get_by_label("Organisation")).to_be_visible()
        assert tab.barriers() == []
        assert not tab.wider_than_the_window()
        kept(tab, f"filters-narrow-{len(path)}")
    with visit(chromium, full) as tab:
        tab.by_key().open(path)
        expect(tab.page.get_by_role("search")).to_be_visible()
        expect(tab.page.get_by_role("button", name=active, exact=True)).to_be_hidden()


@pytest.mark.parametrize(
    ("path", "what", "back"),
    [
        ("requests/req_never", "request", "all requests"),
        ("tenants/org_never", "organisation", "All organisations"),
        ("projects/prj_never", "project", "All organisations"),
        ("keys/<b>never", "key", "All keys"),
    ],
)
def test_what_is_not_there_is_named(
    chromium: Browser, bare: Gateway, path: str, what: str, back: str
) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open(path)
        expect(tab.page.get_by_role("heading", level=1)).to_have_text(f"There is no such {what}")
        expect(tab.page.get_by_text(path.partition("/")[2])).to_be_visible()
        expect(tab.page.get_by_role("button", name="Try again")).to_have_count(0)
        assert tab.barriers() == []
        tab.page.get_by_role("main").get_by_role("link", name=back).click()
        expect(tab.page.get_by_role("heading", level=1)).not_to_contain_text("There is no")


def test_an_organisation_leads_to_its_requests_and_its_usage(chromium: Browser, full: Gateway) -> None:
    (org,) = good(full, "GET", "orgs?name=tenant-001")["data"]
    with visit(chromium, full) as tab:
        tab.by_key().open(f"tenants/{org['id']}")
        tab.page.get_by_role("link", name="its requests").click()
        assert asked_for(tab.page) == {"org": "tenant-001"}
        tab.page.go_back()
        tab.page.get_by_role("link", name="its usage").click()
        expect(tab.page.get_by_role("heading", name="Of tenant-001")).to_be_visible()
