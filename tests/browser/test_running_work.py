"""Work that runs is shown where it was started and nowhere else, and stays within reach from every section and page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.driving import no_traceback, rest
from tests.browser.test_embedlens import opened

pytestmark = pytest.mark.browser

ELSEWHERE = "[class*=st-key-cancel-elsewhere] button"


def choose(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).or_(
        page.get_by_role("button", name=name, exact=True)
    ).first.click()


def test_progress_leaves_with_its_section(page: Page, app_url: str) -> None:
    other = "Other rules"
    page.set_default_timeout(180_000)
    opened(page, app_url, "?section=causal&prompt=What+is+here%3F")
    choose(page, "Skip sublayers")
    page.locator(".st-key-start-skip button").click()
    page.locator(".st-key-cancel-skip").wait_for()
    choose(page, other)
    strip = page.get_by_text(re.compile("^Still running: Skip them · "))
    expect(strip).to_be_visible()
    page.wait_for_timeout(2500)  # what runs by the clock has drawn itself again
    expect(page.locator(".st-key-cancel-skip")).to_have_count(0)
    expect(page.locator("[data-testid=stProgress]")).to_have_count(1)
    choose(page, "Causal tests")
    page.locator(".st-key-cancel-skip").wait_for()
    expect(page.locator(ELSEWHERE)).to_have_count(0)
    choose(page, other)
    page.get_by_role("link", name="Function tokens").first.click()
    rest(page)
    expect(strip).to_be_visible(timeout=120_000)
    page.locator(ELSEWHERE).click()
    expect(page.locator(ELSEWHERE)).to_have_count(0, timeout=60_000)
    rest(page)
    no_traceback(page)
