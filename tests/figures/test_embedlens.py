"""Classes can be told apart without colour, stand where their patches are, and measures show what they were given."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lens.errors import PatchOutsideGrid
from lens.figures.causal import Effect, Rate, effects, matrix, shares
from lens.figures.embedlens import (
    LOOKS,
    Curve,
    class_cells,
    class_curves,
    class_map,
    class_overlay,
    hatch,
    token_scatter,
)
from lens.figures.multiples import PIXELS, class_multiples, class_tile, keep_sets, value_multiples

GREY = Image.new("RGB", (400, 300), (128, 128, 128))
LABELS = np.array([["sink", "dead", "alive", "alive"], ["dead", "alive", "alive", "none"], ["alive"] * 4])


def tiling(rows: int = 3, cols: int = 4, side: float = 100) -> np.ndarray:
    """Square boxes [rows, cols, 4] from the upper left corner."""
    boxes = np.zeros((rows, cols, 4))
    for row, col in np.ndindex(rows, cols):
        boxes[row, col] = (col * side, row * side, (col + 1) * side, (row + 1) * side)
    return boxes


def decoded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert("RGB")


def lightness(colour: str) -> float:
    """CIELAB L* of a hex colour."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 116 * float(linear @ (0.2126, 0.7152, 0.0722)) ** (1 / 3) - 16


def test_classes_differ_in_lightness_hatch_symbol_and_dash():
    shades = sorted(lightness(look.colour) for look in LOOKS.values())
    assert np.diff(shades).min() > 5
    for attribute in ("strokes", "pattern", "symbol", "dash"):
        assert len({getattr(look, attribute) for look in LOOKS.values()}) == 3


def test_cells_are_filled_by_class_and_others_left_bare():
    cells = class_cells(LABELS)
    assert cells.shape == (3, 4, 4)
    assert tuple(cells[0, 0, :3]) == (0x9A, 0x3B, 0x00) and cells[0, 0, 3] == round(255 * LOOKS["sink"].opacity)
    assert cells[1, 3].tolist() == [0, 0, 0, 0]
    assert len({tuple(cell) for cell in cells.reshape(-1, 4)}) == 4


def test_the_hatch_stays_inside_the_patches_of_its_class():
    path = hatch(tiling(), LABELS == "dead", LOOKS["dead"])
    numbers = np.array([float(n) for n in re.findall(r"[\d.]+", path)]).reshape(-1, 2, 2)
    assert len(numbers) == 2  # one stroke for each of the two dead patches
    for stroke, (x0, y0) in zip(numbers, [(100, 0), (0, 100)], strict=True):
        assert (stroke >= (x0, y0)).all() and (stroke <= (x0 + 100, y0 + 100)).all()


def test_overlay_counts_the_classes_and_takes_clicks_on_every_patch():
    figure = class_overlay(GREY, tiling(), LABELS, selected=[(1, 2)], title="a <b> title")
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["sink 1 (8%)", "dead 2 (17%)", "alive 8 (67%)"]
    cells = next(trace for trace in figure.data if trace.name == "patches")
    assert [tuple(cell) for cell in cells.customdata] == list(np.ndindex(3, 4))
    assert cells.text[0].startswith("<b>sink</b> · row 0, column 0")
    assert figure.layout.title.text == "a &lt;b&gt; title"
    paths = [shape for shape in figure.layout.shapes if shape.line.width == 1.4]
    assert len(paths) == 2  # sink and dead are hatched; shapes above the photo, which would hide them otherwise
    assert all(shape.layer != "below" for shape in paths)


def test_overlay_refuses_a_patch_outside_the_grid():
    with pytest.raises(PatchOutsideGrid):
        class_overlay(GREY, tiling(), LABELS, selected=[(3, 0)])


def test_a_class_without_patches_has_no_hatch_and_counts_nought():
    figure = class_overlay(GREY, tiling(), np.full((3, 4), "alive"))
    assert not figure.layout.shapes
    assert next(trace.name for trace in figure.data if trace.showlegend) == "sink 0 (0%)"


