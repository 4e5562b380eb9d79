"""Clicks and drags over the picture: one selection of patch or region, and a word where a drag met what isn't seen."""

from __future__ import annotations

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from ui.clicks import remark

SIZE = (600, 300)
"""A picture of which the encoder sees the middle: 3 x 3 patches of 100 pixels, nothing left of 150 and right of 450."""


def boxes() -> np.ndarray:
    found = np.zeros((3, 3, 4))
    found[..., 0] = 150 + 100 * np.arange(3)
    found[..., 1] = 100 * np.arange(3)[:, None]
    found[..., 2:] = found[..., :2] + 100
    return found


def drag(x: tuple[float, float], y: tuple[float, float], *cells: tuple[int, int], kind: str = "box") -> dict:
    """What Streamlit tells of a drag over ``x`` and ``y`` that took these patches."""
    shape = {"xref": "x", "yref": "y", "x": list(x), "y": list(y)}
    points = [{"customdata": list(cell)} for cell in cells]
    return {"points": points, "box": [], "lasso": [], kind: [shape]}


@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_drag_over_what_the_encoder_never_saw_is_told(kind: str):
    said = remark(drag((10, 120), (20, 200), kind=kind), boxes(), SIZE)
    assert "outside the encoder's view" in said and said.endswith("Nothing was chosen.")
    some = remark(drag((10, 320), (20, 180), (0, 0), (1, 0), kind=kind), boxes(), SIZE)
    assert "outside the encoder's view" in some and some.endswith("Only the patches inside the view were taken.")


def test_a_drag_inside_the_view_needs_no_word():
    assert remark(drag((160, 390), (20, 180), (0, 0), (1, 1)), boxes(), SIZE) == ""
    assert remark(drag((110, 490), (-40, 390), (0, 0), (2, 2)), boxes(), SIZE) == "", "nobody aims at a pixel"


def test_a_drag_between_the_centres_says_so():
    said = remark(drag((210, 240), (60, 90)), boxes(), SIZE)
    assert "centre of no patch" in said and "encoder" not in said


def script() -> None:
    import streamlit as st

    from tests.ui.test_clicks import SIZE, boxes
    from ui import addresses, clicks, state

    if "image" in st.session_state:
        addresses.put(image=st.session_state["image"])
    if "happened" in st.session_state:
        st.session_state["picture"] = {"selection": st.session_state.pop("happened")}
        clicks.take_selection("picture", boxes(), SIZE)()
    st.text(f"{state.patch(3, 3)} {state.region(3, 3)} {clicks.taken()} {clicks.said()}")


def after(page: AppTest, selection: dict) -> str:
    page.session_state["happened"] = selection
    return page.run().text[0].value


CLICK = {"points": [{"customdata": [2, 0]}], "box": [], "lasso": []}


def test_patch_and_region_are_one_selection():
    page = AppTest.from_function(script)
    page.query_params["region"] = "0,0,1,1"
    assert page.run().text[0].value.startswith("(1, 1) ((0, 0), (0, 1), (1, 0), (1, 1)) 0")
    assert after(page, CLICK).startswith("(2, 0) () 1"), "a click means this patch"
    assert "region" not in page.query_params, "nor does another page show the region"
    assert after(page, drag((160, 390), (20, 180), (0, 0), (0, 1))).startswith("(2, 0) ((0, 0), (0, 1)) 2")
    assert after(page, drag((160, 240), (20, 90), (1, 2))).startswith("(2, 0) ((1, 2),) 3")


def test_a_drag_over_nothing_keeps_the_selection_and_is_counted_so_that_its_frame_goes():
    page = AppTest.from_function(script)
    page.query_params["region"] = "0,0,1,1"
    shown = after(page, drag((10, 120), (20, 200)))
    assert "((0, 0), (0, 1), (1, 0), (1, 1)) 1 What is hatched" in shown
    assert after(page, {"points": [], "box": [], "lasso": []}) == shown, "an emptied selection changes nothing"
    assert after(page, CLICK) == "(2, 0) () 2"
    after(page, drag((10, 120), (20, 200)))
    page.session_state["image"] = "another"
    assert not page.run().text[0].value.endswith("chosen."), "it was said of another picture"
