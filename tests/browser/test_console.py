"""The console in a real browser, before a real gateway."""

import re

import openai
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import books
from tests.browser.conftest import PASSWORD
from tests.browser.visit import kept, visit
from tests.fakes.receiver import Receiver
from tests.integration.admin import ask, good
from tests.integration.gateway import Gateway


def test_every_page_on_much_data(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key()
        for name in tab.walk():
            assert tab.barriers() == [], name
            assert not tab.wider_than_the_window(), name
            assert tab.cut_off() == [], name
            kept(tab, f"light-{name}")


def test_every_page_with_nothing_says_what_to_do(chromium: Browser, bare: Gateway) -> None:
    said = {
        "": "Four steps to the first one",
        "requests": "No request yet",
        "alerts": "you are told before it is used up",
        "webhooks": "Make one with an address",
    }
    with visit(chromium, bare) as tab:
        tab.by_key()
        for name in tab.walk():
            kept(tab, f"empty-{name or 'overview'}")
            if name in said:
                expect(tab.page.get_by_text(said[name])).to_be_visible()


def test_from_an_organisation_to_a_request_that_is_seen(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("tenants")
        tab.press("New organisation")
        tab.within().get_by_label("Name").fill(f"acme {books.EVIL}")
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.page.get_by_role("heading", level=1)).to_have_text(f"acme {books.EVIL}")
        tab.press("New project")
        tab.within().get_by_label("Name").fill("chat")
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.page.get_by_role("heading", level=1)).to_contain_text("/ chat")
        tab.press("New key")
        tab.within().get_by_label("Name").fill("web")
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.within()).to_contain_text("copy it now")
        key = re.search(r"sk-sg-[A-Za-z0-9_-]+", tab.within().inner_text())
        assert key is not None
        with openai.OpenAI(base_url=bare.base_url, api_key=key[0], max_retries=0) as client:
            sent = client.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": "Hello"}]
            )
        request_id = sent.headers["x-request-id"]
        bare.row(request_id)
        tab.press("Done")
        assert key[0] not in tab.page.content()
        tab.open(f"requests?key_id={bare.row(request_id)['key_id']}")
        tab.page.locator("tbody a").first.click()
        expect(tab.page.get_by_role("heading", level=1)).to_have_text(request_id)
        expect(tab.page.get_by_text("What happened")).to_be_visible()
        kept(tab, "request")
        tab.open("billing?tab=ledger")
        expect(tab.page.get_by_role("table").locator(f"a[href$='{request_id}']")).to_have_count(1)
        tab.open("")
        expect(tab.page.get_by_role("heading", name="Money (USD)")).to_be_visible()


