"""What addresses do, in a real browser: those that people type, send each other, and go back to."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.driving import no_traceback, query, rest, until

pytestmark = pytest.mark.browser

PARAMETERS = {
    "": ("lens", "overlay", "layer", "part", "patch", "image"),
    "embedlens": ("section", "top", "cosine", "layer", "dead_cosine"),
    "functiontokens": ("part", "order", "cut", "defined", "firings_n", "basis", "node"),
    "segmaps": ("similarity", "scale", "coarser", "mask_rule", "more", "parts", "query", "token"),
}
"""Some of each page's."""


def opened(page: Page, address: str) -> Page:
    page.goto(address)
    page.locator("[class*=st-key-section-]").wait_for(timeout=180_000)
    rest(page)
    return page


def warnings(page: Page) -> str:
    return "\n".join(page.locator('[data-testid="stAlert"]').all_inner_texts())


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_empty_values_in_the_address_are_as_none(page: Page, app_url: str, name: str) -> None:
    opened(page, f"{app_url}/{name}?" + "&".join(f"{key}=" for key in PARAMETERS[name]))
    no_traceback(page)
    assert "The address asks" not in warnings(page)


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_unknown_values_in_the_address_are_said_and_kept(page: Page, app_url: str, name: str) -> None:
    opened(page, f"{app_url}/{name}?model=nope&" + "&".join(f"{key}=foo" for key in PARAMETERS[name]))
    no_traceback(page)
    expect(page.get_by_text("model=nope")).to_be_visible()
    for key in PARAMETERS[name]:
        expect(page.get_by_text(f"{key}=foo", exact=True)).to_be_visible()
    assert query(page) == {"model": "nope", **dict.fromkeys(PARAMETERS[name], "foo")}


def test_a_choice_is_written_as_a_key_and_ends_what_was_said(page: Page, app_url: str) -> None:
    opened(page, f"{app_url}/?lens=nope&part=Text+layers")
    expect(page.locator(".st-key-section-alignment")).to_be_visible()
    expect(page.get_by_text("lens=nope")).to_be_visible()
    page.get_by_role("radio", name="Logit lens").or_(page.get_by_role("button", name="Logit lens")).first.click()
    expect(page.get_by_text("lens=nope")).to_have_count(0)
    rest(page)
    assert query(page) == {"lens": "logit", "part": "alignment"}


def test_each_page_has_its_own_layer(page: Page, app_url: str) -> None:
    """EmbedLens's classes are those of layer 0, whatever layer another page looks at."""
    opened(page, f"{app_url}/?image=coffee&layer=12")
    page.get_by_role("link", name="EmbedLens").first.click()
    expect(page.get_by_text(re.compile("· layer 0 of 30")).first).to_be_visible()
    rest(page)
    assert query(page) == {"image": "coffee"}
    page.get_by_role("link", name="LatentLens").first.click()
    expect(page.get_by_text(re.compile("· layer 12 of 30")).first).to_be_visible()
    rest(page)
    assert query(page) == {"image": "coffee", "layer": "12"}


def entries(page: Page) -> int:
    return page.evaluate("history.length")


def shown(page: Page, title: str, photo: str, address: dict[str, str]) -> None:
    """Wait until a page shows a photo and the address says no more."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
    expect(page.locator(f".st-key-pick-{photo} button").first).to_have_attribute("kind", "primary")
    rest(page)
    until(lambda: query(page) == address)


def test_each_action_is_one_entry_of_the_history_and_back_undoes_it(page: Page, app_url: str) -> None:
    opened(page, app_url)
    start = entries(page)
    page.locator(".st-key-pick-coffee button").first.click()
    shown(page, "LatentLens", "coffee", {"image": "coffee"})
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("What is this?")
    prompt.press("Control+Enter")
    asked = {"image": "coffee", "prompt": "What is this?"}
    shown(page, "LatentLens", "coffee", asked)
    for title in ("EmbedLens", "SEG maps"):
        page.get_by_role("link", name=title).first.click()
        shown(page, title, "coffee", asked)
    assert entries(page) == start + 4
    for title, photo, address in (
        ("EmbedLens", "coffee", asked),
        ("LatentLens", "coffee", asked),
        ("LatentLens", "coffee", {"image": "coffee"}),
        ("LatentLens", "cat", {}),
    ):
        page.go_back()
        shown(page, title, photo, address)
    expect(prompt).to_have_value("Describe the image.")
    page.go_forward()
    shown(page, "LatentLens", "coffee", {"image": "coffee"})
    assert entries(page) == start + 4


def test_back_undoes_a_choice_of_a_widget(page: Page, app_url: str) -> None:
    opened(page, app_url)
    start = entries(page)
    overlay = page.locator(".st-key-overlay")
    for name, key in (("Words", "words"), ("Picture", "none")):
        overlay.get_by_role("radio", name=name).click()
        page.wait_for_url(f"**/?overlay={key}")
        rest(page)
    assert entries(page) == start + 2
    page.go_back()
    page.wait_for_url("**/?overlay=words")
    expect(overlay.get_by_role("radio", name="Words")).to_be_checked()
    page.go_back()
    page.wait_for_url(re.compile("/$"))
    expect(overlay.get_by_role("radio", name="Heat map")).to_be_checked()


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("LatentLens", "LatentLens"),
        ("EmbedLens", "EmbedLens"),
        ("function-tokens", "Function tokens"),
        ("seg", "SEG maps"),
    ],
)
def test_an_address_that_a_person_would_type_opens_its_page(page: Page, app_url: str, path: str, title: str) -> None:
    opened(page, f"{app_url}/{path}?image=coffee")
    shown(page, title, "coffee", {"image": "coffee"})
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator('[data-testid="stTopNavLink"]')).to_have_count(4)


def test_any_other_address_is_told_by_the_app_itself(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/nothing")
    expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator('[data-testid="stPageLink"]')).to_have_count(4)
    page.locator('[data-testid="stPageLink"] a').first.click()
    expect(page.get_by_role("heading", name="LatentLens", exact=True)).to_be_visible()


def test_classes_are_asked_for_where_there_are_none(page: Page, app_url: str) -> None:
    opened(page, f"{app_url}/embedlens?layer=12")
    expect(page.get_by_text("Classes are defined at layer 0")).to_be_visible()
    page.get_by_role("button", name="Go to layer 0").click()
    expect(page.get_by_text("Classes are defined at layer 0")).to_have_count(0)
    expect(page.get_by_text(re.compile("· layer 0 of 30")).first).to_be_visible()
    until(lambda: query(page) == {})
