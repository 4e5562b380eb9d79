"""What a reader draws and runs on the SEG maps page, in a real browser: masks, points, controls; on tiny models."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from lens.backend.images import open_picture
from lens.backend.regions import polygon_mask
from lens.gallery import gallery
from tests.browser.driving import no_traceback, query, rest, until
from tests.browser.server import serve
from tests.segmaps.seghelpers import seg_llava
from tests.segmaps.test_sam import tiny_sam

pytestmark = pytest.mark.browser

ADDRESS = "?model=tiny-seg&prompt=Segment+the+cat.&forced=yes&query=seg"
CORNERS = ((0.1, 0.1), (0.7, 0.15), (0.8, 0.8), (0.2, 0.9))
"""In shares of the picture."""


@pytest.fixture(scope="module")
def tiny_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app with a tiny model that has <SEG>, and a tiny SAM."""
    folder = tmp_path_factory.mktemp("segmaps")
    seg_llava(folder / "model")
    home = folder / "home"
    tiny_sam(home / "models" / "tiny-sam")
    row = f'[tiny-seg]\nsource = "{folder / "model"}"\ntitle = "Tiny"\nnote = "Untrained."\n'
    (home / "catalog.toml").write_text(row, encoding="utf-8")
    with serve(home, folder / "log.txt") as url:
        yield url


def opened(page: Page, url: str, section: str) -> Page:
    page.goto(f"{url}/segmaps{ADDRESS}&more={section.replace(' ', '+')}")
    page.locator(f".st-key-section-{SECTIONS[section]}").wait_for(timeout=180_000)
    rest(page)
    return page


SECTIONS = {"Scores": "scores", "Controls and baselines": "controls", "Dropped patches": "ablation", "Points to SAM": "sam",
            "Words": "words"}  # fmt: skip


def stage(page: Page) -> Locator:
    return page.locator(".stage").first


def frame(page: Page) -> FloatRect:
    """Where the editor's picture lies in the window."""
    stage(page).scroll_into_view_if_needed()
    box = stage(page).bounding_box()
    assert box is not None
    return box


def tool(page: Page, name: str) -> Locator:
    return page.locator(".bar").get_by_role("button", name=name, exact=True)


def draw_polygon(page: Page) -> None:
    tool(page, "Polygon").click()
    box = frame(page)
    for x, y in CORNERS:
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    tool(page, "Close shape").click()
    scored(page)


def scored(page: Page) -> None:
    """Wait until the mask is scored."""
    expect(page.locator(".st-key-scores .main-svg").first).to_be_attached()
    rest(page)


def unscored(page: Page) -> None:
    expect(page.get_by_text("No mask yet")).to_be_visible()
    rest(page)


def share(page: Page) -> float:
    """Percent of the picture that the page says are inside."""
    text = page.get_by_text("of the picture are inside").inner_text()
    return float(text.partition("%")[0])


def points(page: Page) -> list[tuple[str, float, float]]:
    """The points in their editor."""
    labels = [mark.get_attribute("aria-label") or "" for mark in page.locator("svg.over g").all()]
    found = [re.match(r"(\w+) point at (\d+), (\d+)", label) for label in labels]
    return [(m[1], float(m[2]), float(m[3])) for m in found if m]