def test_the_first_run_ends_with_a_request_that_has_arrived(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("begin")
        tab.page.get_by_label("Organisation").fill("beginners")
        tab.press("Go on")
        tab.press("Make the key")
        expect(tab.page.get_by_text("copy it now")).to_be_visible()
        tab.press("I have it: go on")
        tab.press("Send")
        tab.press("Watch it arrive")
        expect(tab.page.get_by_text("It has arrived")).to_be_visible(timeout=20_000)
        assert tab.barriers() == []
        kept(tab, "begin-arrived")
        tab.page.get_by_role("link", name="how it was decided").click()
        for said in ("Timeline", "Decision", "What it cost"):
            expect(tab.page.get_by_role("heading", name=said)).to_be_visible()
        assert tab.barriers() == []
        kept(tab, "request-replayed")


def test_a_change_of_the_file_is_staged_applied_and_taken_back(chromium: Browser, bare: Gateway) -> None:
    before = bare.config.read_text()
    with visit(chromium, bare) as tab:
        tab.by_key().open("settings")
        editor = tab.page.get_by_label("gateway.toml")
        editor.fill(before + "[nonsense]\n")
        expect(tab.page.get_by_text("This would not work")).to_be_visible()
        expect(tab.page.get_by_role("button", name="Apply")).to_be_disabled()
        editor.fill(before.replace("large_share = 0.3", "large_share = 0.5"))
        changes = tab.page.get_by_role("region", name="Staged changes")
        expect(changes).to_contain_text("+objective = { large_share = 0.5 }")
        assert tab.barriers() == []
        kept(tab, "settings-staged")
        tab.press("Apply")
        expect(tab.within()).to_contain_text("routes.auto.objective.large_share")
        tab.within().get_by_role("button", name="Apply").click()
        expect(changes).to_have_count(0)
        assert "large_share = 0.5" in bare.config.read_text()
        tab.press("Roll back")
        expect(tab.within()).to_contain_text("+objective = { large_share = 0.3 }")
        tab.within().get_by_role("button", name="Roll back").click()
        expect(tab.within()).to_have_count(0)
        assert bare.config.read_text() == before
        managed = before.replace("[server]\n", "[server]\nmanaged_config = true\n")
        bare.write(managed)
        tab.press("Read the file again")
        tab.within().get_by_role("button", name="Read it").click()
        tab.press("Done")
        expect(tab.page.get_by_text("Managed elsewhere")).to_be_visible()
        expect(tab.page.get_by_role("button", name="Roll back")).to_have_count(0)
    bare.write(before)
    good(bare, "POST", "config/reload")


def test_the_fleet_is_steered_and_the_cache_is_judged(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("fleet")
        row = tab.page.get_by_role("row", name=re.compile("large-1"))
        row.get_by_role("button", name="Drain").click()
        expect(tab.within()).to_contain_text("large-1")
        tab.within().get_by_role("button", name="Drain").click()
        row.get_by_role("button", name="Resume").click()
        tab.within().get_by_role("button", name="Resume").click()
        expect(row.get_by_role("button", name="Reclaim")).to_be_visible(timeout=30_000)
        row.get_by_role("button", name="Details").click()
        expect(tab.within()).to_contain_text("Last start")
        tab.page.keyboard.press("Escape")
        tab.press("Plan on this machine")
        expect(tab.page.get_by_role("table", name="Plan")).to_contain_text("runs elsewhere")
        kept(tab, "fleet-planned")
        bare.chat("small", "What is kept?")
        tab.open("cache?model=small")
        entries = tab.page.get_by_role("table", name="Kept answers")
        entries.get_by_role("button", name="Inspect").first.click()
        expect(tab.within()).to_contain_text("Its words")
        assert tab.barriers() == []
        kept(tab, "cache-inspected")
        tab.page.keyboard.press("Escape")
        tab.press("Purge these")
        expect(tab.within()).to_contain_text("model small")
        tab.within().get_by_role("button", name="Purge").click()
        expect(tab.within()).to_contain_text(re.compile("answers? (is|are) gone"))
        tab.press("Done")
        expect(tab.page.get_by_text("No kept answer fits")).to_be_visible()


def test_an_account_is_made_changed_and_locked_out(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("people")
        tab.press("New account")
        tab.within().get_by_label("Name").fill("Ada")
        tab.within().get_by_label("E-mail").fill("ada@example.com")
        tab.within().locator("input[name=password]").fill("short")
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.within().get_by_role("alert")).to_contain_text("password")
        tab.within().locator("input[name=password]").fill(PASSWORD)
        tab.within().get_by_role("button", name="Make it").click()
        row = tab.page.get_by_role("row", name=re.compile("ada@example.com"))
        expect(row).to_contain_text("viewer")
        for state, shown in (("Disabled", "disabled"), ("May sign in", "active")):
            row.get_by_role("button", name="Change").click()
            tab.within().get_by_label("Role").click()
            tab.page.get_by_role("option", name="Billing").click()
            tab.within().get_by_label("State").click()
            tab.page.get_by_role("option", name=state).click()
            expect(tab.within()).to_contain_text("end the sessions of Ada")
            tab.within().get_by_role("button", name="Save").click()
            expect(row).to_contain_text(shown)
            expect(row).to_contain_text("billing")
    wrong = {"org": "*", "email": "ada@example.com", "password": "not this one"}
    for _ in range(5):
        ask(bare, "POST", "session", wrong, key=None)
    with visit(chromium, bare) as tab:
        tab.page.goto(f"{tab.root}/console")
        tab.page.get_by_label("E-mail").fill("ada@example.com")
        tab.page.locator("input[name=password]").fill(PASSWORD)
        tab.press("Sign in")
        expect(tab.page.get_by_role("alert")).to_contain_text("locked")
        kept(tab, "locked-out")


def test_a_webhook_is_made_tried_and_removed(chromium: Browser, bare: Gateway) -> None:
    good(bare, "POST", "orgs", {"name": "told"})
    with Receiver().open() as receiver, visit(chromium, bare) as tab:
        url = receiver.url("/alerts")
        tab.by_key().open("webhooks")
        tab.press("New webhook")
        tab.within().get_by_label("Organisation").fill("told")
        tab.within().get_by_label("Address").fill(url)
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.within()).to_contain_text("copy it now")
        secret = tab.within().locator("pre").inner_text()
        tab.press("Done")
        assert secret not in tab.page.content()
        row = tab.page.locator("tbody tr", has_text=url)
        row.get_by_role("button", name="Ping").click()
        tab.within().get_by_role("button", name="Send").click()
        row.get_by_role("button", name=url).click()
        messages = tab.page.get_by_role("table", name="Messages")
        expect(messages.locator("tbody tr")).to_contain_text(["delivered"], timeout=20_000)
        assert len(receiver.at("/alerts", "ping")) == 1
        assert tab.barriers() == []
        kept(tab, "webhook-delivered")
        row.get_by_role("button", name="Remove").click()
        expect(tab.within()).to_contain_text("is told nothing any more")
        tab.within().get_by_role("button", name="Remove").click()
        expect(row).to_have_count(0)


def test_the_playground_streams_and_shows_what_was_decided(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("playground?model=auto&other=large")
        tab.page.locator("input[type=password]").fill("sk-test-" + "k" * 40)
        tab.press("Send")
        for name in ("auto", "large"):
            answer = tab.page.locator("section", has=tab.page.get_by_role("heading", name=name, exact=True))
            for said in ("cost", "model"):
                expect(answer.get_by_role("rowheader", name=said)).to_be_visible()
        kept(tab, "playground-answered")


def test_a_key_is_changed_rotated_and_revoked(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("keys?org=tenant-005")
        tab.page.locator("tbody a").first.click()
        tab.press("Change")
        tab.within().get_by_label("Requests per minute").fill("7")
        tab.within().get_by_label("Requests per minute").hover()
        tab.page.mouse.wheel(0, -300)
        expect(tab.within().get_by_label("Requests per minute")).to_have_value("7")
        tab.within().get_by_role("button", name="Save").click()
        expect(tab.page.get_by_text("7 requests per minute")).to_be_visible()
        tab.press("Rotate")
        tab.within().get_by_role("button", name="Give it a new text").click()
        expect(tab.within()).to_contain_text("sk-sg-")
        tab.press("Done")
        tab.press("Revoke")
        expect(tab.within()).to_contain_text("tenant-005")
        tab.within().get_by_role("button", name="Revoke for good").click()
        expect(tab.page.get_by_text("revoked", exact=True)).to_be_visible()
        expect(tab.page.get_by_role("button", name="Rotate")).to_have_count(0)


@pytest.mark.parametrize(
    ("role", "offered", "hidden"),
    [
        ("viewer", ["Usage & invoice", "Models & fleet"], ["Audit log", "People", "Webhooks"]),
        ("billing", ["Prices & credit"], ["Audit log", "People"]),
        ("admin", ["Audit log", "People"], []),
    ],
)
def test_a_role_sees_what_it_may(
    chromium: Browser, full: Gateway, role: str, offered: list[str], hidden: list[str]
) -> None:
    with visit(chromium, full) as tab:
        tab.by_account(f"{role}@example.com", PASSWORD)
        pages = tab.page.get_by_role("navigation", name="Pages")
        for name in offered:
            expect(pages.get_by_role("link", name=name)).to_be_visible()
        for name in hidden:
            expect(pages.get_by_role("link", name=name)).to_have_count(0)
        tab.open("keys")
        expect(tab.page.get_by_role("button", name="New key")).to_have_count(int(role == "admin"))
        tab.open("billing")
        expect(tab.page.get_by_role("button", name="New price")).to_have_count(int(role != "viewer"))


def test_a_team_lead_sees_one_organisation(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_account("lead@example.com", PASSWORD, "tenant-000")
        tab.open("tenants")
        expect(tab.page.locator("tbody tr")).to_have_count(1)
        tab.open("requests?org=tenant-001")
        expect(tab.page.get_by_text("No request fits")).to_be_visible()


def test_a_session_that_ends_asks_again_and_stays_on_the_page(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_account("owner@example.com", PASSWORD).open("requests?model=large")
        tab.page.context.clear_cookies()
        tab.press("Next")
        expect(tab.page.get_by_text("Your session has ended")).to_be_visible()
        tab.page.get_by_label("E-mail").fill("owner@example.com")
        tab.page.locator("input[name=password]").fill(PASSWORD)
        tab.press("Sign in")
        expect(tab.page.get_by_role("heading", name="Requests")).to_be_visible()
        assert tab.page.url.endswith("requests?model=large")


def test_a_wrong_password_is_said_so(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.page.goto(f"{tab.root}/console/keys")
        tab.page.get_by_label("E-mail").fill("viewer@example.com")
        tab.page.locator("input[name=password]").fill("something else")
        tab.press("Sign in")
        expect(tab.page.get_by_role("alert")).to_contain_text("do not belong together")


def test_a_change_without_the_sessions_proof_is_refused(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_account("owner@example.com", PASSWORD)
        status = tab.page.evaluate(
            "fetch('/admin/v1/config/reload', {method: 'POST'}).then((one) => one.status)"
        )
        assert status == 403


@pytest.mark.soak
def test_a_gateway_that_does_not_answer_is_said_so(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("requests")
        rows = tab.page.locator("tbody tr").count()
        tab.page.context.set_offline(True)
        expect(tab.page.get_by_text("The gateway does not answer", exact=True)).to_be_visible(timeout=30_000)
        assert tab.page.locator("tbody tr").count() == rows
        tab.page.context.set_offline(False)
        expect(tab.page.get_by_text("The gateway does not answer", exact=True)).to_be_hidden(timeout=30_000)
        tab.faults[:] = [one for one in tab.faults if "ERR_INTERNET_DISCONNECTED" not in one]


def test_a_servers_error_is_shown_with_its_field(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("tenants")
        tab.press("New organisation")
        tab.within().get_by_label("Name").fill("a/b")
        tab.within().get_by_role("button", name="Make it").click()
        expect(tab.within().get_by_role("alert")).to_contain_text("name")


def test_the_keyboard_is_enough_to_page_and_to_leave_a_dialog(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("audit")
        first = tab.page.locator("tbody tr").first.inner_text()
        tab.page.get_by_role("button", name="Next").focus()
        tab.page.keyboard.press("Enter")
        expect(tab.page.get_by_text("Page 2")).to_be_visible()
        expect(tab.page.locator("tbody tr").first).not_to_have_text(first)
        tab.open("keys")
        tab.page.get_by_role("button", name="New key").focus()
        tab.page.keyboard.press("Enter")
        expect(tab.within()).to_be_visible()
        tab.page.keyboard.press("Escape")
        expect(tab.within()).to_be_hidden()


def test_figures_lead_to_their_requests(chromium: Browser, full: Gateway) -> None:
    found = good(
        full, "GET", "requests?status=error&status=interrupted&source=joined&source=hit-exact&limit=200"
    )
    assert {row["status"] for row in found["data"]} == {"error"}
    assert {row["source"] for row in found["data"]} == {"joined", "hit-exact"}
    status, _, told = ask(full, "GET", "requests?status=lost")
    assert (status, told["error"]["param"]) == (400, "status")
    with visit(chromium, full) as tab:
        tab.by_key().open("cache")
        tab.page.get_by_role("row", name=re.compile("shared with another")).get_by_role("link").click()
        cells = tab.page.locator("tbody tr td:nth-child(4)")
        expect(cells.first).to_have_text("shared with another")
        assert set(cells.all_inner_texts()) == {"shared with another"}
        tab.open("")
        tab.page.get_by_role("link", name=re.compile("failed, .* may")).click()
        cells = tab.page.locator("tbody tr td:nth-child(5)")
        expect(cells.first).to_have_text("error")
        assert set(cells.all_inner_texts()) == {"error"}
