"""The figures say what they were given, put it where it belongs, and are the same each time."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from lens.errors import PatchOutsideGrid
from lens.figures.canvas import LONGEST, scale_of
from lens.figures.latentlens import EASY, LARGEST, SMALLEST, Profile, fitted, layer_profile, patch_picture, word_grid
from lens.figures.theme import PAPER, colours, label, limits


def lattice(rows: int, cols: int, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Boxes [rows, cols, 4] that tile a rectangle."""
    xs, ys = np.linspace(x0, x1, cols + 1), np.linspace(y0, y1, rows + 1)
    boxes = np.zeros((rows, cols, 4))
    boxes[..., 0], boxes[..., 2] = xs[:-1], xs[1:]
    boxes[..., 1], boxes[..., 3] = ys[:-1, None], ys[1:, None]
    return boxes


GREY = Image.new("RGB", (600, 300), (128, 128, 128))
CROP = lattice(3, 4, 150, 0, 450, 300)  # a centre crop: nothing covers x < 150 and x > 450
WORDS = [[f"word {row}-{col}" for col in range(4)] for row in range(3)]
VALUES = np.linspace(0.1, 0.9, 12).reshape(3, 4)


def photo(figure) -> Image.Image:
    head, body = figure.layout.images[0].source.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")


def patches(figure):
    return next(trace for trace in figure.data if trace.name == "patches")


def near(found, wanted, tolerance=6) -> bool:
    return bool(np.max(np.abs(np.array(found, dtype=int) - np.array(wanted))) <= tolerance)


def test_one_clickable_marker_at_each_patch_centre():
    cells = patches(patch_picture(GREY, CROP))
    assert [tuple(cell) for cell in cells.customdata] == list(np.ndindex(3, 4))
    for x, y, (row, col) in zip(cells.x, cells.y, cells.customdata, strict=True):
        x0, y0, x1, y1 = CROP[row, col]
        assert (x, y) == ((x0 + x1) / 2, (y0 + y1) / 2)
    assert 0 < cells.marker.opacity < 0.05
    assert cells.selected.marker.opacity == cells.unselected.marker.opacity == cells.marker.opacity


@pytest.mark.parametrize("width", [320, 640, 1000])
@pytest.mark.parametrize("values", [None, VALUES])
def test_markers_are_as_big_as_their_patches(width, values):
    figure = patch_picture(GREY, CROP, values=values, width=width)
    inner = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    assert patches(figure).marker.size == pytest.approx(100 * inner / GREY.width, abs=0.1)
    assert scale_of(GREY, width, bar=values is not None) == pytest.approx(inner / GREY.width)


def test_padding_patches_without_area_take_no_clicks():
    boxes = CROP.copy()
    boxes[2, :, 1] = boxes[2, :, 3] = 300
    assert len(patches(patch_picture(GREY, boxes)).x) == 8


def test_axes_are_the_pixels_of_the_image_with_equal_aspect():
    figure = patch_picture(GREY, CROP)
    assert tuple(figure.layout.xaxis.range) == (0, 600) and tuple(figure.layout.yaxis.range) == (300, 0)
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.uirevision  # without it, a redraw throws the reader's zoom away
    picture = figure.layout.images[0]
    assert (picture.x, picture.y, picture.sizex, picture.sizey) == (0, 0, 600, 300)


def test_values_are_painted_on_their_own_patch_and_nowhere_else():
    values = np.full((3, 4), np.nan)
    values[1, 2] = 1.0
    shown = photo(patch_picture(GREY, CROP, values=values, value_range=(0, 1), opacity=1.0))
    yellow = colours(np.array(1.0), 0, 1)
    for row, col in np.ndindex(3, 4):
        x, y = int(CROP[row, col, [0, 2]].mean()), int(CROP[row, col, [1, 3]].mean())
        assert near(shown.getpixel((x, y)), yellow if (row, col) == (1, 2) else (128, 128, 128))


