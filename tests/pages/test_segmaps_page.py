"""The SEG maps page on tiny models, run by Streamlit without a browser: what it says and draws in each state."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from lens.backend import catalog
from lens.backend.encoding import encode
from lens.backend.images import open_picture
from lens.backend.maskfiles import mask_of
from lens.backend.packedmasks import pack
from lens.backend.store import STORE
from lens.gallery import gallery
from tests.pages.conftest import MASKS_WELL, SAYS_SEG, Halves, Open, figure, says, texts, title, values
from ui import maps


def test_without_seg_the_answers_last_word_is_the_query_and_this_is_said(opened: Open):
    says("tiny-plain", "What is it?", "A red mat.")
    page = opened(model="tiny-plain", prompt="What is it?")
    assert "tiny-plain has no <SEG> token (models that have one: tiny-head)" in texts(page)
    kinds = page.button_group(key="kind_box")
    assert kinds.options == ["Token of the text", "Typed word", "Patch"]
    assert title(page).startswith("“␣mat” at p, centred · layer 2 · tiny-plain · image ") and len(values(page)) == 36


def test_a_model_with_seg_is_one_click_away(opened: Open):
    says("tiny-plain", "What is it?", "A red mat.")
    says("tiny-head", "Segment the mat.", "It is <SEG>.")
    page = opened(model="tiny-plain", prompt="What is it?")
    assert page.button(key="to-seg").label == "Segment the mat with tiny-head"
    page.button(key="to-seg").click().run()
    assert title(page).startswith("&lt;SEG&gt; at p, dot · layer 4 · tiny-head")
    assert page.query_params["prompt"] == "Segment the mat." and page.selectbox(key="model").value == "tiny-head"


def test_while_no_model_was_chosen_one_with_seg_is_asked_for_what_the_photo_shows(opened: Open):
    says("tiny-head", "Segment the cat.", "It is <SEG>.")
    says("tiny-head", "Segment the cup.", "It is <SEG>.", photo=1)
    page = opened()
    assert title(page).startswith("&lt;SEG&gt; at p, dot · layer 4 · tiny-head")
    assert page.text_area(key="prompt_box").value == "Segment the cat." and page.text_input(key="thing").value == "cat"
    assert "prompt" not in page.query_params and "model" not in page.query_params
    page.button(key="pick-coffee").click().run()
    assert page.text_area(key="prompt_box").value == "Segment the cup." and "&lt;SEG&gt; at p" in title(page)
    page.text_area(key="prompt_box").set_value("Describe the image.").run()
    assert page.query_params["prompt"] == "Describe the image.", "typed here, where something else is usual"
    page.text_area(key="prompt_box").set_value("Segment the cup.").run()
    assert "prompt" not in page.query_params


def test_a_model_that_was_chosen_stays_though_another_is_usual(opened: Open):
    page = opened(model="tiny-plain")
    assert "tiny-plain" in title(page) and page.text_area(key="prompt_box").value == "Describe the image."
    says("tiny-head", "Segment the cat.", "It is <SEG>.")
    page.selectbox(key="model").set_value("tiny-head").run()
    assert "tiny-head" in title(page) and page.session_state["chosen"] == "tiny-head"
    page.selectbox(key="model").set_value("tiny-plain").run()
    assert "tiny-plain" in title(page) and page.session_state["chosen"] == "tiny-plain"
    assert "chosen" not in opened().session_state, "the usual one is no choice"


def test_without_a_model_with_seg_at_hand_the_catalogs_first_is_shown(opened: Open, monkeypatch: pytest.MonkeyPatch):
    rows = catalog.catalog()
    rows["tiny-head"] = replace(rows["tiny-head"], source="nobody/nothing-of-this-name")
    monkeypatch.setattr("ui.maps.catalog", lambda: rows)
    assert "tiny-plain" in title(opened())
    rows["tiny-head"] = replace(rows["tiny-head"], made_from="tiny-plain", setup="a:b")
    assert maps.usual_model() == "tiny-head", "what is made from the first needs no more than that does"


def test_a_model_just_loaded_is_asked_in_its_own_words(opened: Open):
    says("tiny-seg", "Segment the cat.", "It is <SEG>.")
    STORE.models.clear()
    page = opened(model="tiny-seg")
    assert title(page).startswith("&lt;SEG&gt; at p, dot · layer 4 · tiny-seg")
    assert page.text_area(key="prompt_box").value == "Segment the cat."


def test_no_click_begins_to_fetch_a_model(opened: Open, monkeypatch: pytest.MonkeyPatch):
    rows = catalog.catalog()
    rows["tiny-head"] = replace(rows["tiny-head"], source="nobody/nothing-of-this-name")
    monkeypatch.setattr("ui.maps.catalog", lambda: rows)
    says("tiny-plain", "What is it?", "A red mat.")
    page = opened(model="tiny-plain", prompt="What is it?")
    assert "models that have one: tiny-head" in texts(page)
    assert not [button for button in page.button if button.key == "to-seg"]


def test_the_state_in_the_address_is_what_is_drawn(opened: Open):
    says("tiny-plain", "And this?", "Two dogs.")
    address = {"model": "tiny-plain", "prompt": "And this?", "layer": "4", "similarity": "dot", "scale": "z-score"}
    page = opened(**address, token="answer-0", query="token", token_rule="p-1", opacity="0.3")
    assert "at p-1, dot · layer 4" in title(page)
    assert page.slider(key="opacity").value == 0.3
    own = opened(**address, token="answer-0", query="token")
    assert "at p, dot" in title(own) and values(own) != values(page)
    patch = opened(**address, query="patch", patch="2,3")
    assert title(patch).startswith("patch 2,3, dot") and figure(patch, "segmap")["layout"]["shapes"]
    assert not figure(own, "segmap")["layout"].get("shapes"), "no patch is outlined that isn't the query"


def test_a_token_that_the_text_has_not_gives_way_to_the_default(opened: Open):
    says("tiny-plain", "What now?", "A tower.")
    page = opened(model="tiny-plain", prompt="What now?", query="token", token="answer-99")
    assert "“tower” at p, centred" in title(page)
    seg = opened(model="tiny-plain", prompt="What now?", query="seg", token="nonsense", layer="99")
    assert values(seg) == values(page)


def test_a_typed_word(opened: Open):
    page = opened(model="tiny-plain", query="word")
    assert "Type the name of a thing" in texts(page) and not page.get("plotly_chart")
    page.text_input(key="word_box").set_value(" dog ").run()
    assert title(page).startswith("typed “dog”, centred") and page.query_params["word"] == "dog"
    page.text_input(key="word_box").set_value("cat").run()
    assert title(page).startswith("typed “cat”")


def test_a_typed_word_is_never_markdown(opened: Open):
    """A word in somebody's link must not fetch their picture."""
    page = opened(model="tiny-plain", query="word", word="![x](y.png)")
    assert "![x](y.png)" in title(page)
    assert not [text for kind in ("markdown", "caption", "info") for text in page.get(kind) if "![" in text.value]


