"""What a reader drags, clicks and runs below the LatentLens picture, in a real browser with the real offline model.

The first gallery photo is wider than the encoder's view: a border at its left and right is hatched.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.driving import no_traceback, query, rest
from tests.browser.test_latentlens import click_patch, opened, settled

pytestmark = pytest.mark.browser

LONELIEST = """figure => {
  const {xaxis, yaxis} = figure._fullLayout, frame = figure.getBoundingClientRect(), points = [];
  figure.data.forEach(trace => (trace.customdata || []).forEach((cell, i) => points.push({cell,
    x: frame.x + xaxis._offset + xaxis.d2p(trace.x[i]), y: frame.y + yaxis._offset + yaxis.d2p(trace.y[i])})));
  const space = p => Math.min(...points.filter(q => q !== p).map(q => Math.hypot(p.x - q.x, p.y - q.y)));
  return points.reduce((best, p) => space(p) > space(best) ? p : best);
}"""
"""Of a map's points that answer to clicks the one farthest from the others: its cell, and where it is in the window."""


def section(page: Page, url: str, part: str, **address: str) -> Locator:
    """Open the page with a section in view."""
    names = {"Map": "plane", "Region": "region", "Does+it+matter%3F": "without"}
    opened(page, f"{url}?part={part}" + "".join(f"&{key}={value}" for key, value in address.items()))
    return page.locator(f".st-key-section-{names[part]}")


def switch_dragging(page: Page, on: bool) -> None:
    page.get_by_text("Drag a region", exact=True).first.click()
    expect(page.locator(".st-key-drag input")).to_be_checked(checked=on)
    rest(page)


def drag(page: Page, start: tuple[float, float], stop: tuple[float, float]) -> None:
    """Drag over the picture from one place to another, in shares of its width and height."""
    plot = page.locator(".st-key-picture .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, stop)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=6)
    page.mouse.up()


def no_frame_is_left(page: Page) -> None:
    """The frame that a drag draws has gone from the picture."""
    expect(page.locator(".st-key-picture .selectionlayer path")).to_have_count(0)


def test_a_patch_clicked_after_a_region_is_the_one_that_is_ablated(page: Page, app_url: str) -> None:
    below = section(page, app_url, "Does+it+matter%3F", **{"ablated-beside": "Nothing"})
    start = below.locator(".st-key-start-without button")
    expect(start).to_have_text("Ablate this patch")
    switch_dragging(page, True)
    drag(page, (0.3, 0.2), (0.5, 0.5))
    page.wait_for_function("() => new URL(location).searchParams.has('region')")
    expect(start).to_have_text(re.compile(r"^Ablate these \d+ patches$"))
    expect(below.get_by_text(re.compile(r"^Without the region of \d+ patches$"))).to_be_visible()
    settled(page)
    no_frame_is_left(page)
    switch_dragging(page, False)
    click_patch(page, 2, 9)
    assert "region" not in query(page), "a click means this patch"
    expect(start).to_have_text("Ablate this patch")
    expect(below.get_by_text(re.compile(r"144 runs, about \d+ \w+ on this machine"))).to_be_visible()
    start.click()
    expect(below.get_by_text("ablated: 1 visual token dropped")).to_be_visible()
    expect(below.get_by_text("Without patch 2, 9")).to_be_visible()
    expect(below.locator(".st-key-without-next .main-svg").first).to_be_attached()
    no_traceback(page)


def test_a_drag_over_the_hatched_border_is_told_and_leaves_no_frame(page: Page, app_url: str) -> None:
    below = section(page, app_url, "Region")
    expect(below.get_by_text("No region is chosen")).to_be_visible()
    switch_dragging(page, True)
    drag(page, (0.02, 0.1), (0.12, 0.9))
    expect(page.get_by_text("Nothing was chosen")).to_be_visible()
    no_frame_is_left(page)
    assert "region" not in query(page)
    settled(page)
    drag(page, (0.02, 0.6), (0.4, 0.9))
    expect(page.get_by_text("Only the patches inside the view were taken")).to_be_visible()
    expect(below.get_by_text(re.compile(r"^Region of \d+ patches"))).to_be_visible()
    expect(below.locator(".st-key-votes .main-svg").first).to_be_attached()
    no_frame_is_left(page)
    settled(page)
    below.get_by_role("button", name="Clear the region").click()
    expect(below.get_by_text("No region is chosen")).to_be_visible()
    assert "region" not in query(page)
    no_traceback(page)


def test_a_click_on_the_map_chooses_its_patch(page: Page, app_url: str) -> None:
    below = section(page, app_url, "Map", region="1,1,3,3")
    expect(below.get_by_text("principal axis 1")).to_be_visible()
    expect(below.locator('[data-testid="stProgress"]')).to_have_count(0)
    assert below.locator(".legend .traces").count() <= 7
    figure = below.locator(".st-key-plane .js-plotly-plot")
    figure.scroll_into_view_if_needed()
    rest(page)
    point = figure.evaluate(LONELIEST)
    row, col = point["cell"]
    page.mouse.click(point["x"], point["y"])
    page.wait_for_function("patch => new URL(location).searchParams.get('patch') === patch", arg=f"{row},{col}")
    settled(page)
    expect(page.get_by_text(f"Patch {row}, {col}", exact=True).first).to_be_visible()
    assert "region" not in query(page)
    no_traceback(page)
