"""A reader's way through the SEG maps page, in a real browser: with the offline model and a tiny one with <SEG>."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from lens.backend.maskfiles import read_mask
from tests.browser.driving import no_traceback, query, rest, until
from tests.browser.server import serve
from tests.segmaps.seghelpers import seg_llava

pytestmark = pytest.mark.browser

TITLE = ".st-key-segmap .gtitle"
POINTS = ".st-key-segmap .legendtext"


def settled(page: Page) -> None:
    """Wait until the map is drawn and the script has come to rest."""
    page.wait_for_selector(TITLE, timeout=180_000)
    rest(page)


def opened(page: Page, url: str, query: str = "") -> Page:
    page.goto(f"{url}/segmaps{query}")
    settled(page)
    return page


def titled(page: Page, start: str) -> None:
    """Wait until the one map has a title of that form; while a script runs, the former map may be there as well."""
    form = re.compile(start)
    until(lambda: [bool(form.search(text)) for text in page.locator(TITLE).all_text_contents()] == [True])
    rest(page)


def token(page: Page, text: str) -> Locator:
    """A token of prompt or answer."""
    return page.locator(".st-key-text-strip button").filter(has_text=re.compile(rf"^\s*{re.escape(text)}\s*$"))


def patches(page: Page) -> Locator:
    """The clickable patches, in reading order."""
    trace = page.locator(".st-key-segmap .scatterlayer .trace").filter(has=page.locator("path.point[style*='0.01']"))
    return trace.first.locator("path.point")


def saved(page: Page, key: str) -> bytes:
    """What a download button saves."""
    with page.expect_download() as download:
        page.locator(f".st-key-{key} button").click()
    return Path(download.value.path()).read_bytes()


def fill(page: Page, label: str, text: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


def test_first_sight_is_the_map_of_seg_and_its_mask(page: Page, app_url: str) -> None:
    """Nobody chose a model, so that the page opens with one that has <SEG>, which is made from the demo if need be."""
    opened(page, app_url)
    titled(page, "^<SEG> at p, dot · layer 30 · demo-seg · image")
    expect(page.get_by_label("Segment the", exact=True)).to_have_value("cat")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Segment the cat.")
    expect(token(page, "<SEG>")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("little better than chance").first).to_be_visible()
    expect(page.get_by_text("(the model's mask head)")).to_be_visible()
    assert query(page) == {}
    page.locator(".st-key-pick-coffee button").first.click()
    titled(page, "^<SEG> at p, dot · layer 30 · demo-seg · image bb2cb033")
    expect(page.get_by_label("Segment the", exact=True)).to_have_value("cup")
    no_traceback(page)


def test_where_seg_was_not_said_its_mask_can_be_asked_for_anyway(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo-seg&image=coffee&prompt=Segment+the+submarine.")
    expect(page.get_by_text("holds no <SEG>, so there is no map of it")).to_be_visible()
    expect(page.get_by_text("(the model's mask head)")).to_have_count(0)
    page.get_by_text("Ask for the mask anyway").click()
    titled(page, "^<SEG> at p, dot · layer 30 · demo-seg")
    expect(page.get_by_text("was put into the model's mouth")).to_be_visible()
    expect(page.get_by_text("(the model's mask head)")).to_be_visible()
    assert query(page)["forced"] == "yes"
    no_traceback(page)


def test_the_model_with_seg_is_this_pages_until_it_is_chosen(page: Page, app_url: str) -> None:
    """Other pages keep the demo; from the demo one click leads back, and that is a choice for all pages."""
    opened(page, app_url)
    titled(page, "· demo-seg · image")
    turn(page, "EmbedLens", "demo")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Describe the image.")
    turn(page, "SEG maps", "demo-seg")
    page.locator(".st-key-model input").first.click()
    page.get_by_role("option", name="demo", exact=True).click()
    titled(page, "^“␣cat” at p, centred · layer 15 · demo · image")
    turn(page, "EmbedLens", "demo")
    turn(page, "SEG maps", "demo")
    page.get_by_role("button", name="Segment the cat with demo-seg").click()
    titled(page, "^<SEG> at p, dot · layer 30 · demo-seg · image")
    turn(page, "EmbedLens", "demo-seg")
    no_traceback(page)


def turn(page: Page, name: str, model: str) -> None:
    """Turn to another page, and wait until it shows a model."""
    page.get_by_role("link", name=name).first.click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator(".st-key-model input").first).to_have_value(model)
    rest(page)


def test_without_seg_the_map_is_of_the_answers_last_word(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo")
    titled(page, "^“␣cat” at p, centred · layer 15 · demo · image")
    expect(page.get_by_text("demo has no <SEG> token")).to_be_visible()
    expect(patches(page)).to_have_count(144)
    expect(token(page, "cat")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".st-key-curve .main-svg").first).to_be_attached()
    no_traceback(page)


def test_a_click_on_a_token_and_on_a_patch_chooses_the_query(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo")
    token(page, "image").click()
    titled(page, "^“␣image” at p")
    assert query(page)["query"] == "token" and query(page)["token"].startswith("prompt-")
    page.get_by_role("radio", name="p-1").or_(page.get_by_role("button", name="p-1")).first.click()
    titled(page, "^“␣image” at p-1")
    rest(page)
    box = patches(page).nth(5 * 12 + 7).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    titled(page, "^patch 5,7, centred")
    assert query(page)["patch"] == "5,7" and query(page)["query"] == "patch"
    no_traceback(page)


def test_the_address_restores_all_of_it(page: Page, app_url: str, browser: Browser) -> None:
    opened(
        page,
        app_url,
        "?model=demo&image=coffee&query=word&word=cup&layer=12&similarity=cosine&scale=z-score&opacity=0.4",
    )
    page.get_by_role("button", name="contour lines").or_(
        page.get_by_role("checkbox", name="contour lines")
    ).first.click()
    page.wait_for_function("() => new URL(location).searchParams.has('parts')")
    settled(page)
    titled(page, "^typed “cup”, cosine · layer 12")
    shown = page.locator(POINTS).all_inner_texts()
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    other = opened(context.new_page(), page.url.split("?")[0].removesuffix("/segmaps"), "?" + page.url.split("?")[1])
    assert query(other) == query(page)
    titled(other, "^typed “cup”, cosine · layer 12")
    until(lambda: other.locator(POINTS).all_inner_texts() == shown)
    context.close()


def test_a_typed_word_is_text_and_nothing_else(page: Page, app_url: str) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(f"{app_url}/segmaps?model=demo&query=word")
    expect(page.get_by_text("Type the name of a thing")).to_be_visible(timeout=180_000)
    fill(page, "Word", "<img src=x onerror=alert(1)>")
    titled(page, "^typed “<img src=x")
    fill(page, "Word", "🜂" * 50)
    expect(page.locator(".st-key-lens-error")).to_be_visible()
    fill(page, "Word", "dog")
    titled(page, "^typed “dog”")
    expect(page.locator(".st-key-lens-error")).to_have_count(0)
    no_traceback(page)


def test_points_follow_their_thresholds(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo&count=5")
    expect(page.locator(POINTS).first).to_have_text(re.compile("^positive 5"))
    opened(page, app_url, "?model=demo&count=5&bounds=1.0&bounds=1.0")
    expect(page.locator(POINTS)).to_have_text(["positive 1", "negative 4"])


def test_masks_are_saved_in_three_forms_that_say_the_same(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo&image=coffee&mask_rule=quantile&share=0.3")
    expect(page.get_by_text("the highest 30% of the map")).to_be_visible()
    data = {kind: saved(page, f"save-mask-{kind}") for kind in ("PNG", "COCO", "RLE")}
    size = Image.open(io.BytesIO(data["PNG"])).size
    masks = [read_mask(content, size).inside for content in data.values()]
    assert all((mask == masks[0]).all() for mask in masks) and 0.1 < np.mean(masks[0]) < 0.35
    assert json.loads(data["COCO"])["categories"][0]["name"]


def test_the_export_says_how_the_map_was_made(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo&layer=9&similarity=dot&count=7")
    page.get_by_role("button", name="Export").click()
    data = json.loads(saved(page, "save-segmap-JSON"))
    facts = data["provenance"]
    assert facts["layer"] == 9 and facts["similarity"] == "dot" and facts["query"] == "“␣cat” at p"
    assert facts["points"].startswith("at most 7,") and "Otsu" in facts["mask"] and facts["scale"] == "min-max"
    assert len(data["rows"]) == 144 and {"row", "col", "min-max", "dot"} == set(data["rows"][0])
    assert max(row["min-max"] for row in data["rows"]) == 1


def test_the_state_follows_from_page_to_page_and_back(page: Page, app_url: str) -> None:
    opened(page, app_url, "?model=demo&image=coffee&layer=5&query=patch&patch=3,4&similarity=cosine")
    page.get_by_role("link", name="EmbedLens").first.click()
    expect(page.get_by_text("Patch 3, 4", exact=True).first).to_be_visible()
    rest(page)
    kept = {"model": "demo", "image": "coffee", "patch": "3,4"}
    until(lambda: query(page) == kept)
    page.get_by_role("link", name="SEG maps").first.click()
    titled(page, "^patch 3,4, cosine · layer 5")
    until(lambda: query(page) == {**kept, "layer": "5", "query": "patch", "similarity": "cosine"})
    no_traceback(page)


def test_a_prompt_that_cannot_be_used_is_said(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/segmaps?model=demo&prompt=%20")
    expect(page.locator(".st-key-lens-error")).to_contain_text("The prompt is empty", timeout=180_000)
    no_traceback(page)


def test_a_narrow_window_scrolls_down_and_not_sideways(page: Page, app_url: str) -> None:
    page.set_viewport_size({"width": 420, "height": 900})
    opened(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture(scope="module")
def seg_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app with a tiny model that has <SEG>; its weights are random, so that it never says it by itself."""
    folder = tmp_path_factory.mktemp("seg")
    seg_llava(folder / "model")
    (folder / "home").mkdir()
    row = f'[tiny]\nsource = "{folder / "model"}"\ntitle = "Tiny"\nnote = "Random, with <SEG>."\n'
    (folder / "home" / "catalog.toml").write_text(row, encoding="utf-8")
    with serve(folder / "home", folder / "log.txt") as url:
        yield url


def test_a_model_with_seg_is_asked_and_answered_for(page: Page, seg_url: str) -> None:
    opened(page, seg_url, "?model=tiny")
    expect(page.get_by_text("holds no <SEG>, so there is no map of it")).to_be_visible()
    fill(page, "Segment the", "dog")
    page.wait_for_function("() => new URL(location).searchParams.get('prompt') === 'Segment the dog.'")
    rest(page)
    page.locator(".st-key-forced_box label").first.click()
    titled(page, "^<SEG> at p, dot · layer 4 · tiny")
    expect(page.get_by_text("holds no <SEG>")).to_have_count(0)
    expect(token(page, "<SEG>")).to_have_attribute("aria-pressed", "true")
    token(page, "dog").or_(token(page, "og")).or_(token(page, "g")).first.click()
    titled(page, "^“")
    token(page, "<SEG>").click()
    titled(page, "^<SEG> at p")
    no_traceback(page)
