"""A reader's way through the LatentLens page, in a real browser with the real offline model."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.driving import no_traceback, query, rest, until

pytestmark = pytest.mark.browser

CARDS = ".tl-row"


def settled(page: Page) -> None:
    """Wait until the cards are there and the page has come to rest."""
    page.wait_for_selector(CARDS)
    rest(page)


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    settled(page)
    return page


def cards(page: Page) -> list[str]:
    return page.locator(CARDS).all_inner_texts()


def click_patch(page: Page, row: int, col: int, rows: int = 12, cols: int = 12) -> None:
    """Click the middle of a patch, found by the markers' layer of the picture."""
    points = page.locator(".st-key-picture .scatterlayer .trace").last.locator("path.point")
    box = points.nth(row * cols + col).bounding_box()
    assert box is not None
    # Away from the gallery first: a photo's tooltip lies over the picture while the pointer is on either.
    page.mouse.move(700, 990)
    expect(page.get_by_role("tooltip")).to_have_count(0)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("patch => new URL(location).searchParams.get('patch') === patch", arg=f"{row},{col}")
    settled(page)


def jpeg(size: tuple[int, int] = (300, 200), colour: str = "orange") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def upload(page: Page, name: str, data: bytes, kind: str = "image/jpeg") -> None:
    page.locator('input[type="file"]').set_input_files({"name": name, "mimeType": kind, "buffer": data})


def test_first_sight_shows_words_by_three_lenses(page: Page, app_url: str) -> None:
    opened(page, app_url)
    expect(page.locator(".tl-lens")).to_have_text(["LatentLens", "Logit lens", "Embedding lens"])
    expect(page.locator(CARDS)).to_have_count(15)
    expect(page.locator(".st-key-answer")).to_contain_text(re.compile("[A-Za-z]"))
    no_traceback(page)


def test_a_click_chooses_the_patch_under_the_pointer(page: Page, app_url: str) -> None:
    opened(page, app_url)
    for row, col in ((2, 9), (11, 0), (0, 11)):
        click_patch(page, row, col)
        assert query(page)["patch"] == f"{row},{col}"
        expect(page.get_by_text(f"Patch {row}, {col}", exact=True).first).to_be_visible()


def test_gallery_layer_and_lens_are_kept_in_a_permalink(page: Page, app_url: str, browser: Browser) -> None:
    opened(page, app_url)
    before = cards(page)
    page.get_by_role("button", name="A cup of coffee").click()
    page.wait_for_function("() => new URL(location).searchParams.get('image') === 'coffee'")
    settled(page)
    click_patch(page, 4, 5)
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function("() => new URL(location).searchParams.has('layer')")
    settled(page)
    page.get_by_role("radio", name="Words").or_(page.get_by_role("button", name="Words")).first.click()
    page.wait_for_function("() => new URL(location).searchParams.get('overlay') === 'words'")
    settled(page)
    until(lambda: cards(page) != before)
    state, shown = query(page), cards(page)
    assert state["image"] == "coffee" and state["patch"] == "4,5"

    other = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    opened(other, page.url)
    assert query(other) == state
    until(lambda: cards(other) == shown)
    other.context.close()


def test_an_upload_is_read_and_found_again_by_its_address(page: Page, app_url: str, browser: Browser) -> None:
    opened(page, app_url)
    before = cards(page)
    upload(page, "my <b>picture</b>.jpg", jpeg())
    page.wait_for_function("() => (new URL(location).searchParams.get('image') || '').startsWith('upload-')")
    settled(page)
    until(lambda: cards(page) != before)
    shown = cards(page)
    other = browser.new_context().new_page()
    opened(other, page.url)
    until(lambda: cards(other) == shown)
    other.context.close()


def test_a_forgotten_upload_is_said_and_the_page_works(page: Page, app_url: str) -> None:
    opened(page, f"{app_url}/?image=upload-{'0' * 64}")
    expect(page.get_by_text("no longer holds")).to_be_visible()
    assert cards(page)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("text.png", b"this is no picture at all"),
        ("cut.jpg", jpeg((900, 700))[:1500]),
        ("huge.png", "huge"),
    ],
)
def test_a_broken_upload_is_one_sentence_and_the_page_works(
    page: Page, app_url: str, name: str, data: bytes | str
) -> None:
    if data == "huge":
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((13000, 13000), bool)).save(buffer, "PNG")
        data = buffer.getvalue()
    opened(page, app_url)
    before = cards(page)
    assert isinstance(data, bytes)
    upload(page, name, data)
    message = page.locator(".st-key-upload-error")
    expect(message).to_contain_text("This file can't be used.")
    settled(page)
    until(lambda: cards(page) == before)
    no_traceback(page)
    click_patch(page, 1, 1)


