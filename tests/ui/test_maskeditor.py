"""Drawings: what the editor sends becomes the pixels that it shows, step by step, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lens.backend.maskfiles import Mask, mask_of
from lens.backend.regions import box_mask, polygon_mask, stroke_mask
from lens.errors import MaskUnusable
from ui.maskeditor import LEAST, MOST_SHAPES, Drawing, KeptDrawing, blank, follow, read_shapes, redrawn, script

SIZE = (40, 30)
BRUSH: dict[str, Any] = {"tool": "brush", "erase": False, "radius": 4.0, "at": [5, 5, 30, 20]}
SQUARE: dict[str, Any] = {"tool": "polygon", "erase": False, "radius": 0, "at": [10, 5, 35, 5, 35, 25, 10, 25]}
HOLE: dict[str, Any] = {"tool": "brush", "erase": True, "radius": 3.0, "at": [20, 15]}


def drawn(*shapes: dict[str, Any], base: Mask | None = None) -> Drawing:
    return follow(blank(SIZE, base), read_shapes(list(shapes), SIZE), 1)


def test_shapes_are_painted_one_after_the_other():
    stroke = stroke_mask(np.array([[5, 5], [30, 20]]), 4.0, SIZE)
    square = polygon_mask(np.array([[10, 5], [35, 5], [35, 25], [10, 25]]), SIZE)
    hole = stroke_mask(np.array([[20, 15]]), 3.0, SIZE)
    np.testing.assert_array_equal(drawn(BRUSH, SQUARE, HOLE).inside, (stroke | square) & ~hole)
    np.testing.assert_array_equal(drawn(HOLE, BRUSH, SQUARE).inside, stroke | square)


def test_one_step_more_and_one_step_back_are_the_whole_drawing_again():
    shapes = read_shapes([BRUSH, SQUARE, HOLE], SIZE)
    stepwise = blank(SIZE)
    for count in (1, 2, 3, 2, 0, 3):
        stepwise = follow(stepwise, shapes[:count], stepwise.version + 1)
        np.testing.assert_array_equal(stepwise.inside, drawn(*[BRUSH, SQUARE, HOLE][:count]).inside)
    assert stepwise.version == 6 and stepwise.mask is not None


def test_nothing_inside_is_no_mask():
    assert blank(SIZE).mask is None
    assert drawn(HOLE).mask is None
    assert drawn(BRUSH, {**SQUARE, "erase": True, "at": [0, 0, 40, 0, 40, 30, 0, 30]}).mask is None


def test_a_file_is_drawn_on_until_the_reader_clears_it():
    base = mask_of(box_mask((0, 0, 10, 10), SIZE), box_mask((30, 0, 40, 30), SIZE))
    over = drawn(SQUARE, base=base)
    mask = over.mask
    assert mask is not None and mask.inside[2, 2] and mask.inside[20, 20]
    assert not mask.inside[20, 32] and mask.ignored[20, 32], "what a file ignores stays ignored"
    kept = redrawn(over, {"version": 7, "shapes": []})
    assert (kept.version, kept.base) == (7, base) and (kept.inside == base.inside).all()
    cleared = redrawn(over, {"version": 8, "shapes": [], "cleared": True})
    assert cleared.mask is None and cleared.base is None


@pytest.mark.parametrize(
    "wrong",
    [
        {**BRUSH, "tool": "spray"},
        {**BRUSH, "at": [5]},
        {**BRUSH, "at": [5, 5, 6]},
        {**SQUARE, "at": [1, 1, 2, 2]},
        {**BRUSH, "at": [5, float("nan")]},
        {**BRUSH, "at": [5, 4000]},
        {**BRUSH, "radius": -1},
        {**BRUSH, "radius": 1e9},
        {**BRUSH, "at": "five"},
        {"tool": "brush"},
        "brush",
    ],
)
def test_what_the_editor_never_sends_is_refused_in_one_sentence(wrong: Any):
    with pytest.raises(MaskUnusable, match="can't be read"):
        read_shapes([BRUSH, wrong], SIZE)


def test_a_drawing_has_an_end():
    assert len(read_shapes([BRUSH] * MOST_SHAPES, SIZE)) == MOST_SHAPES
    with pytest.raises(MaskUnusable, match="more than 500 steps"):
        read_shapes([BRUSH] * (MOST_SHAPES + 1), SIZE)
    with pytest.raises(MaskUnusable, match="more than 500 steps"):
        read_shapes([{**BRUSH, "at": [1, 2] * 60_000}], SIZE)


def test_both_sides_know_the_same_tools():
    """The editor makes each tool that is read here, and its code asks nobody else for anything."""
    code = script("mask.js")
    assert all(f'tool: "{tool}"' in code for tool in LEAST)
    for name in ("mask.js", "points.js"):
        code = script(name).replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not any(word in code for word in ("http", "fetch(", "import ", "innerHTML", "eval("))


def test_a_drawing_is_kept_in_little_room_and_comes_back_whole():
    size = (3000, 2000)
    base = mask_of(np.indices(size[::-1]).sum(0) > 4000, np.indices(size[::-1])[0] < 5)
    drawing = redrawn(blank(size, base), {"version": 3, "shapes": [BRUSH, SQUARE]})
    kept = KeptDrawing.of(drawing)
    assert kept.nbytes < drawing.inside.nbytes / 50
    back = kept.drawing
    assert (back.version, back.shapes) == (drawing.version, drawing.shapes)
    assert (back.inside == drawing.inside).all() and back.base is not None
    assert (back.base.inside == base.inside).all() and (back.base.ignored == base.ignored).all()


def test_an_odd_number_of_pixels_and_nothing_inside_are_kept_too():
    drawing = blank((7, 3))
    assert KeptDrawing.of(drawing).drawing.inside.shape == (3, 7)
    assert not KeptDrawing.of(drawing).drawing.inside.any() and KeptDrawing.of(drawing).drawing.base is None
