"""Widgets that stand in the address, run by Streamlit without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

LENSES = {"latent": "LatentLens", "logit": "Logit lens"}


def script() -> None:
    """Two pages' worth of widgets; which page, how deep a model and what happens before is for the test to say."""
    import streamlit as st

    from ui import addresses, navigation
    from ui.addresses import pills, segmented, select, select_slider, slider, toggle

    told = st.session_state
    with navigation.around(told.get("turned", "latentlens")):
        depth = told.get("depth", 30)
        st.button("to layer 0", on_click=lambda: addresses.put(layer="0"))
        values = {
            "model": select("Model", ("demo", "demo-seg"), "model", "demo"),
            "layer": slider("Layer", 0, depth, depth // 2, key="layer"),
            "share": slider("Share", 0.0, 1.0, 0.5, 0.05, key="share"),
            "bounds": slider("Bounds", 0.0, 1.0, (0.2, 0.8), 0.05, key="bounds"),
            "lens": segmented(
                "Lens", ("latent", "logit"), "lens", "latent", {"latent": "LatentLens", "logit": "Logit lens"}
            ),
            "top": segmented("Top", (1, 3), "top", 3),
            "parts": pills("Parts", ("smooth", "points"), "parts", ["smooth"]),
            "n": select_slider("Firings", (1, 2, 5), 1, key="n"),
        }
        if told.get("more", True):
            values["centred"] = toggle("Centred", "centred")
        st.json(values)
    told["run"] = told.get("run", 0) + 1


USUAL = {"model": "demo", "layer": 15, "share": 0.5, "bounds": [0.2, 0.8], "lens": "latent", "top": 3, "parts": ["smooth"],
         "n": 1, "centred": False}  # fmt: skip


def opened(**address: str | list[str]) -> AppTest:
    page = AppTest.from_function(script, default_timeout=60)
    for name, text in address.items():
        page.query_params[name] = text
    return ran(page)


def ran(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception
    return page


def values(page: AppTest) -> dict:
    import json

    return json.loads(page.json[0].value)


def warned(page: AppTest) -> str:
    return "\n".join(one.value for one in page.warning)


@pytest.mark.parametrize("text", ["", " ", ["", ""]])
def test_empty_values_are_as_none(text: str | list[str]):
    page = opened(**dict.fromkeys(USUAL, text))
    assert values(page) == USUAL and not warned(page)


@pytest.mark.parametrize("text", ["foo", "-1", "99", "1e400", "🜂", "<script>alert(1)</script>", "x" * 1999])
def test_unknown_values_are_said_and_kept_until_the_reader_chooses(text: str):
    asked = dict.fromkeys(USUAL, text)
    page = opened(**asked)
    for _ in range(2):
        said = warned(page)
        assert values(page) == USUAL and all(f" {name}=" in said for name in USUAL) and len(said) < 3000
        assert page.query_params == asked
        ran(page)


def test_of_a_repeated_value_the_last_counts():
    page = opened(lens=["latent", "logit"], top=["1", "7"])
    assert values(page)["lens"] == "logit" and "top=7" in warned(page)


def test_a_choice_ends_the_warning_and_is_written_as_a_key():
    page = opened(lens="foo", layer="99", parts="x")
    page.button_group(key="lens").set_value("logit")
    page.slider(key="layer").set_value(8)
    page.button_group(key="parts").set_value([])
    ran(page)
    assert not warned(page)
    assert page.query_params == {"lens": "logit", "layer": "8", "parts": "none"}
    page.button_group(key="lens").set_value("latent")
    page.slider(key="layer").set_value(15)
    page.button_group(key="parts").set_value(["smooth"])
    assert ran(page).query_params == {}, "what is usual stands in no address"


def test_an_old_link_works_and_is_written_anew_with_the_next_choice():
    page = opened(lens="Logit lens", bounds=["0.1", "0.9"], parts=["smooth", "points"])
    assert not warned(page) and page.query_params["lens"] == "Logit lens"
    shown = values(page)
    assert (shown["lens"], shown["bounds"], shown["parts"]) == ("logit", [0.1, 0.9], ["smooth", "points"])
    page.slider(key="layer").set_value(3)
    assert ran(page).query_params == {"lens": "logit", "bounds": "0.1,0.9", "parts": "smooth,points", "layer": "3"}
    assert values(page) == {**shown, "layer": 3}


def test_values_round_trip():
    page = opened()
    page.selectbox(key="model").set_value("demo-seg")
    page.slider(key="share").set_value(0.35)
    page.slider(key="bounds").set_value((0.25, 0.6))
    page.select_slider(key="n").set_value(5)
    page.toggle(key="centred").set_value(True)
    page.button_group(key="top").set_value(1)
    ran(page)
    again = opened(**page.query_params)
    assert values(again) == values(page) != USUAL and not warned(again)


def test_a_value_follows_its_usual_one_but_a_chosen_one_stays():
    page = opened(share="0.3")
    page.session_state["depth"] = 12
    assert values(ran(page))["layer"] == 6
    page.slider(key="layer").set_value(11)
    ran(page)
    page.session_state["depth"] = 8
    assert values(ran(page))["layer"] == 4 and "layer=11" in warned(page), "another model is less deep"
    page.session_state["depth"] = 30
    assert values(ran(page))["layer"] == 11 and not warned(page), "and nothing was lost"


def test_a_button_sets_a_widget():
    page = opened(layer="9")
    page.button[0].click()
    assert values(ran(page))["layer"] == 0 and page.query_params == {"layer": "0"}


def test_what_is_out_of_view_is_not_forgotten():
    page = opened()
    page.toggle(key="centred").set_value(True)
    ran(page)
    page.session_state["more"] = False
    ran(page)
    page.session_state["more"] = True
    assert values(ran(page))["centred"] is True


def test_the_layer_is_each_pages_own_and_the_picture_is_shared():
    page = opened(layer="9", image="coffee", patch="1,2", model="demo-seg", lens="logit")
    page.session_state["turned"] = "embedlens"
    page.query_params = {}  # a switch of pages empties the address
    assert values(ran(page)) == {**USUAL, "model": "demo-seg"}
    assert page.query_params == {"image": "coffee", "patch": "1,2", "model": "demo-seg"}
    page.slider(key="layer").set_value(2)
    ran(page)
    for turned, layer in (("latentlens", 9), ("embedlens", 2)):
        page.session_state["turned"] = turned
        page.query_params = {}
        assert values(ran(page))["layer"] == layer
        assert page.query_params["layer"] == str(layer) and page.query_params["image"] == "coffee"


def test_of_quick_clicks_none_is_lost():
    """The second is sent before the browser has the address that the first made."""
    page = opened()
    page.slider(key="layer").set_value(8)
    ran(page)
    page.query_params = {}
    page.button_group(key="lens").set_value("logit")
    assert ran(page).query_params == {"layer": "8", "lens": "logit"} and values(page)["layer"] == 8
