"""A reader's way through the page of function tokens, in a real browser with the real offline model and its graph."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.driving import no_traceback, query, rest
from tests.browser.server import serve
from tests.helpers import tiny_llama

pytestmark = pytest.mark.browser

SECTIONS = {
    "matrix": "Matrix",
    "statistics": "Token statistics",
    "image": "On the image",
    "ablation": "Ablation",
    "quality": "How good are these features",
}


def settled(page: Page) -> None:
    """Wait until the section is there and the script has come to rest."""
    page.wait_for_selector("[class*=st-key-section-] [data-testid]", state="attached", timeout=180_000)
    rest(page)


def opened(page: Page, url: str, query: str = "") -> Page:
    page.goto(f"{url}/functiontokens{query}")
    settled(page)
    return page


def waits_for(page: Page, key: str, start: str) -> None:
    page.wait_for_function(
        "([key, start]) => (new URL(location).searchParams.get(key) || '').startsWith(start)", arg=[key, start]
    )
    settled(page)


def done(page: Page, name: str) -> None:
    """Start a piece of long work and wait for its end."""
    page.locator(f".st-key-start-{name} button").click()
    page.wait_for_selector(f".st-key-start-{name}", state="detached", timeout=300_000)
    page.wait_for_selector(f".st-key-cancel-{name}", state="detached", timeout=300_000)
    settled(page)


def test_first_sight_has_the_curve_its_control_and_a_walk(page: Page, app_url: str) -> None:
    opened(page, app_url)
    for chart in ("coverage", "rarefaction", "walk"):
        expect(page.locator(f".st-key-{chart} .main-svg").first).to_be_attached()
    expect(page.get_by_text("What remains at equal numbers of occurrences")).to_be_visible()
    expect(page.locator(".st-key-coverage .legendtext", has_text="shuffled labels").first).to_be_attached()
    no_traceback(page)


def test_a_click_walks_from_token_to_feature_and_back(page: Page, app_url: str) -> None:
    opened(page, app_url)
    features = page.locator(".st-key-walk .scatterlayer .trace").last.locator("path.point")
    features.first.scroll_into_view_if_needed()
    box = features.first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    waits_for(page, "node", "feature-")
    for part in ("Promotes", "on function tokens:"):
        expect(page.get_by_text(part).first).to_be_visible()
    expect(page.locator(".tl-sentence mark").first).to_be_visible()
    feature = query(page)["node"]
    page.get_by_role("tab", name="Similar").click()
    page.locator(".st-key-similar button").first.click()
    page.wait_for_function("old => new URL(location).searchParams.get('node') !== old", arg=feature)
    settled(page)
    page.locator(".st-key-trail button").first.click()
    waits_for(page, "node", "token-")
    no_traceback(page)


def test_a_token_that_never_occurs_is_said(page: Page, app_url: str) -> None:
    opened(page, app_url)
    box = page.get_by_role("combobox", name=re.compile("Go to a token"))
    box.fill("<b>zzqx</b>")
    box.press("Enter")
    expect(page.get_by_text("doesn't occur in this corpus")).to_be_visible()
    no_traceback(page)


def test_the_readers_text_is_coloured_and_its_tokens_answer_to_a_click(page: Page, app_url: str) -> None:
    opened(page, app_url)
    text = page.get_by_role("textbox", name="Your text")
    text.fill("The <b>cat</b> sat on the mat, and the dog sat on the cat.")
    text.press("Control+Enter")
    waits_for(page, "text", "The <b>cat")
    tokens = page.locator(".st-key-tokens button")
    expect(tokens.filter(has_text="<").first).to_be_visible()
    expect(page.locator(".st-key-tokens b")).to_have_count(0)
    tokens.nth(8).click()
    waits_for(page, "at", "8")
    expect(tokens.nth(8)).to_have_attribute("aria-pressed", "true")
    page.locator(".st-key-chips button").first.click()
    waits_for(page, "shown", "")
    assert query(page)["paint"] == "feature"
    for chart in ("firings", "losses"):
        expect(page.locator(f".st-key-{chart} .main-svg").first).to_be_attached()
    no_traceback(page)


def test_steering_by_nothing_changes_nothing(page: Page, app_url: str) -> None:
    """α = 0 on the page, from slider to answer."""
    opened(page, app_url, "?part=steering")
    slider = page.locator("[class*=st-key-steer-strength]").get_by_role("slider")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowLeft")
    expect(page.locator("[class*=st-key-steer-strength]")).to_contain_text("0.00")
    settled(page)
    done(page, "steer")
    expect(page.get_by_text("Nothing is added, so that nothing changes.")).to_be_visible()
    before, after = page.locator(".st-key-section-steering table").first.locator("tr td:last-child").all_inner_texts()
    assert before == after
    expect(page.get_by_text("KL of the next token 0.000").first).to_be_visible()
    no_traceback(page)


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_is_drawn_from_its_address(page: Page, app_url: str, section: str) -> None:
    opened(page, app_url, f"?part={section}")
    inside = page.locator(f".st-key-section-{section}")
    work = {"image": "visual", "ablation": "ablate"}.get(section)
    if work:
        done(page, work)
    if section == "quality":
        expect(inside.locator("tr").nth(3)).to_be_attached()
    else:
        expect(inside.locator(".main-svg").first).to_be_attached()
    no_traceback(page)


def test_the_walk_is_kept_when_the_reader_turns_the_page(page: Page, app_url: str) -> None:
    opened(page, app_url, "?node=feature-7&cut=0.5&firings_n=10")
    kept = query(page)
    page.get_by_role("link", name="LatentLens").first.click()
    page.wait_for_selector(".tl-row")
    page.get_by_role("link", name="Function tokens").first.click()
    settled(page)
    assert query(page) == kept
    expect(page.get_by_text("Feature 7", exact=False).first).to_be_visible()


def test_neurons_without_a_graph_say_how_to_build_one(page: Page, app_url: str) -> None:
    opened(page, app_url, "?basis=neurons-3")
    expect(
        page.get_by_text("python -m lens functiontokens graph demo --corpus CORPUS --features neurons-3")
    ).to_be_visible()
    expect(page.locator(".st-key-tokens button").first).to_be_visible()
    no_traceback(page)


def test_a_narrow_window_scrolls_down_and_not_sideways(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    opened(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_text_only_model_works(browser: Browser, tmp_path: Path) -> None:
    """Of its own: no picture, no autoencoder, no graph."""
    tiny_llama(tmp_path / "model")
    home = tmp_path / "home"
    home.mkdir()
    row = f'[tiny]\nsource = "{tmp_path / "model"}"\ntitle = "Tiny"\nnote = "Text only."\n'
    (home / "catalog.toml").write_text(row, encoding="utf-8")
    with serve(home, tmp_path / "log.txt") as url:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        opened(page, url, "?model=tiny")
        expect(page.get_by_text("python -m lens functiontokens graph tiny --corpus CORPUS")).to_be_visible()
        expect(page.locator(".st-key-tokens button").first).to_be_visible()
        no_traceback(page)
        opened(page, url, "?model=tiny&part=On+the+image")
        expect(page.get_by_text("This model takes no pictures")).to_be_visible()
        no_traceback(page)
        page.close()