def test_seg_is_the_query_where_the_answer_has_it(opened: Open):
    says("tiny-seg", "Segment the cat.", "It is <SEG>.")
    page = opened(model="tiny-seg", prompt="Segment the cat.")
    assert title(page).startswith("&lt;SEG&gt; at p, dot · layer 4")
    assert page.text_input(key="thing").value == "cat" and not page.info
    before = opened(model="tiny-seg", prompt="Segment the cat.", seg_rule="p-1")
    assert "at p-1" in title(before) and values(before) != values(page)


def test_an_answer_without_seg_is_explained_and_can_be_put_into_its_mouth(opened: Open):
    says("tiny-seg", "Segment the dog.", "No dog is there.")
    page = opened(model="tiny-seg", prompt="Segment the dog.")
    (info,) = page.info
    assert "holds no <SEG>" in info.value and "No dog is there." in texts(page)
    assert title(page).startswith("“g” of “dog” at p, dot")
    page.toggle(key="forced_box").set_value(True).run()
    assert title(page).startswith("&lt;SEG&gt; at p, dot") and not page.info
    assert page.query_params["forced"] == "yes" and "was put into the model's mouth" in texts(page)
    chosen = opened(model="tiny-seg", prompt="Segment the dog.", query="seg")
    assert "answered 'No dog is there.', with no <SEG> in it" in texts(chosen)


