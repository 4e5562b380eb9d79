"""Moved points: kept by the points that they were made of, and only those that lie in the picture."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

SIZE = (60, 40)


def script() -> None:
    import streamlit as st
    from PIL import Image

    from ui.pointeditor import edit_points, moved

    own = [(10.0, 12.0, 1), (30.0, st.session_state.get("y", 5.0), 0)]
    edit_points("editor", Image.new("RGB", (60, 40)), (60, 40), own, st.session_state.get("about", "a"))
    st.session_state["shown"] = moved(own, st.session_state.get("about", "a"))
    st.session_state["subjects"] = list(st.session_state.get("moved points", {}))


def test_own_points_until_some_are_moved_and_own_ones_for_another_map():
    page = AppTest.from_function(script, default_timeout=300).run()
    own = ((10.0, 12.0, 1), (30.0, 5.0, 0))
    assert page.session_state["shown"] == own
    from ui.pointeditor import _subject

    subject = _subject(own, "a")
    page.session_state["moved points"] = {subject: (3, ((1.0, 2.0, -1),))}
    page.run()
    assert page.session_state["shown"] == ((1.0, 2.0, -1),)
    page.session_state["y"] = 6.0
    page.run()
    assert page.session_state["shown"] == (own[0], (30.0, 6.0, 0)), "another map's points are its own"
    page.session_state["y"], page.session_state["about"] = 5.0, "b"
    page.run()
    assert page.session_state["shown"] == own, "so are another picture's"
    page.session_state["about"] = "a"
    page.run()
    assert page.session_state["shown"] == ((1.0, 2.0, -1),)


def test_places_outside_and_unknown_labels_are_left_out():
    from ui.pointeditor import MOST, _read

    assert _read([[1, 2, 1], [61, 2, 1], [1, -1, 0], [5, 40, -1], [5, 5, 7]], SIZE) == ((1.0, 2.0, 1), (5.0, 40.0, -1))
    assert len(_read([[1, 2, 1]] * (MOST + 5), SIZE)) == MOST
