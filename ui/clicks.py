"""Clicks and drags on figures whose points are patches (``customdata`` is [row, col]) → the reader's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from ui import addresses, state

NOTE, TAKEN = "drag-note", "drags-taken"
"""In the session: what was said of the last drag, with the picture it was about; how many selections were taken."""

UNSEEN = "What is hatched lies outside the encoder's view, and no visual token stands for it"


def take_click(chart: str) -> Callable[[], None]:
    """A click on a figure chooses that patch; an emptied selection changes nothing."""

    def take() -> None:
        cells = _cells(st.session_state[chart]["selection"])
        if cells:
            state.choose_patch(*cells[0])

    return take


def take_selection(chart: str, boxes: np.ndarray, size: tuple[int, int]) -> Callable[[], None]:
    """As :func:`take_click`; a dragged box or lasso, or clicks with Shift, choose a region of the grid.

    ``boxes``: [rows, cols, 4] in pixels of the picture, whose ``size`` is (width, height).
    """

    def take() -> None:
        selection = st.session_state[chart]["selection"]
        cells = _cells(selection)
        dragged = bool(selection.get("box") or selection.get("lasso"))
        if not cells and not dragged:  # Plotly empties what it no longer shows
            return
        st.session_state[TAKEN] = taken() + 1
        st.session_state[NOTE] = (addresses.get("image"), remark(selection, boxes, size) if dragged else "")
        if len(cells) > 1 or (cells and dragged):
            state.choose_region(cells, *boxes.shape[:2])
        elif cells:
            state.choose_patch(*cells[0])

    return take


def taken() -> int:
    """How many selections the session has taken: with it as part of a figure's revision, the frame of a drag goes away
    when the drag has been taken."""
    return st.session_state.get(TAKEN, 0)


def said() -> str:
    """What is to be said of the last drag over the picture in view; mostly nothing."""
    picture, text = st.session_state.get(NOTE, (None, ""))
    return text if picture == addresses.get("image") else ""


def remark(selection: Mapping[str, Any], boxes: np.ndarray, size: tuple[int, int]) -> str:
    """What a drag didn't take, in a sentence; empty when it did what it looked like.

    A drag may reach half a patch over the border of the encoder's view: nobody aims at a pixel.
    """
    unseen = any(_beyond(shape, boxes, size) for kind in ("box", "lasso") for shape in selection.get(kind, ()))
    if not _cells(selection):
        reason = UNSEEN if unseen else "The drag holds the centre of no patch; drag over a larger part"
        return f"{reason}. Nothing was chosen."
    return f"{UNSEEN}. Only the patches inside the view were taken." if unseen else ""


def _beyond(shape: Mapping[str, Sequence[float]], boxes: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether a box or lasso takes in more than half a patch's width of picture that no patch covers."""
    for axis, (name, length) in enumerate(zip("xy", size, strict=True)):
        starts, stops = boxes[..., axis], boxes[..., axis + 2]
        slack = float(np.median(stops - starts)) / 2
        ends = np.clip(np.asarray(shape[name], dtype=float), 0, length)
        if ends.min() < starts.min() - slack or ends.max() > stops.max() + slack:
            return True
    return False


def _cells(selection: Mapping[str, Any]) -> list[tuple[int, int]]:
    return [(int(p["customdata"][0]), int(p["customdata"][1])) for p in selection["points"] if p.get("customdata")]
