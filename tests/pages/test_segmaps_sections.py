"""Sections of the SEG maps page on tiny models, without a browser: what they say, and the library's numbers."""

from __future__ import annotations

import io
import json
import re
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from lens.backend import catalog
from lens.backend.images import Picture, open_picture
from lens.backend.maskfiles import Mask, mask_of, mask_png
from lens.backend.packedmasks import pack
from lens.backend.store import STORE
from lens.gallery import gallery
from lens.segmaps.asking import ask, seg_query
from lens.segmaps.maps import similarity_map
from lens.segmaps.nulls import moved_scores
from lens.segmaps.scores import ciou, giou, score_layers
from lens.segmaps.specificity import control_queries, difference, specificity
from lens.segmaps.words import query_words
from tests.pages.conftest import Open, figure, texts, values
from tests.segmaps.test_sam import tiny_sam
from ui.mapstate import OwnMask

SEG = {"model": "tiny-seg", "prompt": "Segment the cat.", "forced": "yes", "query": "seg"}


def photo(number: int = 0) -> Picture:
    return open_picture(gallery()[number].path)


def quarter(picture: Picture) -> Mask:
    inside = np.zeros((picture.height, picture.width), dtype=bool)
    inside[: picture.height // 2, picture.width // 4 : picture.width // 2] = True
    return mask_of(inside)


def give(page: AppTest, *pictures: Picture) -> None:
    """Let the session hold a mask of some pictures."""
    page.session_state["masks"] = {one.digest: OwnMask(pack(quarter(one)), one.digest[:6]) for one in pictures}


def html(page: AppTest) -> str:
    assert not page.exception
    return "\n".join(element.proto.body for element in page.get("html"))


def finish(page: AppTest, name: str) -> AppTest:
    """Start some work and wait for its end."""
    page.button(key=f"start-{name}").click().run()
    return finished(page)


def finished(page: AppTest) -> AppTest:
    """Wait for the end of the work that runs."""
    for _ in range(300):
        if not any(str(button.key).startswith("cancel-") for button in page.button):
            return page
        time.sleep(0.1)
        page.run()
    raise AssertionError("the work doesn't end")


def seg_map(picture: Picture):
    loaded = STORE.model(catalog.find("tiny-seg"))
    asked = ask(loaded, SEG["prompt"], picture, answer="It is <SEG>.")
    return loaded, seg_query(asked), similarity_map(asked.trace, seg_query(asked), "dot")


def test_without_a_mask_the_reader_is_invited_to_draw(opened: Open):
    page = opened(**SEG, more="Scores")
    assert "No mask yet. Paint what the map should find" in texts(page)
    assert page.get("bidi_component") and not [b for b in page.get("download_button") if "mask.png" in str(b)]


def test_a_file_with_a_mask_is_scored_as_the_library_scores_it(opened: Open):
    page, picture = opened(**SEG, more="Scores"), photo()
    mask = quarter(picture)
    page.file_uploader(key="mask-file").set_value(("mask.png", mask_png(mask.inside), "image/png")).run()
    _, _, found = seg_map(picture)
    scores, moved = score_layers(found, mask), moved_scores(found, mask)
    table = html(page)
    assert f"{scores.at(4).iou:.3f}" in table and f"{scores.at(4).auc:.3f}" in table
    assert f"{moved.of('auc', 4).mean():.3f}" in table and "the map moved elsewhere" in table
    lines = {trace["name"]: trace["y"] for trace in figure(page, "scores")["data"][:5]}
    assert list(lines)[1:] == ["moved, mean", "moved, 95 % lie below", "centre of the picture", "oracle"]
    assert lines["&lt;SEG&gt; at p"] == pytest.approx(scores.curve("iou").tolist())
    assert lines["moved, 95 % lie below"] == pytest.approx(np.quantile(moved.iou, 0.95, axis=1).tolist())
    assert len(set(lines["oracle"])) == 1
    names = [trace["name"] for trace in figure(page, "thresholds")["data"]]
    assert names == ["this map", "oracle"] and "gIoU and cIoU are over pictures" in texts(page)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("small.png", "small", "8 x 6 pixels, but the picture has"),
        ("empty.png", "empty", "The mask is empty"),
        ("mask.json", b'{"segmentation": [[1, 2]]', "no segmentation that can be read"),
        ("mask.json", b'{"counts": [5, 5], "size": [2, 5]}', "5 x 2 pixels, but the picture has"),
        ("mask.png", b"no picture", "no image and no JSON"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(opened: Open, name: str, data: bytes | str, sentence: str):
    picture = photo()
    if isinstance(data, str):
        buffer = io.BytesIO()
        Image.new("L", (8, 6) if data == "small" else (picture.width, picture.height)).save(buffer, "PNG")
        data = buffer.getvalue()
    page = opened(**SEG, more="Scores")
    give(page, picture)
    before = figure(page.run(), "scores")
    page.file_uploader(key="mask-file").set_value((name, data, "application/octet-stream")).run()
    assert sentence in texts(page) and figure(page, "scores") == before
    page.run()
    assert sentence not in texts(page), "it is said once"


def test_over_two_pictures_there_are_giou_and_ciou(opened: Open):
    page = opened(**SEG, more="Scores", image=gallery()[0].key)
    give(page, photo(0), photo(1))
    page.run()
    page.button(key=f"pick-{gallery()[1].key}").click().run()
    pairs = []
    for number in (0, 1):
        at = score_layers(seg_map(photo(number))[2], quarter(photo(number))).at(4)
        pairs.append((at.both, at.union))
    lines = [trace["y"] for trace in figure(page, "over-pictures")["data"]]
    assert [line[4] for line in lines] == pytest.approx([giou(pairs), ciou(pairs)])
    assert "Over the 2 pictures that you masked" in texts(page)


def test_baselines_stand_there_at_once_and_controls_after_their_runs(opened: Open):
    page = opened(**SEG, more="Controls and baselines")
    names = lambda: [note["text"].split("<br>")[0] for note in figure(page, "beside")["layout"]["annotations"]]  # noqa: E731
    free = ["this map", "the word cat", "mean text token", "what stands out", "centre of the picture", "chance"]
    assert names() == free and "each of these maps is scored too" in texts(page)
    give(page, photo())
    finish(page, "controls")
    run = ["swapped: grass", "absent: submarine", "another picture's query", "untrained token", "random language model"]
    assert names() == ["this map", *run, "attention rollout", *free[1:], "the mask on this grid"]
    table = html(page)
    assert "positive points inside" in table and "random points" in table and "Left out" not in table
    page.text_input(key="control-other").set_value("<b>dogs</b>").run()
    finish(page, "controls")
    assert "swapped: &lt;b&gt;dogs&lt;/b&gt;" in html(page) and "<b>dogs" not in html(page)


def test_controls_that_make_no_sense_are_left_out_with_their_reason(opened: Open):
    page = opened(model="tiny-plain", prompt="Is it here?", query="word", word="cat", more="Controls and baselines")
    finish(page, "controls")
    assert "Left out." in html(page) and "is no token of the text" in html(page) and "swapped: grass" in html(page)


def test_dropped_patches_change_the_answer_and_seg(opened: Open):
    page = opened(**SEG, more="Dropped patches")
    page.slider(key="dropped").set_value(4).run()
    finish(page, "ablation")
    assert "(put into its mouth)" in html(page) and "probability of &lt;SEG&gt;" in html(page)
    assert [axis for axis in figure(page, "ablation")["layout"] if axis.startswith("xaxis")] == ["xaxis", "xaxis2"]
    assert "keeps 32 of 36" in json.dumps(figure(page, "dropped-patches"))


def test_without_sam_the_page_says_what_to_fetch_and_shows_the_rest(opened: Open):
    page = opened(**SEG, more="Points to SAM")
    assert "hf download facebook/sam-vit-base" in texts(page) and "positive" in texts(page)
    assert page.get("bidi_component") and len(page.get("plotly_chart")) == 2, "the map and its curve"


def test_sam_answers_the_points_as_the_reader_left_them(opened: Open, tmp_path: Path):
    tiny_sam(tmp_path / "models" / "tiny-sam")
    page = opened(**SEG, more="Points to SAM")
    give(page, photo())
    finish(page, "sam")
    assert "IoU with your mask" in html(page) and page.button_group(key="sam-answer").value == 0
    places = lambda: [trace["x"] for trace in figure(page, "sam")["data"] if trace.get("name", "").startswith("pos")]  # noqa: E731
    own = places()
    page.session_state["moved points"] = _Everywhere((100.0, 50.0, 1))
    page.run()
    assert places() == [[100.0]] != own and "1 positive · 0 negative · 0 neutral" in texts(page)
    page.session_state["moved points"] = _Everywhere()
    page.run()
    assert "There are no points to prompt SAM with" in texts(page)


class _Everywhere(dict):
    """These points, whatever map they are for."""

    def __init__(self, *points: tuple[float, float, int]) -> None:
        super().__init__()
        self.points = points

    def get(self, _subject: str, _default: object = None) -> tuple[int, tuple]:
        return 1, self.points


def test_words_near_the_query(opened: Open):
    page = opened(**SEG, more="Words", layer="2")
    loaded, query, _ = seg_map(photo())
    found = query_words(loaded, query)
    lines = [trace["y"] for trace in figure(page, "query-words")["data"] if len(trace["y"]) == 5]
    assert lines[0] == pytest.approx([float(words.scores[0, 0]) for words in found["logit"].values()], rel=1e-4)
    assert "Logit lens" in html(page) and f"{found['embedding'][2].scores[0, 0]:.3f}" in html(page)


def test_the_map_says_whether_it_is_specific_to_its_word(opened: Open):
    """Below the map, unasked where that is cheap; the difference map and its export name the control words."""
    page = finished(opened(**SEG, controls="dog, sofa"))
    loaded, query, found = seg_map(photo())
    asked = ask(loaded, SEG["prompt"], photo(), answer="It is <SEG>.")
    maps = {
        word: similarity_map(asked.trace, one)
        for word, one in zip(
            ("dog", "sofa"), control_queries(loaded, asked, query, "cat", ("dog", "sofa")), strict=True
        )
    }
    specific, left = specificity(found, "cat", maps, 4), difference(found, maps)
    said = unescape(re.sub("<[^>]+>", "", html(page)))
    assert f"{specific.question} {specific.answer}" in said and f"“dog” {specific.alike['dog']:.2f}" in said.replace(
        "−", "-"
    )
    assert "scale" not in page.query_params
    page.button_group(key="scale").set_value("difference").run()
    page = finished(page)
    assert specific.answer in unescape(re.sub("<[^>]+>", "", html(page))), "the verdict is the plain map's"
    assert figure(page, "segmap")["layout"]["title"]["text"].startswith("&lt;SEG&gt; at p minus control words, dot")
    shown = [float(text.split("</b>")[0].rsplit(" ", 1)[1]) for text in values(page)]
    assert shown == pytest.approx(left.raw[4].reshape(-1).tolist(), abs=6e-4)


def test_a_difference_that_cannot_be_is_shown_as_z_scores_and_said(opened: Open):
    page = opened(**(SEG | {"query": "patch"}), scale="difference")
    assert "A patch has no word that another could take the place of" in texts(page)
    assert "difference" not in str(figure(page, "segmap")["layout"]["title"]) and "Specific to" not in html(page)
    page = opened(**(SEG | {"prompt": "What is it?"}), scale="difference")
    assert "It can't be told." in unescape(re.sub("<[^>]+>", "", html(page)))
    typed = opened(**(SEG | {"query": "word"}), word="<b>cat</b>", scale="difference", controls="dog")
    assert "<b>cat</b>" not in html(typed) and "Specific to “&lt;b&gt;cat&lt;/b&gt;”?" in html(typed)
    assert "typed “&lt;b&gt;cat&lt;/b&gt;” minus control words" in figure(typed, "segmap")["layout"]["title"]["text"]


def test_exports_name_what_each_figure_depends_on(opened: Open, monkeypatch: pytest.MonkeyPatch):
    held: dict[str, dict[str, object]] = {}
    monkeypatch.setattr("ui.export.draw", lambda drawn: held.update({one.name: one.provenance for one in drawn}))
    page = finished(opened(**SEG, more="Words"))
    texts(page)
    assert {"scale", "points", "mask", "similarity"} <= set(held["segmap"])
    assert not {"scale", "points", "mask"} & set(held["curve"]) and "similarity" in held["curve"]
    assert not {"scale", "points", "mask", "similarity"} & set(held["query-words"]) and "query" in held["query-words"]
    assert held["segmap"]["specific to cat"] and "submarine" in str(held["segmap"]["r with the maps of control words"])
    page = opened(**SEG, more="Scores")
    give(page, photo(), photo(1))
    page.run()
    for name in ("curve", "scores", "thresholds"):
        assert str(held[name]["compared with"]).startswith("the reader's mask, "), name
    picture = photo(1)
    page.session_state["scored pictures"] = {
        kind: {**scored, picture.digest: next(iter(scored.values()))}
        for kind, scored in page.session_state["scored pictures"].items()
    }
    page.run()
    over = held["over-pictures"]
    assert photo().digest[:16] in str(over["pictures"]) and picture.digest[:16] in str(over["pictures"])
    assert not {"image", "image sha256", "prompt"} & set(over)