def test_tile_paints_each_class_in_its_own_cell():
    tile = class_tile(LABELS)
    assert tile.size == (4 * PIXELS, 3 * PIXELS)
    at = [
        tile.getpixel((col * PIXELS + PIXELS // 2, row * PIXELS + 1)) for row, col in ((0, 0), (0, 1), (0, 2), (1, 3))
    ]
    assert len(set(at)) == 4 and at[3] == (255, 255, 255)


@pytest.mark.parametrize("width", [320, 700, 1160])
def test_small_multiples_lie_inside_the_figure_and_dont_overlap(width):
    figure = class_multiples(dict.fromkeys(range(13), LABELS), selected_layer=8, width=width)
    right, bottom = figure.layout.xaxis.range[1], figure.layout.yaxis.range[0]
    corners = [(image.x, image.y) for image in figure.layout.images]
    assert len(set(corners)) == 13
    for image in figure.layout.images:
        assert image.x >= 0 and image.x + image.sizex <= right and image.y + image.sizey <= bottom
    bold = [note.text for note in figure.layout.annotations if note.text.startswith("<b>")]
    assert bold == ["<b>layer 8</b><br>8% · 17% · 67%"]


def test_keep_sets_cover_what_is_dropped():
    mask = np.zeros((3, 4), bool)
    mask[0, 0] = True
    figure = keep_sets(GREY, tiling(), {"a rule": mask, "all": np.ones((3, 4), bool)}, side=200)
    first, second = (decoded(image.source) for image in figure.layout.images)
    assert first.getpixel((25, 25))[0] > 120 and first.getpixel((125, 25))[0] < 70
    assert second.getpixel((125, 25))[0] > 120
    assert [note.text for note in figure.layout.annotations] == ["a rule<br>keeps 1 of 12", "all<br>keeps 12 of 12"]


def test_curves_have_one_line_a_class_and_gaps_where_nothing_is_known():
    curve = Curve(
        "Norm",
        "L2",
        (0, 1, 2),
        {"sink": [1.0, float("nan"), 3.0], "alive": [4, 5, 6]},
        {"sink": ([0, 1, 2], [2, 3, 4])},
    )
    marked = replace(curve, mark=1)
    figure = class_curves([marked, marked])
    lines = [trace for trace in figure.data if trace.name]
    assert [line.name for line in lines] == ["sink", "alive"] * 2
    assert lines[0].y == (1.0, None, 3.0) and lines[1].y == (4.0, 5.0, 6.0)
    assert [line.showlegend for line in lines] == [True, True, False, False]
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert band.x == (0, 1, 2, 2, 1, 0) and band.y == (0, 1, 2, 4, 3, 2)
    assert [shape.x0 for shape in figure.layout.shapes] == [1, 1]


def test_scatter_has_every_token_once_in_its_class():
    norms, cosines = np.arange(1.0, 13).reshape(3, 4), np.linspace(0, 1, 12).reshape(3, 4)
    figure = token_scatter(norms, cosines, LABELS, threshold=0.3, selected=(0, 1))
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["sink"].x == (1.0,) and by_name["dead"].x == (2.0, 5.0)
    assert [tuple(cell) for cell in by_name["dead"].customdata] == [(0, 1), (1, 0)]
    assert by_name["chosen patch"].x == (2.0,)
    assert figure.layout.shapes[0].y0 == 0.3
    assert not token_scatter(norms, cosines, LABELS).layout.shapes


def test_effects_show_the_treated_run_beside_its_controls():
    controls = [-1.0, -2.0, -3.0]
    figure = effects({"nats": [Effect("without <sinks>", -0.5, controls), Effect("late", -4.0)]})
    dots, treated, alone = figure.data
    assert dots.x == (-1.0, -2.0, -3.0) and treated.x == (-0.5,) and alone.x == (-4.0,)
    assert (treated.y, alone.y) == ((0,), (1,))
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (band.x0, band.x1) == tuple(np.quantile(controls, (0.025, 0.975)))
    assert figure.layout.yaxis.ticktext == ("without &lt;sinks&gt;", "late")


def test_matrix_centres_a_signed_scale_and_leaves_unknown_cells_blank():
    values = np.array([[1.0, np.nan], [np.nan, -0.2]])
    heat = matrix(values, ["a", "b"], value_name="agreement").data[0]
    assert (heat.zmin, heat.zmax) == (-1.0, 1.0)
    assert heat.z[0][1] is None and heat.z[1][1] == -0.2
    assert matrix(np.eye(3), list("abc"), value_name="cosine", printed=2).data[0].texttemplate is None


def test_shares_have_bars_intervals_and_a_line_at_chance_where_there_is_one():
    rates = [
        Rate("digit", "probe", 0.5, 0.4, 0.7, 0.1),
        Rate("letter", "probe", 0.2, 0.1, 0.3),
        Rate("letter", "answer", 0, 0, 0),
    ]
    figure = shares(rates, value_name="right")
    probe, answer = figure.data
    assert probe.y == (0.5, 0.2) and answer.y == (None, 0)
    assert probe.error_y.array == pytest.approx((0.2, 0.1)) and probe.error_y.arrayminus == pytest.approx((0.1, 0.1))
    assert probe.marker.pattern.shape != answer.marker.pattern.shape
    assert [shape.y0 for shape in figure.layout.shapes] == [0.1]


@pytest.mark.parametrize("width", [560, 1160])
def test_the_same_input_gives_the_same_figure(width):
    def made() -> list[str]:
        return [
            class_overlay(GREY, tiling(), LABELS, width=width).to_json(),
            class_multiples({0: LABELS}, width=width).to_json(),
            effects({"nats": [Effect("a", 1.0, [0.0, 2.0])]}, width=width).to_json(),
        ]

    assert made() == made()


def test_value_multiples_have_a_panel_a_layer_each_in_its_own_range():
    figure = value_multiples(
        {1: np.arange(12.0).reshape(3, 4), 2: np.full((3, 4), np.nan)}, name="norm <b>", selected_layer=2
    )
    assert len(figure.layout.images) == 2 and len(figure.layout.shapes) == 1
    texts = [note.text for note in figure.layout.annotations]
    assert texts == ["layer 1<br>0 to 11", "<b>layer 2</b><br>0 to 1"]
    assert figure.layout.title.text == "norm &lt;b&gt;"


def test_a_map_lets_the_pictures_own_tokens_be_chosen_and_no_others():
    plane = np.array([[0.0, 0], [1, 1], [2, 2], [3, 3]])
    labels = np.array(["dead", "alive", "dead", "alive"])
    figure = class_map(plane, labels, [(0, 0), (0, 1), None, None], selected=(0, 1))
    chosen = [point for trace in figure.data for point in (trace.customdata if trace.customdata is not None else ())]
    assert sorted(map(tuple, chosen)) == [(0, 0), (0, 1)]
    ring = next(trace for trace in figure.data if trace.name == "chosen patch")
    assert (ring.x[0], ring.y[0]) == (1.0, 1.0)
    assert sum(len(trace.x) for trace in figure.data if trace.name.endswith("other pictures")) == 2