def test_what_its_saying_seg_is_worth_is_told_of_a_model_where_it_is_known(opened: Open):
    says("tiny-head", "Segment the dog.", "No dog is there.")
    page = opened(model="tiny-head", prompt="Segment the dog.")
    assert SAYS_SEG in page.info[0].value and page.toggle(key="forced_box").label == "Ask for the mask anyway"
    page.toggle(key="forced_box").set_value(True).run()
    assert SAYS_SEG in texts(page) and "was put into the model's mouth" in texts(page) and not page.info
    says("tiny-head", "Segment the hat.", "It is <SEG>.")
    said = opened(model="tiny-head", prompt="Segment the hat.", forced="yes")
    assert SAYS_SEG in texts(said) and "put into the model's mouth" not in texts(said), "it said so by itself"


def test_a_mask_head_that_finds_nothing_says_so_beside_what_the_map_gives(
    opened: Open, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Halves, "logits", lambda self, trace, positions: np.full((len(positions), 12, 12), -1.5))
    says("tiny-head", "Segment the key.", "It is <SEG>.")
    page = opened(model="tiny-head", prompt="Segment the key.")
    assert "takes 0.0% of the picture (the model's mask head)" in texts(page)
    (info,) = page.info
    assert "finds nothing here: its highest logit is −1.50" in info.value and MASKS_WELL in info.value
    share = re.search(r"on the map itself gives ([\d.]+%)", info.value)
    page.button_group(key="mask_rule").set_value("otsu").run()
    assert share and f"takes {share[1]} of the picture (Otsu's threshold)" in texts(page) and not page.info


def test_a_mask_head_that_finds_next_to_nothing_says_so_too(opened: Open, monkeypatch: pytest.MonkeyPatch):
    def one_cell(_head: Halves, _trace: object, positions: tuple[int, ...]) -> np.ndarray:
        logits = np.full((len(positions), 12, 12), -1.0)
        logits[:, 5, 5] = 0.25
        return logits

    monkeypatch.setattr(Halves, "logits", one_cell)
    says("tiny-head", "Segment the nut.", "It is <SEG>.")
    page = opened(model="tiny-head", prompt="Segment the nut.")
    (info,) = page.info
    assert "finds next to nothing here: its highest logit is 0.25" in info.value and MASKS_WELL in info.value


def test_asking_for_another_thing_asks_the_model_again(opened: Open):
    says("tiny-seg", "Segment the cat.", "It is <SEG>.")
    says("tiny-seg", "Segment the lamp.", "It is <SEG>.")
    page = opened(model="tiny-seg", prompt="Segment the cat.", query="patch", patch="0,0")
    page.text_input(key="thing").set_value("lamp").run()
    assert page.query_params["prompt"] == "Segment the lamp." and title(page).startswith("&lt;SEG&gt;")
    assert page.text_area(key="prompt_box").value == "Segment the lamp."


def test_two_seg_have_a_map_each(opened: Open):
    says("tiny-seg", "Segment the cat and the dog.", "<SEG> and <SEG>.")
    first = opened(model="tiny-seg", prompt="Segment the cat and the dog.")
    assert title(first).startswith("&lt;SEG&gt; 1 at p")
    notes = [note["text"] for note in figure(first, "each-seg")["layout"]["annotations"]]
    assert [note.split("<br>")[0] for note in notes] == ["&lt;SEG&gt; 1", "&lt;SEG&gt; 2"]
    tokenizer = STORE.model(catalog.find("tiny-seg")).tokenizer
    ids = tokenizer("<SEG> and <SEG>.", add_special_tokens=False)["input_ids"]
    position = ids.index(tokenizer.convert_tokens_to_ids("<SEG>"), 1)
    second = opened(model="tiny-seg", prompt="Segment the cat and the dog.", query="seg", token=f"answer-{position}")
    assert title(second).startswith("&lt;SEG&gt; 2 at p") and values(second) != values(first)


