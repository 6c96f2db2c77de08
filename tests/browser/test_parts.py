"""What the console is made of: few parts, packed and kept; what has logic; what the first page reads."""

import re
import subprocess

from playwright.sync_api import Browser

from tests.browser.visit import visit
from tests.integration.admin import ask
from tests.integration.gateway import ROOT, Gateway, call

FIRST_LOAD_BYTES = 400_000


def test_the_pages_parts_are_few_packed_and_kept(full: Gateway) -> None:
    status, headers, body = call(full.port, "GET", "/console/requests/req_1")
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    packed = 0
    for name in re.findall(r'(?:src|href)="(/console/[^"]+)"', body.decode()):
        status, headers, part = call(full.port, "GET", name, headers={"accept-encoding": "gzip"})
        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert "charts" not in name, "they come when there is something to draw"
        assert "immutable" in headers["cache-control"]
        packed += len(part)
    assert 50_000 < packed < 400_000
    assert call(full.port, "GET", "/console/assets/..%2f..%2fpackage.json")[0] == 404


def test_live_figures_and_steps_of_time(full: Gateway) -> None:
    _, _, live = ask(full, "GET", "live")
    assert [one["model"] for one in live["models"]] == ["large", "small"]
    now = int(live["now_s"])
    _, _, found = ask(full, "GET", f"activity?from_s={now - 7200}&to_s={now + 60}&step_s=60")
    assert sum(row["requests"] for row in found["data"]) > 2000
    assert ask(full, "GET", f"activity?from_s=0&to_s={now}")[0] == 400


def test_what_has_logic_by_itself() -> None:
    command = ["node_modules/.bin/vitest", "run"]
    done = subprocess.run(
        command, cwd=ROOT / "dashboards" / "console", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_page_with_its_charts_is_a_small_load(chromium: Browser, full: Gateway) -> None:
    """Everything of the console that comes over the wire until the overview stands, packed as it comes."""
    with visit(chromium, full) as tab:
        tab.by_key().open("")
        tab.page.locator("figure svg").first.wait_for()
        sizes: dict[str, int] = tab.page.evaluate(
            """Object.fromEntries(performance.getEntriesByType('resource')
               .filter(({ name }) => name.includes('/console/'))
               .map(({ name, encodedBodySize }) => [name, encodedBodySize]))"""
        )
    assert any("charts" in name for name in sizes)
    assert 100_000 < sum(sizes.values()) < FIRST_LOAD_BYTES