def test_a_drawn_polygon_is_the_mask_that_is_scored_and_saved(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Scores")
    unscored(page)
    draw_polygon(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save mask").click()
    inside = np.asarray(Image.open(Path(download.value.path()))) > 0
    picture = open_picture(gallery()[0].path)
    corners = np.array(CORNERS) * (picture.width, picture.height)
    wanted = polygon_mask(corners, (picture.width, picture.height))
    assert (inside & wanted).sum() / (inside | wanted).sum() > 0.98
    until(lambda: abs(share(page) - 100 * wanted.mean()) < 1)
    expect(page.locator(".st-key-section-scores").get_by_text("the map moved elsewhere")).to_be_visible()
    no_traceback(page)


def test_brush_eraser_undo_and_clear(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Scores")
    draw_polygon(page)
    whole = share(page)
    tool(page, "Erase").click()
    tool(page, "Brush").click()
    box = frame(page)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=8)
    page.mouse.up()
    until(lambda: share(page) < whole - 1)
    tool(page, "Undo").click()
    until(lambda: share(page) == whole)
    tool(page, "Clear").click()
    unscored(page)
    expect(tool(page, "Undo")).to_be_disabled()
    no_traceback(page)


def test_a_mask_is_drawn_by_keys_alone(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Scores")
    stage(page).focus()
    for key in (" ", *["Shift+ArrowRight"] * 4, " "):
        page.keyboard.press(key)
    scored(page)
    painted = share(page)
    assert painted > 1
    page.keyboard.press("Control+z")
    unscored(page)
    tool(page, "Polygon").click()
    stage(page).focus()
    for key in (" ", *["Shift+ArrowUp"] * 4, " ", *["Shift+ArrowLeft"] * 4, " ", "Enter"):
        page.keyboard.press(key)
    scored(page)
    assert share(page) > 1
    no_traceback(page)


def test_a_mask_is_kept_when_the_reader_turns_the_page(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Scores")
    draw_polygon(page)
    kept = share(page)
    page.get_by_role("link", name="LatentLens").first.click()
    page.wait_for_selector(".tl-row", timeout=120_000)
    rest(page)
    page.get_by_role("link", name="SEG maps").first.click()
    scored(page)
    assert share(page) == kept and query(page)["more"] == "scores"
    expect(tool(page, "Undo")).to_be_enabled()
    tool(page, "Undo").click()
    unscored(page)


def test_files_of_masks(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Scores")
    picture = open_picture(gallery()[0].path)
    upload = page.locator(".st-key-mask-file input[type=file]")
    buffer = io.BytesIO()
    Image.new("L", (20, 10), 255).save(buffer, "PNG")
    upload.set_input_files({"name": "small.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
    expect(page.locator(".st-key-lens-error")).to_contain_text("20 x 10 pixels, but the picture has")
    unscored(page)
    box = [0, 0, picture.width // 2, 0, picture.width // 2, picture.height, 0, picture.height]
    coco = json.dumps({"segmentation": [box]}).encode()
    upload.set_input_files({"name": "mask.json", "mimeType": "application/json", "buffer": coco})
    scored(page)
    until(lambda: abs(share(page) - 50) < 0.5)
    expect(page.locator(".st-key-lens-error")).to_have_count(0)
    tool(page, "Erase").click()
    box = frame(page)
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.5 * box["height"])
    until(lambda: share(page) < 49.9)
    tool(page, "Clear").click()
    unscored(page)
    no_traceback(page)


def test_points_are_dragged_moved_added_removed_and_reset(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Points to SAM")
    expect(page.locator("svg.over g").first).to_be_attached()
    own = points(page)
    assert own and {name for name, _, _ in own} <= {"positive", "negative", "neutral"}
    frame(page)
    mark = page.locator("svg.over g").first.bounding_box()
    assert mark is not None
    x, y = mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40, steps=5)
    page.mouse.up()
    rest(page)
    until(lambda: points(page)[0][1:] != own[0][1:] and points(page)[1:] == own[1:])
    moved = points(page)[0]
    page.keyboard.press("ArrowRight")
    until(lambda: points(page)[0][1] > moved[1])
    tool(page, "Add negative").click()
    box = frame(page)
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    until(lambda: len(points(page)) == len(own) + 1 and points(page)[-1][0] == "negative")
    negatives = sum(name == "negative" for name, _, _ in own)
    expect(page.get_by_text(f"{negatives + 1} negative")).to_be_visible()
    tool(page, "Remove point").click()
    until(lambda: len(points(page)) == len(own))
    expect(page.get_by_text(f"· {negatives} negative")).to_be_visible()
    tool(page, "Reset points").click()
    until(lambda: points(page) == own)
    expect(tool(page, "Reset points")).to_be_disabled()
    no_traceback(page)


def test_sam_answers_the_points(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Points to SAM")
    page.locator(".st-key-start-sam button").click()
    expect(page.locator(".st-key-sam .main-svg").first).to_be_attached()
    expect(page.locator(".st-key-sam-answer").get_by_text(re.compile(r"^\d \("))).to_have_count(3)
    no_traceback(page)


@pytest.mark.parametrize("section", ["Controls and baselines", "Dropped patches"])
def test_work_behind_a_button_ends_in_a_figure(page: Page, tiny_url: str, section: str) -> None:
    opened(page, tiny_url, section)
    name = SECTIONS[section]
    page.locator(f".st-key-start-{name} button").click()
    done = {"controls": "swapped: grass", "ablation": "without the most similar"}[name]
    expect(page.locator(f".st-key-section-{name}").get_by_text(done).first).to_be_visible(timeout=180_000)
    rest(page)
    expect(page.locator(f".st-key-section-{name} .main-svg").first).to_be_attached()
    no_traceback(page)


def test_the_words_of_the_query(page: Page, tiny_url: str) -> None:
    opened(page, tiny_url, "Words")
    expect(page.locator(".st-key-section-words .tl-row")).to_have_count(10)
    expect(page.locator(".st-key-query-words .main-svg").first).to_be_attached()
    no_traceback(page)


def test_a_finger_draws_in_a_narrow_window(browser: Browser, tiny_url: str) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 900}, has_touch=True)
    context.set_default_timeout(60_000)
    page = context.new_page()
    opened(page, tiny_url, "Scores")
    tool(page, "Polygon").tap()
    box = frame(page)
    for x, y in CORNERS:
        page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
    tool(page, "Close shape").tap()
    scored(page)
    assert share(page) > 20
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    no_traceback(page)
    context.close()
