"""What a careful person would stumble over: keyboard, plain HTTP, two at once, a network that fails."""

import re
from collections import Counter

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import ELSEWHERE
from tests.browser.visit import NARROW, kept, visit
from tests.fakes.processes import until
from tests.fakes.upstream import script
from tests.integration.admin import good
from tests.integration.gateway import KEY, Gateway, unique

HERE = "document.activeElement.getBoundingClientRect()"


def test_a_wrong_admin_key_is_said_in_a_persons_words(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.page.goto(f"{tab.root}/console")
        tab.page.get_by_text("Admin key", exact=True).click()
        tab.page.locator("input[name=key]").fill("not this one")
        tab.press("Sign in")
        told = tab.page.get_by_role("alert")
        expect(told).to_contain_text("not the admin key of this gateway")
        expect(told).not_to_contain_text("Authorization")
        kept(tab, "wrong-key")


@pytest.mark.parametrize("width", [NARROW, 1280])
def test_the_keyboard_meets_only_what_can_be_seen(chromium: Browser, bare: Gateway, width: int) -> None:
    with visit(chromium, bare, width=width) as tab:
        tab.by_key().open("keys")
        tab.page.keyboard.press("Tab")
        tab.page.keyboard.press("Enter")
        tab.page.keyboard.press("Tab")
        expect(tab.page.get_by_role("button", name="New key")).to_be_focused()
        tab.open("keys")
        for _ in range(12):
            tab.page.keyboard.press("Tab")
            assert tab.page.evaluate(f"{HERE}.right > 0 && {HERE}.left < innerWidth"), "out of sight"
        if width > NARROW:
            return
        menu = tab.page.get_by_role("button", name="Pages")
        first = tab.page.get_by_role("navigation", name="Pages").get_by_role("link").first
        menu.focus()
        tab.page.keyboard.press("Enter")
        expect(first).to_be_visible()
        kept(tab, "menu-narrow")
        for _ in range(3):
            tab.page.keyboard.press("Tab")
        expect(first).to_be_focused()
        tab.page.keyboard.press("Escape")
        expect(first).to_be_hidden()
        expect(menu).to_have_attribute("aria-expanded", "false")


def test_a_filter_shows_what_the_address_says(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key()
        for page, label, name in (
            ("keys?org=tenant-001", "Organisation", "API keys"),
            ("audit?action=key.create", "What", "Audit log"),
            ("tenants?name=tenant-001", "Name", "Organisations"),
        ):
            tab.open(page)
            field = tab.page.get_by_role("search").get_by_label(label, exact=True)
            expect(field).to_have_value(page.partition("=")[2])
            tab.page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
            expect(field).to_have_value("")


def test_whoever_saves_last_does_not_undo_what_was_saved_before(chromium: Browser, full: Gateway) -> None:
    people = good(full, "GET", "people")["data"]
    billing = next(one for one in people if one["email"] == "billing@example.com")
    with visit(chromium, full) as tab:
        tab.by_key().open("people")
        row = tab.page.get_by_role("row", name=re.compile("billing@example.com"))
        row.get_by_role("button", name="Change").click()
        tab.within().get_by_label("Name").fill("Bill")
        at = f'"{billing["version"]}"'
        good(full, "PATCH", f"people/{billing['id']}", {"name": "Will"}, if_match=at)
        tab.within().get_by_role("button", name="Save").click()
        expect(tab.within().get_by_role("alert")).to_contain_text("Somebody was faster")
        tab.page.keyboard.press("Escape")
        tab.open("people")
        expect(row).to_contain_text("Will")


def test_a_key_is_copied_where_the_console_came_over_plain_http(chromium: Browser, bare: Gateway) -> None:
    """Browsers have no clipboard for such pages, but for those of the machine itself."""
    good(bare, "POST", "orgs", {"name": "plain"})
    project = good(bare, "POST", "projects", {"org": "plain", "name": "http"})["id"]
    with visit(chromium, f"http://{ELSEWHERE}:{bare.port}") as tab:
        tab.by_key().open(f"projects/{project}")
        assert not tab.page.evaluate("isSecureContext")
        tab.press("New key")
        tab.within().get_by_label("Name").fill("web")
        tab.within().get_by_role("button", name="Make it").click()
        text = tab.within().locator("pre").first.inner_text()
        assert text.startswith("sk-sg-")
        tab.press("Copy")
        expect(tab.page.get_by_role("button", name="Copied")).to_be_focused()
        tab.press("Done")
        tab.open("keys")
        field = tab.page.get_by_label("Organisation")
        field.focus()
        tab.page.keyboard.press("Control+V")
        expect(field).to_have_value(text)
        # Chromium says so of a header that it heeds on pages by HTTPS only.
        tab.faults[:] = [one for one in tab.faults if "Cross-Origin-Opener-Policy" not in one]


@pytest.mark.soak
def test_rows_stay_where_one_look_at_them_fails(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("requests")
        rows = tab.page.locator("tbody tr").count()
        tab.page.context.set_offline(True)
        expect(tab.page.get_by_role("button", name="Try again")).to_be_visible(timeout=60_000)
        assert tab.page.locator("tbody tr").count() == rows
        tab.page.context.set_offline(False)
        tab.press("Try again")
        expect(tab.page.get_by_role("button", name="Try again")).to_have_count(0)
        tab.faults[:] = [one for one in tab.faults if "ERR_INTERNET_DISCONNECTED" not in one]


def test_whoever_leaves_the_playground_pays_for_no_more(chromium: Browser, bare: Gateway) -> None:
    tag = unique()
    with visit(chromium, bare) as tab:
        tab.by_key().open("playground?model=small")
        tab.page.locator("input[type=password]").fill(KEY)
        tab.page.get_by_label("Prompt").fill(script("ok", tag=tag, n=2000, gap_s=0.05))
        tab.press("Send")
        expect(tab.page.get_by_text("w3 ")).to_be_visible()
        tab.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Alerts").click()
        until(
            lambda: (
                "cancelled" in {row["status"] for row in good(bare, "GET", "requests?model=small")["data"]}
            )
        )


def test_a_clients_own_mistake_is_no_failure_of_ours(chromium: Browser, bare: Gateway) -> None:
    """Three answers, two requests that the model's server finds wrong, one that it fails."""
    sent = [
        bare.chat("small", script(fault, tag=unique())) for fault in ("ok", "ok", "ok", "400", "422", "500")
    ]
    assert [status for status, _, _ in sent] == [200, 200, 200, 400, 422, 502]
    for _, headers, _ in sent:
        bare.row(headers["x-request-id"])
    known = Counter(row["status"] for row in good(bare, "GET", "requests?limit=200")["data"])
    assert (known["refused"], known["error"]) == (2, 1)
    with visit(chromium, bare) as tab:
        tab.by_key().open("?span=24h")
        for name, said, outcome in (("Failed", "1 request", "error"), ("Refused", "2 requests", "refused")):
            tile = tab.page.locator(".card", has=tab.page.get_by_text(name, exact=True)).first
            expect(tile).to_contain_text(said)
            tile.get_by_role("link").click()
            cells = tab.page.locator("tbody tr td:nth-child(5)")
            expect(cells.first).to_have_text(outcome)
            assert set(cells.all_inner_texts()) == {outcome}
            tab.open("?span=24h")
        levels = tab.page.locator("section", has=tab.page.get_by_role("heading", name="Service levels"))
        whole = sum(known.values())
        expect(levels).to_contain_text(f"{round(100 * (1 - 1 / whole), 1):g}%")
        expect(levels).to_contain_text("1 failed")


@pytest.mark.soak
def test_a_list_asks_one_question(chromium: Browser, full: Gateway) -> None:
    """And the one of its dialog only when that is opened."""
    with visit(chromium, full) as tab:
        tab.by_key()
        asked: list[str] = []
        tab.page.on("request", lambda sent: asked.append(sent.url.partition("/admin/v1/")[2]))
        for page in ("requests", "alerts", "tenants", "keys", "people", "webhooks", "billing", "audit"):
            asked.clear()
            tab.open(page)
            assert len([one for one in asked if one and one != "session"]) == 1, asked
        tab.open("keys")
        asked.clear()
        tab.press("New key")
        tab.within().get_by_label("Project").click()
        expect(tab.page.get_by_role("option").first).to_be_visible()
        assert any(one.startswith("projects") for one in asked)


def test_an_export_that_fails_says_so(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("usage")
        tab.page.context.set_offline(True)
        tab.press("Export csv")
        expect(tab.page.get_by_role("alert").get_by_text("No answer", exact=True)).to_be_visible()
        tab.page.context.set_offline(False)
        tab.faults[:] = [one for one in tab.faults if "ERR_INTERNET_DISCONNECTED" not in one]


def test_the_audit_log_says_money_and_moments_as_people_read_them(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full, width=NARROW, zone="Asia/Tokyo") as tab:
        tab.by_key().open("audit?action=org.create")
        tab.page.locator("summary").first.click()
        shown = tab.page.locator(".fields").first
        expect(shown).to_contain_text("$1.50")
        expect(shown).to_contain_text(re.compile(r"created_s\w+ \d"))
        assert not tab.wider_than_the_window()
        kept(tab, "audit-narrow")