def test_a_mask_head_gives_the_mask_until_a_threshold_is_chosen(opened: Open):
    says("tiny-head", "Segment the book.", "It is <SEG>.")
    page = opened(model="tiny-head", prompt="Segment the book.")
    grid = encode(STORE.model(catalog.find("tiny-head")), "x", open_picture(gallery()[0].path)).token_map.grids[0]
    width = open_picture(gallery()[0].path).width
    seen = (grid.boxes[0, -1, 2] - grid.boxes[0, 0, 0]) / width
    assert f"takes {seen / 2:.1%} of the picture (the model's mask head)" in texts(page)
    page.button_group(key="mask_rule").set_value("quantile").run()
    assert "(the highest 20% of the map)" in texts(page)
    token = opened(model="tiny-head", prompt="Segment the book.", query="token", token="answer-0")
    assert "Otsu's threshold" in texts(token), "the head reads <SEG> alone"


def test_thresholds_move_points_and_mask(opened: Open):
    says("tiny-plain", "Where is it?", "On the sand.")
    address = {"model": "tiny-plain", "prompt": "Where is it?"}
    names = lambda page: {trace["name"] for trace in figure(page, "segmap")["data"] if "hoverinfo" in trace}  # noqa: E731
    page = opened(**address)
    page.slider(key="count").set_value(5).run()
    page.slider(key="bounds").set_value((0.0, 0.0)).run()
    assert "positive 5" in names(page)
    page.slider(key="bounds").set_value((1.0, 1.0)).run()
    assert {"positive 1", "negative 4"} <= names(page)
    page.button_group(key="parts").set_value([]).run()
    assert not any(name.startswith("positive") for name in names(page))
    page.button_group(key="mask_rule").set_value("value").run()
    page.slider(key="above").set_value(1.0).run()
    assert "takes 0.0% of the picture" in texts(page)


def test_a_mask_of_the_readers_turns_the_curve_into_scores(opened: Open):
    says("tiny-plain", "What is above?", "White birds.")
    page = opened(model="tiny-plain", prompt="What is above?")
    assert [trace["name"] for trace in figure(page, "curve")["data"]] == ["Highest patch"]
    picture = open_picture(gallery()[0].path)
    inside = np.zeros((picture.height, picture.width), bool)
    inside[: picture.height // 2, : picture.width // 2] = True
    from ui.mapstate import OwnMask

    page.session_state["masks"] = {picture.digest: OwnMask(pack(mask_of(inside)), "quarter")}
    page.run()
    curve = figure(page, "curve")["data"]
    assert [trace["name"] for trace in curve] == ["“ds” of “birds” at p"] * 3 and len(curve[0]["y"]) == 5


def test_a_map_that_is_the_same_everywhere_is_refused_in_one_sentence(opened: Open):
    loaded = STORE.model(catalog.find("tiny-plain"))
    linear = loaded.anatomy.require("connector").linear_2
    kept = linear.weight.data.clone()
    try:
        linear.weight.data.zero_()
        page = opened(model="tiny-plain", prompt="Is it all the same?", layer="0", similarity="dot")
        assert "so that nothing stands out in it" in texts(page) and not page.get("plotly_chart")
    finally:
        linear.weight.data.copy_(kept)
    other = opened(model="tiny-plain", prompt="Is it the same?", layer="0")
    assert len(values(other)) == 36


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"model": "tiny-text"}, "has no connector"),
        ({"model": "tiny-plain", "prompt": " "}, "The prompt is empty"),
        ({"model": "tiny-plain", "query": "word", "word": "x " * 30}, "is no word of one to some tokens"),
    ],
)
def test_every_mistake_is_told_in_one_sentence(opened: Open, address: dict[str, str], sentence: str):
    page = opened(**address)
    assert sentence in texts(page) and not page.get("plotly_chart")
