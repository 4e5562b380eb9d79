"""What addresses do, in a real browser: those that people type, send each other, and go back to."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.driving import no_traceback, query, rest

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
