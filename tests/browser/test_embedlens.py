"""A reader's way through the EmbedLens page, in a real browser with the real offline model."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.driving import no_traceback, rest, until

pytestmark = pytest.mark.browser

WORDS = ".tl-row"
SECTIONS = {
    "layers": "Through the layers",
    "pictures": "Across pictures",
    "map": "Map",
    "causal": "Causal tests",
    "rules": "Other rules",
    "anchors": "Anchors",
    "controls": "Controls",
    "bench": "One object in one patch",
}
LEGEND = ".st-key-classes .legendtext"


def settled(page: Page) -> None:
    """Wait until the script has run and drawn the words."""
    page.wait_for_selector(WORDS)
    rest(page)


def opened(page: Page, url: str, query: str = "") -> Page:
    page.goto(f"{url}/embedlens{query}")
    settled(page)
    return page


def counts(page: Page) -> dict[str, int]:
    """By class, the number of patches in the legend, once it is drawn whole."""
    found: dict[str, int] = {}

    def whole() -> bool:
        texts = page.locator(LEGEND).all_text_contents()
        found.clear()
        found.update({name: int(count) for text in texts for name, count in re.findall(r"(\w+) (\d+) \(", text)})
        return sum(found.values()) == 144

    until(whole)
    return found


def has_state(page: Page, wanted: dict[str, str]) -> None:
    """Wait until the address says just that."""
    page.wait_for_function(
        "wanted => { const now = Object.fromEntries(new URL(location).searchParams);"
        " return Object.keys(wanted).length === Object.keys(now).length"
        " && Object.keys(wanted).every(key => now[key] === wanted[key]) }",
        arg=wanted,
    )


def test_first_sight_has_every_patch_in_one_class(page: Page, app_url: str) -> None:
    opened(page, app_url)
    assert set(counts(page)) == {"sink", "dead", "alive"}
    expect(page.locator(WORDS)).to_have_count(5)
    no_traceback(page)


def test_a_click_chooses_the_patch_under_the_pointer(page: Page, app_url: str) -> None:
    opened(page, app_url)
    points = page.locator(".st-key-classes .scatterlayer .trace path.point")
    box = points.nth(3 * 12 + 7).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => new URL(location).searchParams.get('patch') === '3,7'")
    settled(page)
    expect(page.get_by_text("Patch 3, 7", exact=True).first).to_be_visible()


def test_the_stricter_rule_never_adds_sink_or_dead_tokens(page: Page, app_url: str) -> None:
    opened(page, app_url)
    three = counts(page)
    page.get_by_role("radio", name="best word").or_(page.get_by_role("button", name="best word")).first.click()
    page.wait_for_function("() => new URL(location).searchParams.has('top')")
    settled(page)
    until(lambda: counts(page)["alive"] >= three["alive"])


def test_a_test_shows_progress_can_be_cancelled_and_run_again(page: Page, app_url: str) -> None:
    opened(page, app_url, "?section=causal&prompt=What+is+this%3F")
    expect(page.get_by_text("matter for the answer isn't known yet")).to_be_visible()
    page.locator(".st-key-start-prune button").click()
    page.locator(".st-key-cancel-prune button").click()
    page.locator(".st-key-again-prune button").click()
    expect(page.get_by_text("unchanged", exact=True).first).to_be_visible(timeout=300_000)
    settled(page)
    expect(page.locator(".st-key-causal-prune .main-svg").first).to_be_attached()
    expect(page.get_by_text(re.compile(r"^Here the dead tokens .* p = \d+/21"))).to_be_visible()
    no_traceback(page)
    page.reload()
    settled(page)
    expect(page.get_by_text("unchanged", exact=True).first).to_be_visible()  # the result is kept


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_is_drawn_from_its_address_and_does_its_work(page: Page, app_url: str, section: str) -> None:
    opened(page, app_url, f"?section={section}")
    expect(page.get_by_role("radio", name=SECTIONS[section], exact=True)).to_be_checked()
    start = page.locator(f".st-key-section-{section} [class*=st-key-start-] button")
    if section not in ("causal", "anchors", "bench"):  # the first is tried below, the others have nothing to start
        start.first.click()
        page.wait_for_selector(f".st-key-section-{section} [class*=st-key-start-]", state="detached")
        page.wait_for_selector(f".st-key-section-{section} [class*=st-key-cancel-]", state="detached", timeout=300_000)
        settled(page)
        expect(page.locator(f".st-key-section-{section} .main-svg").first).to_be_attached()
    no_traceback(page)


def test_the_state_follows_from_page_to_page_and_back(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/?image=coffee&patch=3,4&layer=5&prompt=What+is+this%3F")
    rest(page)
    page.get_by_text("Patch 3, 4", exact=True).first.wait_for()
    page.get_by_role("link", name="EmbedLens").first.click()
    settled(page)
    expect(page.get_by_text("Patch 3, 4", exact=True).first).to_be_visible()
    kept = {"image": "coffee", "patch": "3,4", "prompt": "What is this?"}
    has_state(page, kept)
    page.go_back()
    page.wait_for_url(re.compile(r"/\?"))
    page.get_by_text("Patch 3, 4", exact=True).first.wait_for()
    has_state(page, {**kept, "layer": "5"})


def test_moving_a_threshold_changes_the_anchors_without_a_new_pass(page: Page, app_url: str) -> None:
    opened(page, app_url, "?dead_cosine=1.0&sink_cosine=1.0")
    until(lambda: counts(page)["alive"] == 144)
    expect(page.get_by_text("dead: none found").first).to_be_visible()
    no_traceback(page)


def test_a_narrow_window_scrolls_down_and_not_sideways(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    opened(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
