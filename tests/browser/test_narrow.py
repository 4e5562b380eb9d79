"""Half a window, and 200 % zoom: nothing is cut off, on any page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.browser.driving import no_traceback, rest

pytestmark = pytest.mark.browser

WIDTHS = (720, 820, 1100)
PAGES = {"latentlens": "/", "embedlens": "/embedlens", "functiontokens": "/functiontokens", "segmaps": "/segmaps"}
CUT = """() => {
  const main = document.querySelector('[data-testid=stMainBlockContainer]').getBoundingClientRect();
  const parts = '[data-testid=stMain] :is(button, p, .gtitle, [data-testid=stMarkdown], .tl-row)';
  return [...document.querySelectorAll(parts)]
    .filter((node) => node.getClientRects().length && !node.closest('[class*=st-key-wide-], table'))
    .map((node) => [node.tagName, node.textContent.slice(0, 60), node.getBoundingClientRect().right - main.right])
    .filter(([, , beyond]) => beyond > 1);
}"""
"""What reaches beyond the page's right edge, figures that scroll by themselves and tables apart."""
NARROW = """() => [...document.querySelectorAll('[data-testid=stMain] .tl-word')]
  .filter((node) => node.textContent.length > 3 && node.getBoundingClientRect().width < 20)
  .map((node) => node.textContent)"""
"""Words that have no room for themselves."""


@pytest.mark.parametrize("name", list(PAGES))
def test_nothing_is_cut_off(page: Page, app_url: str, name: str) -> None:
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto(app_url + PAGES[name])
    page.locator('[data-testid="stMain"] .main-svg').first.wait_for(timeout=120_000)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # figures follow the window after a while
        rest(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate(CUT) == [] and page.evaluate(NARROW) == []
        stacked = page.evaluate("document.querySelector('[data-testid=stMain] [data-testid=stColumn]').offsetWidth")
        room = page.evaluate(
            "document.querySelector('[data-testid=stMain] [data-testid=stHorizontalBlock]').offsetWidth"
        )
        assert stacked >= room - 1, "columns stand below each other"
        wide = page.locator('[class*="st-key-wide-"] .main-svg')
        for number in range(min(wide.count(), 6)):
            box = wide.nth(number).bounding_box()
            assert box is None or box["width"] > 1000, "a wide figure scrolls rather than overprints its labels"
    no_traceback(page)
