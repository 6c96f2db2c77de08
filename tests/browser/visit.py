"""Somebody who uses the console, and notes whatever a page does that it should not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page

from tests.integration.admin import ADMIN, good
from tests.integration.gateway import ROOT, Gateway

AXE = ROOT / "dashboards" / "console" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "", "requests", "alerts", "playground", "fleet", "routing", "cache", "tenants", "keys", "people",
    "webhooks", "usage", "billing", "audit", "settings", "health", "begin",
)  # fmt: skip
TABS = (
    "billing?tab=credit",
    "billing?tab=ledger",
    "usage?org=tenant-001&by=source",
    "requests?seen=waited",
    "nowhere",
)
NARROW = 380
WAITING = ".mantine-Loader-root, .mantine-Skeleton-root, [aria-busy=true]"
SHOTS = ROOT / ".cache" / "screenshots"
# What moved without anybody having touched anything, as Chromium measures it (web.dev/cls).
WATCH = """
globalThis.jumps = [];
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) {
    const what = one.sources.map(({ node }) => (node?.innerText ?? node?.nodeName ?? "").slice(0, 40));
    if (!one.hadRecentInput) globalThis.jumps.push({ value: one.value, what });
  }
}).observe({ type: "layout-shift", buffered: true });
"""
BEYOND = """
const cards = [...document.querySelectorAll('.card, .card .mantine-ScrollArea-viewport')];
const labels = [...document.querySelectorAll('.card figure span, .card .figure, .card [class*=legendItem]')];
const outside = (one) => {
  const range = document.createRange();
  range.selectNodeContents(one);
  const [its, place] = [range.getBoundingClientRect(), one.closest('.card').getBoundingClientRect()];
  return its.width > 0 && (its.left < place.left || its.right > place.right || its.bottom > place.bottom);
};
return [...cards.filter((one) => one.scrollWidth > one.clientWidth + 1), ...labels.filter(outside)]
  .map((one) => (one.innerText ?? one.textContent).slice(0, 80));
"""
STILL = 0.005  # a shift of the window; a line of text that moves by its own height comes to about this
EXPECTED = "the server responded with a status of"  # the browser's own note about a 401 before signing in


class Visit:
    """One tab; ``faults`` are script errors, dialogs, refused styles and calls to other hosts."""

    def __init__(self, page: Page, root: str) -> None:
        self.page = page
        self.root = root
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

    def by_key(self, key: str = ADMIN) -> "Visit":
        """Sign in with the admin key."""
        self.page.goto(f"{self.root}/console")
        self.page.get_by_text("Admin key", exact=True).click()
        self.page.locator("input[name=key]").fill(key)
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
        self.page.locator("nav[aria-label=Pages]").wait_for(state="attached")
        return self

    def open(self, path: str) -> Locator:
        """Open a page by its address, and wait until it has what it shows; gives its heading."""
        self.shown(path)
        self.page.wait_for_load_state("networkidle")
        return self.page.get_by_role("heading", level=1)

    def shown(self, path: str) -> None:
        """Open a page by its address, until its figures and rows stand where they stay."""
        self.page.goto(f"{self.root}/console/{path}")
        self.settled()

    def settled(self) -> None:
        self.page.locator("h1, main p").first.wait_for()
        self.page.locator(WAITING).first.wait_for(state="detached")

    def walk(self) -> Iterator[str]:
        """Go by the links of the menu, as people do, through all pages; gives the address of each."""
        links = self.page.get_by_role("navigation", name="Pages").get_by_role("link")
        for number in range(links.count()):
            name = links.nth(number).inner_text()
            links.nth(number).click()
            self.page.get_by_role("heading", level=1, name=name, exact=True).wait_for()
            self.settled()
            yield self.page.url.partition("/console")[2].strip("/")

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

    def jumped(self) -> tuple[float, list[str]]:
        """Give by how much the page moved while it was loaded (cumulative layout shift), and what did."""
        found = self.page.evaluate("globalThis.jumps")
        return sum(one["value"] for one in found), [str(one) for one in found]

    def cut_off(self) -> list[str]:
        """Give the beginnings of cards, tables and labels of charts that reach beyond their place."""
        return [str(one) for one in self.page.evaluate(f"(() => {{{BEYOND}}})()")]

    def wider_than_the_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def details(gateway: Gateway) -> list[str]:
    """Give the addresses of one of each: organisation, project, key, request."""
    found = []
    for kind, page in (("orgs", "tenants"), ("projects", "projects"), ("keys", "keys")):
        rows = good(gateway, "GET", f"{kind}?limit=5")["data"]
        found += [f"{page}/{row['id']}" for row in rows[-1:]]
    rows = good(gateway, "GET", "requests?limit=1")["data"]
    return [*found, *(f"requests/{row['request_id']}" for row in rows)]


@contextmanager
def visit(
    browser: Browser,
    gateway: Gateway | str,
    *,
    scheme: Literal["light", "dark"] = "light",
    width: int = 1280,
    zone: str | None = None,
) -> Iterator[Visit]:
    """Open a tab of its own before a gateway or an address; at the end nothing may have gone wrong in it."""
    context: BrowserContext = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",
        timezone_id=zone,
    )
    context.add_init_script(WATCH)
    root = gateway if isinstance(gateway, str) else f"http://127.0.0.1:{gateway.port}"
    visitor = Visit(context.new_page(), root)
    try:
        yield visitor
        assert visitor.faults == []
    finally:
        context.close()


def kept(visitor: Visit, name: str) -> None:
    """Keep a picture of the page, to be looked at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    visitor.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
