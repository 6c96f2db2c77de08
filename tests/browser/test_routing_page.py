"""The routing page: what another aim would give is seen, staged, and then put in force."""

import json
import tomllib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.visit import kept, visit
from tests.integration.admin import good
from tests.integration.gateway import Gateway


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty prompts with outcomes: the long ones are the hard ones."""
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "prompt": "Say hello."
                    if number % 2
                    else f"Prove the theorem number {number} step by step.",
                    "small_score": float(number % 2),
                    "large_score": 1.0,
                }
            )
            for number in range(40)
        )
    )
    return path


def test_an_aim_is_seen_before_it_is_staged_and_applied(chromium: Browser, bare: Gateway, rows: Path) -> None:
    with visit(chromium, bare) as tab:
        tab.by_key().open("routing")
        card = tab.page.locator("section", has=tab.page.get_by_role("heading", name="Another aim for auto"))
        expect(card.get_by_text("Of the classifier's validation rows.")).to_be_visible()
        with tab.page.expect_file_chooser() as chosen:
            card.get_by_role("button", name="From a file of mine").click()
        chosen.value.set_files(rows)
        expect(card.get_by_text("Of 40 prompts of mine.jsonl, with their outcomes.")).to_be_visible()
        slider = card.get_by_role("slider", name="Aim")
        slider.focus()
        for _ in range(20):
            slider.press("ArrowRight")
        expect(card.get_by_role("columnheader", name="with 50%")).to_be_visible()
        expect(card.get_by_role("row", name="requests to large")).to_contain_text("30%")
        kept(tab, "routing-aim")
        assert tab.barriers() == []
        card.get_by_role("button", name="Stage it").click()
        expect(card.get_by_text("Staged; nothing has changed yet.")).to_be_visible()
        assert good(bare, "GET", "routes")["data"][0]["objective"] == {"large_share": 0.3}

        card.get_by_role("link", name="settings").click()
        tab.press("Apply")
        tab.within().get_by_role("button", name="Apply").click()
        expect(tab.page.get_by_text("Nothing was changed from here yet")).to_have_count(0)
        assert good(bare, "GET", "routes")["data"][0]["objective"] == {"large_share": 0.5}
        file = good(bare, "GET", "config")
        assert tomllib.loads(file["text"])["routes"][0]["objective"] == {"large_share": 0.5}


def test_a_file_that_is_none_is_told_by_its_line(chromium: Browser, bare: Gateway, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"prompt": "x"}\n{"promt": "y"}\n')
    with visit(chromium, bare) as tab:
        tab.by_key().open("routing")
        with tab.page.expect_file_chooser() as chosen:
            tab.page.get_by_role("button", name="From a file of mine").click()
        chosen.value.set_files(wrong)
        expect(tab.page.get_by_text('Line 2 is not JSON with a "prompt".')).to_be_visible()