def test_opacity_blends():
    shown = photo(patch_picture(GREY, CROP, values=np.zeros((3, 4)), value_range=(0, 1), opacity=0.5))
    assert near(shown.getpixel((300, 150)), (colours(np.array(0.0), 0, 1).astype(int) + 128) // 2)


def test_what_the_encoder_never_saw_is_veiled_and_hatched():
    shown = np.asarray(photo(patch_picture(GREY, CROP)).convert("L")).astype(int)
    assert abs(shown[:, 160:440] - 128).max() <= 6
    assert shown[:, :140].mean() > 170 and shown[:, 460:].mean() > 170
    assert shown[:, :140].std() > 10


def test_colour_bar_spans_the_values_or_the_given_range():
    bar = patch_picture(GREY, CROP, values=VALUES).data[0].marker
    assert (bar.cmin, bar.cmax, bar.colorbar.title.text) == (0.1, 0.9, "cosine")
    fixed = patch_picture(GREY, CROP, values=VALUES, value_range=(-1, 1), value_name="logit").data[0].marker
    assert (fixed.cmin, fixed.cmax, fixed.colorbar.title.text) == (-1, 1, "logit")
    assert len(patch_picture(GREY, CROP).data) == 1


def test_selected_patch_has_a_white_frame_on_a_black_one():
    shapes = patch_picture(GREY, CROP, selected=[(1, 2)]).layout.shapes
    assert [shape.line.color for shape in shapes] == ["#000000", "#ffffff"]
    assert shapes[0].line.width > shapes[1].line.width
    assert shapes[0].path == shapes[1].path == "M300,100L375,100L375,200L300,200Z"


def test_a_region_is_framed_as_a_whole():
    square = patch_picture(GREY, CROP, selected=[(0, 0), (0, 1), (1, 0), (1, 1)]).layout.shapes[0].path
    assert square == "M150,0L300,0L300,200L150,200Z"
    corner = patch_picture(GREY, CROP, selected=[(0, 0), (0, 1), (1, 0)]).layout.shapes[0].path
    assert corner.count("M") == 8, "the sides of an L of three cells that no two of them share"
    apart = patch_picture(GREY, CROP, selected=[(0, 0), (1, 1)]).layout.shapes[0].path
    assert apart.count("M") == 8, "two cells that touch at a corner"


@pytest.mark.parametrize("cell", [(3, 0), (0, 4), (-1, 0)])
def test_patch_outside_the_grid_is_refused(cell):
    with pytest.raises(PatchOutsideGrid, match=r"grid of 3 x 4 patches; give a row from 0 to 2"):
        patch_picture(GREY, CROP, selected=[cell])


def test_hover_tells_word_value_place_and_pixels():
    text = patches(patch_picture(GREY, CROP, values=VALUES, words=WORDS)).text[6]
    for part in ("word 1-2", "cosine 0.536", "row 1, column 2", "pixels 300 to 375, 100 to 200"):
        assert part in text


EVIL = "<script>alert(1)</script>&amp;\n\u202e"


def test_foreign_text_is_escaped_in_every_figure():
    words = [[EVIL] * 4] * 3
    profile = Profile(EVIL, (0, 1), (0.1, 0.2), (EVIL, EVIL), EVIL)
    for figure in (
        patch_picture(GREY, CROP, words=words, values=VALUES, title=EVIL),
        word_grid(GREY, CROP, words, title=EVIL),
        layer_profile([profile], title=EVIL),
    ):
        json = figure.to_json()
        assert "<s" not in json and "\\u003cs" not in json and "\u202e" not in json and "\\u202e" not in json
        assert "&lt;script&gt;" in json or "&lt;s" in json


def test_label():
    assert label(" <b>&") == "&lt;b&gt;&amp;"
    assert label("a\nb\tc") == "a↵b⇥c"
    assert label("") == label("  ") == "␣"
    assert label("x" * 100, 10) == "x" * 9 + "…"
    assert label("👩‍🚀"[:1]) == "👩"


def test_colours_are_plotlys_viridis():
    assert colours(np.array([0.0, 1.0, np.nan]), 0, 1).tolist() == [[68, 1, 84], [253, 231, 37], [68, 1, 84]]
    assert colours(np.array([5.0, -5.0]), 0, 1).tolist() == [[253, 231, 37], [68, 1, 84]]
    assert colours(np.array([3.0]), 3, 3).shape == (1, 3)


def test_limits():
    assert limits(np.array([np.nan, 2.0, -1.0, np.inf])) == (-1, 2)
    assert limits(np.array([np.nan])) == (0, 1)


def test_figures_are_deterministic_and_free_of_streamlits_template():
    code = (
        "import sys; sys.path.insert(0, '.')\n{}\n"
        "from tests.figures.test_latentlens_figures import *\n"
        "print(word_grid(GREY, CROP, WORDS, values=VALUES).to_json())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=True).stdout
        for first in ("", "import streamlit.elements.plotly_chart")
    ]
    assert runs[0].strip() == runs[1].strip() == word_grid(GREY, CROP, WORDS, values=VALUES).to_json()
    assert word_grid(GREY, CROP, WORDS).layout.template.layout.paper_bgcolor == PAPER


@pytest.mark.parametrize("size", [(1, 1), (5000, 3), (3, 5000), (4000, 3000)])
def test_any_shape_of_photo_gives_a_figure_of_bearable_size(size):
    image = Image.new("RGB", size, (9, 99, 200))
    figure = patch_picture(image, lattice(8, 8, 0, 0, *size), values=np.random.default_rng(0).random((8, 8)))
    assert 60 <= figure.layout.height <= 1.2 * 640 + 60
    assert max(photo(figure).size) <= LONGEST
    word_grid(image, lattice(8, 8, 0, 0, *size), [["a"] * 8] * 8)


def test_words_are_printed_each_in_its_patch():
    printed = next(trace for trace in word_grid(GREY, CROP, WORDS).data if trace.name == "words")
    assert [text.replace("<br>", "") for text in printed.text] == [word for row in WORDS for word in row]
    assert (printed.x[6], printed.y[6]) == (337.5, 150)


def test_ink_stands_out_from_its_tint():
    figure = word_grid(GREY, CROP, WORDS, values=VALUES, value_range=(0.1, 0.9))
    ink = next(trace for trace in figure.data if trace.name == "words").textfont.color
    assert ink[0] == "#ffffff" and ink[11] != "#ffffff"  # dark violet, bright yellow


@pytest.mark.parametrize("word", ["of", "cat", "photograph", "internationalisation", "x" * 300, "<b>&</b>"])
@pytest.mark.parametrize("width", [8, 25, 44, 200])
def test_fitted_words_fit(word, width):
    text, size = fitted(word, width, width)
    lines = text.split("<br>")
    assert SMALLEST <= size <= LARGEST
    assert len(lines) == 1 or width < EASY * 0.56 * len(word)  # broken only where one easy line has no room
    if size > SMALLEST:
        longest = max(len(line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) for line in lines)
        assert 0.56 * size * longest <= width + 0.5
        assert 1.2 * size * len(lines) <= width + 0.5
    assert len(lines) <= 3


def profile(values=(0.1, 0.3, 0.2), lens="LatentLens", unit="cosine") -> Profile:
    return Profile(lens, (0, 8, 30), values, ("the", "eye", "cat"), unit)


def test_profile_has_a_row_a_lens_with_its_own_unit():
    figure = layer_profile([profile(), profile((3.0, 9.0, 12.0), "Logit lens", "logit")], selected_layer=8)
    assert [list(trace.x) for trace in figure.data] == [[0, 8, 30]] * 2
    assert [trace.yaxis for trace in figure.data] == ["y", "y2"]
    assert "cosine" in figure.layout.yaxis.title.text and "logit" in figure.layout.yaxis2.title.text
    assert figure.layout.yaxis2.domain[1] < figure.layout.yaxis.domain[0]
    assert figure.layout.yaxis2.range[0] < 3 and figure.layout.yaxis2.range[1] > 12
    assert [shape.x0 for shape in figure.layout.shapes] == [8, 8]


def test_profile_names_the_best_word_of_each_layer_and_stresses_the_chosen_one():
    notes = layer_profile([profile()], selected_layer=8).layout.annotations
    assert [(note.x, note.text) for note in notes] == [(0, "the"), (8, "<b>eye</b>"), (30, "cat")]


def test_profile_words_are_slanted_where_they_would_run_into_each_other():
    def angles(layers, width=760):
        one = Profile("a", layers, (0.1,) * len(layers), ("kitten",) * len(layers))
        return {note.textangle for note in layer_profile([one], width=width).layout.annotations}

    assert angles((0, 10, 20, 30)) == {0}
    assert angles((0, 1, 20, 30)) == angles(tuple(range(31))) == angles((0, 10, 20, 30), width=220) == {-50}


def test_profile_ticks_do_not_collide_in_deep_models():
    deep = Profile("a", tuple(range(81)), (0.1,) * 81, ("x",) * 81)
    ticks = layer_profile([deep]).layout.xaxis.tickvals
    assert 20 < len(ticks) < 45 and ticks[0] == 0


def test_profile_of_nothing_or_of_nan_is_still_a_figure():
    assert len(layer_profile([]).data) == 0
    layer_profile([profile((np.nan, np.nan, np.nan))]).to_json()
    with pytest.raises(ValueError):
        layer_profile([Profile("a", (0, 1), (0.1,), ("x", "y"))])


def test_a_redraw_is_fast():
    image, boxes = Image.effect_noise((640, 427), 60).convert("RGB"), lattice(24, 24, 106, 0, 533, 427)
    words = [["kitten"] * 24] * 24
    values = np.random.default_rng(0).random((24, 24))

    def once() -> float:
        started = time.process_time()
        patch_picture(image, boxes, values=values, words=words, selected=[(3, 3)]).to_json()
        return time.process_time() - started

    assert min(once() for _ in range(4)) < 0.2
