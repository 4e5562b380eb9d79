"""Figures of the SEG maps: what is drawn lies where it should, clicks mean patches, foreign text stays text."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from lens.errors import PatchOutsideGrid
from lens.figures.contours import contour_segments, marching_squares, mask_segments
from lens.figures.mapimage import map_png
from lens.figures.segmaps import (
    MEASURES,
    Drawn,
    Layer,
    ScoreLine,
    map_multiples,
    map_overlay,
    painted_photo,
    score_curves,
    svg_path,
    threshold_curves,
)

EVIL = '<b onclick="x()">&\n'
PHOTO = Image.new("RGB", (90, 60), (120, 120, 120))


def grid_boxes(rows: int, cols: int, left: float = 15.0, top: float = 0.0, side: float = 10.0) -> np.ndarray:
    boxes = np.empty((rows, cols, 4))
    boxes[..., 0] = left + side * np.arange(cols)
    boxes[..., 1] = top + side * np.arange(rows)[:, None]
    boxes[..., 2], boxes[..., 3] = boxes[..., 0] + side, boxes[..., 1] + side
    return boxes


BOXES = grid_boxes(6, 6)
VALUES = np.arange(36.0).reshape(6, 6)


def test_a_contour_of_a_plane_is_a_line():
    """The map is x in pixels, so the line of 40 stands at x = 40, from the first row's middle to the last's."""
    plane = np.tile((BOXES[0, :, 0] + BOXES[0, :, 2]) / 2, (6, 1))
    segments = contour_segments(plane, BOXES, 42.5)
    assert segments.shape == (5, 4)
    assert segments[:, [0, 2]] == pytest.approx(np.full((5, 2), 42.5))
    assert sorted({round(y) for y in segments[:, [1, 3]].ravel()}) == [5, 15, 25, 35, 45, 55]
    assert len(contour_segments(plane, BOXES, 1000.0)) == 0


def test_contours_close_around_a_hill():
    """Every end of a segment is the end of just one other: a closed line, at the radius that the level says."""
    y, x = np.mgrid[0:41, 0:41] / 2.0
    hill = -np.hypot(x - 10, y - 9.7)
    segments = marching_squares(hill, -6.0)
    ends = np.round(segments.reshape(-1, 2), 9)
    _, counts = np.unique(ends, axis=0, return_counts=True)
    assert (counts == 2).all()
    assert np.hypot(ends[:, 0] / 2 - 10, ends[:, 1] / 2 - 9.7) == pytest.approx(6, abs=0.02)


@pytest.mark.parametrize("middle", [0.9, 0.1])
def test_a_saddle_is_joined_by_its_middle(middle: float):
    """High corners a and c: with a high middle they are joined, and the two lines cut off b and d."""
    high = 2 * middle
    values = np.array([[high, 0.0], [0.0, high]])
    segments = (
        marching_squares(values, 0.5) if middle > 0.5 else marching_squares(np.array([[0.6, 0.0], [0.0, 0.6]]), 0.5)
    )
    assert len(segments) == 2
    corners = {(1, 0), (0, 1)} if middle > 0.5 else {(0, 0), (1, 1)}
    nearest = {
        min(
            [(0, 0), (1, 0), (1, 1), (0, 1)], key=lambda c: np.hypot((s[0] + s[2]) / 2 - c[0], (s[1] + s[3]) / 2 - c[1])
        )
        for s in segments
    }
    assert nearest == corners


def test_a_masks_outline_encloses_it():
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:40, 20:90] = True
    segments = mask_segments(mask, (90, 60))
    assert segments[:, [0, 2]].min() == pytest.approx(20, abs=0.5) and segments[:, [0, 2]].max() == 90
    assert segments[:, [1, 3]].min() == pytest.approx(10, abs=0.5)
    assert segments[:, [1, 3]].max() == pytest.approx(40, abs=0.5)
    large = np.zeros((3000, 2000), dtype=bool)
    large[900:2100, 500:1500] = True
    few = mask_segments(large, (2000, 3000))
    assert len(few) < 500 and few[:, 0].min() == pytest.approx(500, abs=15)


def test_clicks_mean_patches_and_nothing_else_takes_them():
    points = [(20.0, 5.0, "positive"), (70.0, 50.0, "negative"), (40.0, 30.0, "neutral"), (41.0, 30.0, "positive")]
    mask = np.zeros((60, 90), dtype=bool)
    mask[5:20, 30:50] = True
    drawn = Drawn(contours=(10.0, 20.0), points=points, found=mask, wanted=mask)
    figure = map_overlay(PHOTO, BOXES, VALUES, name="dot", drawn=drawn, selected=[(1, 2)], title=EVIL)
    answering = [trace for trace in figure.data if trace.hoverinfo != "skip"]
    assert [trace.name for trace in answering] == ["patches"]
    assert list(answering[0].customdata[7]) == [1, 1]
    assert "7.000" in answering[0].text[7] and "row 1, column 1" in answering[0].text[7]
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["positive 2"].x == (20.0, 41.0) and by_name["negative 1"].y == (50.0,)
    assert len({trace.marker.symbol for name, trace in by_name.items() if name.split()[-1].isdigit()}) == 3
    assert len(figure.layout.shapes) == 2 * 2 + 2 * 2 + 2, "contours, outlines and selection, each on its shade"
    assert "<b onclick" not in figure.to_json()
    assert (
        figure.to_json()
        == map_overlay(PHOTO, BOXES, VALUES, name="dot", drawn=drawn, selected=[(1, 2)], title=EVIL).to_json()
    )
    with pytest.raises(PatchOutsideGrid):
        map_overlay(PHOTO, BOXES, VALUES, name="dot", selected=[(6, 0)])


def test_without_points_there_is_no_legend():
    plain, pointed = (
        map_overlay(PHOTO, BOXES, VALUES, name="dot", drawn=Drawn(points=points))
        for points in ((), [(1, 1, "neutral")])
    )
    assert not plain.layout.showlegend and pointed.layout.showlegend
    assert pointed.layout.height > plain.layout.height


def test_the_legend_names_the_outlines_of_masks_that_are_there():
    mask = np.zeros((PHOTO.height, PHOTO.width), bool)
    mask[5:20, 5:20] = True
    own, none = Drawn(found=mask, wanted=mask), Drawn(found=~mask & mask)
    for drawn, names in ((own, ["mask", "your mask"]), (Drawn(found=mask), ["mask"]), (none, [])):
        figure = map_overlay(PHOTO, BOXES, VALUES, name="dot", drawn=drawn)
        shown = [trace for trace in figure.data if trace.showlegend]
        assert [trace.name for trace in shown] == names and bool(figure.layout.showlegend) == bool(names)
        colours = [shape.line.color for shape in figure.layout.shapes if shape.type == "path"]
        assert {trace.line.color for trace in shown} <= set(colours)


def test_the_map_is_painted_where_its_patches_are_and_hatched_elsewhere():
    bright = np.where(np.arange(6)[:, None] < 3, 1.0, 0.0) * np.ones((6, 6))
    photo = np.asarray(painted_photo(PHOTO, Layer(bright, BOXES), 1.0)).astype(int)
    assert photo.shape == (60, 90, 3)
    yellow, purple = photo[5:25, 20:70].mean((0, 1)), photo[35:55, 20:70].mean((0, 1))
    assert yellow[0] > 230 and yellow[2] < 80 and purple[0] < 90, "the ends of Viridis"
    blind = photo[:, :13].mean(2)
    assert blind.mean() > 180 and blind.std() > 10, "veiled and hatched"
    fine = painted_photo(PHOTO, Layer(np.repeat(np.repeat(bright, 4, 0), 4, 1), grid_boxes(24, 24, side=2.5)), 1.0)
    assert np.abs(np.asarray(fine).astype(int)[5:25, 20:70].mean((0, 1)) - yellow).max() < 12
    assert np.abs(np.asarray(painted_photo(PHOTO, Layer(bright, BOXES), 0.0))[30, 40].astype(int) - 120).max() < 8


def test_a_paths_numbers_are_short():
    path = svg_path(np.array([[1.0, 2.04, 3.16, 4.0]]))
    assert path == "M1,2L3.2,4"
    assert svg_path(np.empty((0, 4))) == ""


def test_maps_side_by_side_have_their_names_and_notes():
    maps = {"map": (VALUES, "IoU 0.50"), EVIL: (np.ones((6, 6)), EVIL)}
    figure = map_multiples(PHOTO, BOXES, maps)
    assert len(figure.layout.images) == 2
    texts = [note.text for note in figure.layout.annotations]
    assert texts[0] == "map<br>IoU 0.50" and "<b onclick" not in "".join(texts)
    assert len(map_multiples(PHOTO, BOXES, {}).layout.images) == 0


def test_score_curves_have_a_panel_for_each_measure_and_gaps_where_nothing_is():
    layers = (0, 1, 2)
    values = {name: [0.1, float("nan"), 0.3] for name in MEASURES}
    lines = [ScoreLine("<SEG>", layers, values), *(ScoreLine(f"c{i}", layers, values) for i in range(9))]
    figure = score_curves(lines, mark=2)
    assert len(figure.data) == 10 * len(MEASURES)
    assert figure.data[0].name == "&lt;SEG&gt;" and list(figure.data[0].y) == [0.1, None, 0.3]
    assert figure.data[0].line.width > figure.data[1].line.width
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data[: len(lines)]}
    assert len(looks) == len(lines), "no two lines look alike"
    assert sum(bool(trace.showlegend) for trace in figure.data) == len(lines)
    assert len(figure.layout.shapes) == len(MEASURES)
    assert score_curves(lines, width=400).layout.height > figure.layout.height


def test_threshold_curves():
    figure = threshold_curves({"map": (np.array([1.0, 0.4, -0.1]), np.array([0.0, 0.6, 0.2]))}, mark=0.4)
    assert list(figure.data[0].y) == [0.0, 0.6, 0.2] and len(figure.layout.shapes) == 1


def test_a_png_without_a_browser():
    mask = np.zeros((60, 90), dtype=bool)
    mask[5:20, 30:50] = True
    points = [(20.0, 5.0, "positive"), (70.0, 50.0, "negative"), (40.0, 30.0, "neutral")]
    drawn = Drawn(contours=(18.0,), points=points, found=mask, wanted=mask)
    data = map_png(PHOTO, Layer(VALUES, BOXES), title="a\x1b[31m title", name="dot", drawn=drawn)
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and image.size[0] > 720
    assert data == map_png(PHOTO, Layer(VALUES, BOXES), title="a\x1b[31m title", name="dot", drawn=drawn)
    bare = map_png(PHOTO, Layer(VALUES, BOXES), title="t", name="dot")
    assert Image.open(io.BytesIO(bare)).size[1] < image.size[1], "no line for points"
    pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (np.abs(pixels - [0x00, 0x9E, 0x73]).max(2) < 3).any(), "a positive point"
    assert re.match(rb"\x89PNG", data)
