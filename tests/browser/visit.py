"""Somebody who uses the console, and notes whatever a page does that it should not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page

from tests.integration.admin import ADMIN
from tests.integration.gateway import ROOT, Gateway

AXE = ROOT / "dashboards" / "console" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "", "requests", "alerts", "playground", "fleet", "routing", "cache", "tenants", "keys", "people",
    "webhooks", "usage", "billing", "audit", "settings", "health", "begin",
)  # fmt: skip
EXPECTED = "the server responded with a status of"  # the browser's own note about a 401 before signing in


class Visit:
    """One tab; ``faults`` are script errors, dialogs, refused styles and calls to other hosts."""

    def __init__(self, page: Page, gateway: Gateway) -> None:
        self.page = page
        self.root = f"http://127.0.0.1:{gateway.port}"
        self.faults: list[str] = []
        page.on("console", lambda said: self._heard(said.type, said.text))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", self._asked_by)
        page.on("request", lambda sent: self._asked(sent.url))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and EXPECTED not in text:
            self.faults.append(f"{kind}: {text}")

    def _asked_by(self, box: Dialog) -> None:
        self.faults.append(f"dialog: {box.message}")
        box.dismiss()

    def _asked(self, url: str) -> None:
        if not url.startswith((self.root, "data:", "blob:")):
            self.faults.append(f"asked another host: {url}")

    def by_key(self) -> "Visit":
        """Sign in with the admin key."""
        self.page.goto(f"{self.root}/console")
        self.page.get_by_text("Admin key", exact=True).click()
        self.page.locator("input[name=key]").fill(ADMIN)
        return self._enter()

    def by_account(self, email: str, password: str, org: str = "") -> "Visit":
        """Sign in as a person."""
        self.page.goto(f"{self.root}/console")
        self.page.get_by_label("E-mail").fill(email)
        self.page.locator("input[name=password]").fill(password)
        self.page.get_by_label("Organisation").fill(org)
        return self._enter()

    def _enter(self) -> "Visit":
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("navigation", name="Pages").wait_for(state="attached")
        return self

    def open(self, path: str) -> Locator:
        """Open a page by its address, and wait until it has what it shows; gives its heading."""
        self.page.goto(f"{self.root}/console/{path}")
        self.page.wait_for_load_state("networkidle")
        heading = self.page.get_by_role("heading", level=1)
        heading.wait_for()
        return heading

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def within(self) -> Locator:
        """Give the dialog that is open."""
        return self.page.get_by_role("dialog")

    def barriers(self) -> list[str]:
        """Give what axe finds serious on this page for people who cannot see or point."""
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa']})")
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:120]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def wider_than_the_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@contextmanager
def visit(
    browser: Browser, gateway: Gateway, *, scheme: Literal["light", "dark"] = "light", width: int = 1280
) -> Iterator[Visit]:
    """Open a tab of its own; at the end nothing may have gone wrong in it."""
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    visitor = Visit(context.new_page(), gateway)
    try:
        yield visitor
        assert visitor.faults == []
    finally:
        context.close()


def kept(visitor: Visit, name: str) -> None:
    """Keep a picture of the page, to be looked at."""
    folder = Path(ROOT / ".cache" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    visitor.page.screenshot(path=folder / f"{name}.png", full_page=True)
