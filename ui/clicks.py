"""Clicks and drags on figures whose points are patches (``customdata`` is [row, col]) → the reader's state."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from ui import state


def take_click(chart: str) -> Callable[[], None]:
    """A click on a figure chooses that patch; an emptied selection changes nothing."""

    def take() -> None:
        cells = _cells(chart)
        if cells:
            state.choose_patch(*cells[0])

    return take


def take_selection(chart: str, rows: int, cols: int) -> Callable[[], None]:
    """As :func:`take_click`; a dragged box or lasso, or clicks with Shift, choose a region of the grid."""

    def take() -> None:
        cells = _cells(chart)
        selection = st.session_state[chart]["selection"]
        if len(cells) > 1 or (cells and (selection.get("box") or selection.get("lasso"))):
            state.choose_region(cells, rows, cols)
        elif cells:
            state.choose_patch(*cells[0])

    return take


def _cells(chart: str) -> list[tuple[int, int]]:
    points = st.session_state[chart]["selection"]["points"]
    return [(int(p["customdata"][0]), int(p["customdata"][1])) for p in points if p.get("customdata")]
