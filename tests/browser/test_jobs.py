"""Main jobs done in the browser: watching, explaining, pricing, booking, proving, exporting, trying."""

import json
import re
import shlex
import subprocess
import sys
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from playwright.sync_api import Browser, Locator, expect

from tests.browser.visit import Visit, kept, visit
from tests.fakes.processes import until
from tests.integration.admin import good
from tests.integration.gateway import KEY, Gateway, call

PATIENT_MS = 30_000.0


def figure(tab: Visit, name: str) -> Locator:
    """Give one of the overview's figures."""
    return tab.page.locator("div.card", has=tab.page.get_by_text(name, exact=True)).locator(".figure")


def sent(gateway: Gateway, command: str) -> Any:
    """Send what a line of curl would send; gives the answer."""
    curl, url, *rest = shlex.split(command.replace("$KEY", KEY).replace("\\\n", " "))
    assert (curl, rest[::2]) == ("curl", ["-H", "-H", "-d"])
    headers = dict(one.split(": ", 1) for one in (rest[1], rest[3]))
    assert url == f"{gateway.base_url}/chat/completions"
    status, _, body = call(gateway.port, "POST", "/v1/chat/completions", rest[5].encode(), headers)
    assert status == 200
    return json.loads(body)


def test_the_overview_moves_by_itself(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("")
        before = int(figure(tab, "Requests").inner_text())
        for number in range(3):
            bare.chat("small", f"Live {number}?")
        expect(figure(tab, "Requests")).to_have_text(str(before + 3), timeout=PATIENT_MS)
        tab.page.get_by_role("link", name="per second").click()
        expect(tab.page.locator("tbody tr")).to_have_count(before + 3)


def test_a_request_is_copied_as_curl_and_timed_in_the_readers_zone(chromium: Browser, bare: Gateway) -> None:
    _, headers, _ = bare.chat("auto", "What time is it?")
    row = bare.row(headers["x-request-id"])
    with visit(chromium, bare, zone="Asia/Tokyo") as tab:
        tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab.by_key().open(f"requests/{row['request_id']}")
        there = datetime.fromtimestamp(row["ts"], ZoneInfo("Asia/Tokyo"))
        shown = f"{there:%b} {there.day}, {there.year}, {there.hour % 12 or 12}:{there:%M:%S}"
        expect(tab.page.get_by_text(shown)).to_be_visible()
        tab.press("Copy")
        copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert sent(bare, copied)["object"] == "chat.completion"


def test_a_price_is_added_and_ended_and_the_audit_log_says_by_whom(chromium: Browser, bare: Gateway) -> None:
    good(bare, "POST", "orgs", {"name": "priced"})
    with visit(chromium, bare) as tab:
        tab.by_key().open("billing")
        tab.press("New price")
        tab.within().get_by_label("Model").fill("small")
        tab.within().get_by_label("Only for organisation").fill("priced")
        tab.within().get_by_label("In (USD per million tokens)").fill("0.25")
        tab.within().get_by_label("Out (USD per million tokens)").fill("1.5")
        tab.within().get_by_role("button", name="Add it").click()
        row = tab.page.get_by_role("row", name=re.compile("for priced"))
        expect(row).to_contain_text("$0.2500")
        expect(row).to_contain_text("$1.50")
        row.get_by_role("button", name="End").click()
        expect(tab.within()).to_contain_text("small")
        tab.within().get_by_role("button", name="End it now").click()
        expect(row.get_by_role("button")).to_have_count(0)
        tab.open("audit?action=price.add")
        tab.page.locator("summary").first.click()
        shown = tab.page.locator(".fields").first
        expect(shown).to_contain_text("input_nanousd")
        expect(shown).to_contain_text("$0.00000025")
        kept(tab, "audit-opened")


def test_credit_is_booked_the_month_invoiced_and_the_books_proved(chromium: Browser, bare: Gateway) -> None:
    good(bare, "POST", "orgs", {"name": "paying"})
    with visit(chromium, bare) as tab:
        tab.by_key().open("billing?tab=credit&org=paying")
        tab.press("Book")
        tab.within().get_by_label("Amount (USD)").fill("12.5")
        tab.within().get_by_label("Note").fill("by bank")
        tab.within().get_by_role("button", name="Book it").click()
        expect(tab.page.get_by_role("row", name=re.compile("by bank"))).to_contain_text("$12.50")
        tab.open("usage?org=paying")
        invoice = tab.page.get_by_role("table", name=re.compile("Invoice of paying"))
        expect(invoice.get_by_role("row", name=re.compile("top up"))).to_contain_text("$12.50")
        tab.open("billing?tab=ledger")
        tab.press("Reconcile now")
        expect(tab.page.get_by_text("Everything agrees")).to_be_visible(timeout=PATIENT_MS)
        kept(tab, "billing-proved")


def test_what_is_exported_is_what_is_shown(chromium: Browser, full: Gateway) -> None:
    with visit(chromium, full) as tab:
        tab.by_key().open("usage?org=tenant-005&days=7")
        group = tab.page.get_by_role("table", name="Usage by group").get_by_role(
            "row", name=re.compile("tenant-005")
        )
        requests = int(group.locator("td").nth(1).inner_text().replace(",", ""))
        assert requests > 0
        for form in ("jsonl", "csv"):
            with tab.page.expect_download() as saved:
                tab.press(f"Export {form}")
            lines = saved.value.path().read_text().splitlines()
            assert saved.value.suggested_filename == f"usage.{form}"
            rows = lines[1:] if form == "csv" else lines
            assert len(rows) == requests
            assert all("tenant-005" in row for row in rows)


def test_a_prompt_is_tried_on_the_route_and_feedback_becomes_a_label(
    chromium: Browser, bare: Gateway
) -> None:
    _, headers, _ = bare.chat("auto", "Prove that there is no largest prime, step by step.")
    body = {"request_id": headers["x-request-id"], "score": 0.2}
    assert bare.call("POST", "/v1/feedback", json.dumps(body).encode())[0] == 200
    with visit(chromium, bare) as tab:
        tab.by_key().open("routing")
        tab.page.get_by_label("A prompt").fill("Prove that there is no largest prime, step by step.")
        tab.page.locator("form").get_by_role("button", name="Try it").click()
        said = tab.page.locator("form").get_by_role("status")
        expect(said).to_contain_text("auto would choose")
        expect(said).to_contain_text("Known requests that are most alike")
        until(lambda: any(one["labels"] for one in good(bare, "GET", "routing/learning")["data"]))
        tab.open("routing")
        expect(tab.page.get_by_text("Labels: 1, with both tiers' outcomes: 0")).to_be_visible()
        kept(tab, "routing-learnt")


def test_what_the_playground_shows_as_code_runs(chromium: Browser, bare: Gateway) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("playground?model=auto")
        tab.page.get_by_label("Prompt").fill('Is "this" it?')
        texts = {}
        for name in ("Python", "Node", "curl"):
            tab.page.get_by_role("tab", name=name).click()
            texts[name] = tab.page.get_by_role("tabpanel", name=name).locator("pre").inner_text()
    assert "chat.completions.create" in texts["Node"]
    python = texts["Python"].replace('"..."', repr(KEY))
    assert subprocess.run([sys.executable, "-c", python], capture_output=True, check=True).stdout.strip()
    assert sent(bare, texts["curl"])["choices"]