@pytest.mark.parametrize("name", ["photo.jfif", "photo"])
def test_what_a_file_is_its_content_says(page: Page, app_url: str, name: str) -> None:
    opened(page, app_url)
    upload(page, name, jpeg(), "application/octet-stream")
    page.wait_for_function("() => (new URL(location).searchParams.get('image') || '').startsWith('upload-')")
    settled(page)
    expect(page.locator(".st-key-upload-error")).to_have_count(0)


def test_a_message_about_a_file_goes_with_it(page: Page, app_url: str) -> None:
    opened(page, app_url)
    upload(page, "text.png", b"this is no picture at all")
    expect(page.locator(".st-key-upload-error")).to_contain_text("This file can't be used.")
    page.locator(".st-key-pick-coffee button").first.click()
    settled(page)
    expect(page.locator(".st-key-upload-error")).to_have_count(0)


def test_foreign_text_is_text(page: Page, app_url: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    opened(page, app_url)
    prompt = page.get_by_label("Prompt")
    prompt.fill("<script>alert(1)</script><img src=x onerror=alert(2)> what is this?")
    prompt.press("Control+Enter")
    page.wait_for_function("() => (new URL(location).searchParams.get('prompt') || '').includes('script')")
    settled(page)
    upload(page, "<img src=x onerror=alert(3)>.jpg", jpeg(colour="blue"))
    page.wait_for_function("() => (new URL(location).searchParams.get('image') || '').startsWith('upload-')")
    settled(page)
    no_traceback(page)


@pytest.mark.parametrize(("prompt", "sentence"), [(" ", "prompt is empty"), ("word " * 20_000, "shorten it")])
def test_a_prompt_that_cannot_be_used(page: Page, app_url: str, prompt: str, sentence: str) -> None:
    opened(page, app_url)
    box = page.get_by_label("Prompt")
    box.fill(prompt)
    box.press("Control+Enter")
    expect(page.locator(".st-key-lens-error")).to_contain_text(sentence)
    no_traceback(page)
    box.fill("What is this? 🐱")
    box.press("Control+Enter")
    settled(page)
    expect(page.locator(".st-key-lens-error")).to_have_count(0)


def test_exports_carry_the_data_and_where_it_comes_from(page: Page, app_url: str, tmp_path: Path) -> None:
    opened(page, app_url)
    files = {}
    page.get_by_role("button", name="Export").click()
    for kind in ("HTML", "CSV", "JSON"):
        with page.expect_download() as download:
            page.locator(f".st-key-save-picture-{kind} button").click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    data = json.loads(files["JSON"].read_text())
    assert data["provenance"]["model"] == "demo" and data["provenance"]["layer"] == 8
    assert len(data["provenance"]["image sha256"]) == 64
    assert len(data["rows"]) == 144 * 5 and {"row", "col", "word", "similarity", "sentence"} <= set(data["rows"][0])
    assert "# model: demo" in files["CSV"].read_text()
    assert files["CSV"].name.startswith("demo_")

    page.goto(files["HTML"].as_uri())
    page.wait_for_selector(".main-svg")
    for kind in ("PNG", "SVG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).click()
        picture = tmp_path / f"figure.{kind.lower()}"
        download.value.save_as(picture)
        assert picture.read_bytes().startswith(b"\x89PNG" if kind == "PNG" else b"<svg")
        assert kind == "PNG" or b"demo" in picture.read_bytes()


def test_the_mode_bar_saves_svg_when_asked(page: Page, app_url: str, tmp_path: Path) -> None:
    opened(page, app_url)
    page.get_by_role("button", name="Export").click()
    page.get_by_role("radio", name="SVG").or_(page.get_by_role("button", name="SVG")).first.click()
    settled(page)
    page.keyboard.press("Escape")
    page.locator(".st-key-picture .js-plotly-plot").hover()
    with page.expect_download() as download:
        page.locator('.st-key-picture [data-title^="Download plot"]').click()
    assert download.value.suggested_filename.endswith(".svg")


def test_a_narrow_window_scrolls_down_and_not_sideways(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    opened(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert cards(page)
