"""Boxes, polygons and masks against cells of a patch grid: closed forms, and pycocotools' own answers as golden values."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from lens.backend.geometry import Placement
from lens.backend.regions import (
    areas,
    box_mask,
    cells_of,
    covered,
    lattice,
    painted,
    polygon_mask,
    region_cells,
    region_text,
    resized,
    sampled,
    stroke_mask,
    subdivide,
)

SIZE = (50, 40)


def even_boxes(rows: int, cols: int, size: tuple[int, int], crop: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A grid over a picture of ``size`` without ``crop`` pixels at the left and right, top and bottom."""
    width, height = size[0] - 2 * crop[0], size[1] - 2 * crop[1]
    return Placement(1.0, 1.0, -crop[0], -crop[1], int(width), int(height)).boxes(rows, cols, size)


def test_a_rectangle_is_the_same_as_box_and_as_polygon():
    corners = np.array([[10, 10], [30, 10], [30, 25], [10, 25]], dtype=float)
    mask = polygon_mask(corners, SIZE)
    assert (mask == box_mask((10, 10, 30, 25), SIZE)).all()
    assert mask.sum() == 300, "what pycocotools 2.0.11 counts for this polygon"
    assert (mask == polygon_mask(corners[::-1], SIZE)).all(), "whichever way round"


def test_a_polygon_covers_what_its_area_says():
    triangle = np.array([[5, 5], [45, 12], [30, 35]], dtype=float)
    area = 0.5 * abs((40 * 30) - (25 * 7))  # cross product of two sides
    assert abs(polygon_mask(triangle, SIZE).sum() - area) < 0.02 * area
    assert abs(polygon_mask(triangle, SIZE).sum() - 507) < 10, (
        "pycocotools, whose outline is rounded to fifths of a pixel"
    )


def test_a_polygon_by_its_pixel_centres():
    """By brute force: a point is inside when a ray to the left crosses an odd number of edges."""
    generator = np.random.default_rng(0)
    corners = generator.uniform(-10, 60, (7, 2))
    y, x = np.mgrid[0:40, 0:50] + 0.5
    inside = np.zeros((40, 50), dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        between = (y0 <= y) != (y1 <= y)
        inside ^= between & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
    assert (polygon_mask(corners, SIZE) == inside).all()
    assert 0 < inside.sum() < inside.size


def test_covered_area_is_exact_for_cells_between_pixels():
    """The mean of a finer raster: every pixel ten times as large, cells with edges at tenths."""
    mask = np.random.default_rng(1).random((12, 15)) < 0.4
    boxes = even_boxes(4, 5, (15, 12), crop=(0.7, 0.3))
    boxes = np.round(boxes, 1)
    fine = mask.repeat(10, 0).repeat(10, 1)
    for row, col in np.ndindex(4, 5):
        x0, y0, x1, y1 = np.rint(boxes[row, col] * 10).astype(int)
        assert covered(mask, boxes)[row, col] == pytest.approx(fine[y0:y1, x0:x1].sum() / 100)
    assert covered(np.ones_like(mask), boxes) == pytest.approx(areas(boxes))
    assert covered(np.zeros_like(mask), boxes).max() == 0


def test_cells_painted_and_found_again():
    boxes = even_boxes(6, 6, (90, 60), crop=(15, 0))
    cells = np.random.default_rng(2).random((6, 6)) < 0.5
    mask = painted(cells, boxes, (90, 60))
    assert mask.shape == (60, 90)
    assert not mask[:, :15].any() and not mask[:, 75:].any(), "what the encoder never saw"
    assert mask.sum() == cells.sum() * 100
    assert (cells_of(mask, boxes) == cells).all()
    assert (cells_of(mask, boxes, 0.01) == cells).all()


def test_cells_on_padding_are_never_chosen_and_paint_nothing():
    """A wide picture padded to a square: two rows of cells lie beside it, two half."""
    boxes = Placement(1.0, 1.0, 0.0, 20.0, 80, 80).boxes(8, 8, (80, 30))
    assert (areas(boxes)[:2] == 0).all() and (areas(boxes)[5:] == 0).all()
    everywhere = np.ones((30, 80), dtype=bool)
    assert (cells_of(everywhere, boxes, 0.0) == (areas(boxes) > 0)).all()
    assert (painted(np.ones((8, 8), bool), boxes, (80, 30)) == everywhere).all()
    x, y = lattice(boxes)
    assert x == pytest.approx(np.arange(9) * 10.0)
    assert y == pytest.approx(np.arange(9) * 10.0 - 20), "lines go on beyond the picture"


def test_a_subdivided_grid_covers_the_same():
    boxes = Placement(1.0, 1.0, 0.0, 25.0, 80, 80).boxes(8, 8, (80, 33))
    fine = subdivide(boxes, 4)
    assert fine.shape == (32, 32, 4)
    assert areas(fine).reshape(8, 4, 8, 4).sum((1, 3)) == pytest.approx(areas(boxes))
    assert subdivide(boxes, 1) == pytest.approx(boxes)


def test_resizing_is_torchs_bilinear():
    import torch

    values = np.random.default_rng(3).random((2, 7, 9))
    for rows, cols in ((14, 18), (3, 5), (7, 9), (1, 1), (20, 4)):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(values)[None], (rows, cols), mode="bilinear")[0]
        assert resized(values, rows, cols) == pytest.approx(wanted.numpy())


def test_a_sampled_map_is_exact_at_the_centres_and_linear_between():
    boxes = even_boxes(3, 4, (80, 60))
    values = np.arange(12.0).reshape(3, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    assert sampled(values, boxes, centres[0, :, 0], centres[:, 0, 1]) == pytest.approx(values)
    halfway = sampled(values, boxes, np.array([20.0]), np.array([10.0]))
    assert halfway == pytest.approx(np.array([[0.5]]))
    assert sampled(values, boxes, np.array([0.0, 80.0]), np.array([10.0])) == pytest.approx(np.array([[0.0, 3.0]]))


def test_a_stroke_is_what_a_round_brush_paints():
    """Against the definition, pixel by pixel, also where it leaves the picture; a dab is a disc."""
    places, size = np.array([[-6.0, 3.0], [20.3, 11.7], [20.3, 30.0]]), (40, 25)
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    away = np.full((25, 40), np.inf)
    for (ax, ay), (bx, by) in pairwise(places):
        for share in np.linspace(0, 1, 4001):
            away = np.minimum(away, np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)))
    np.testing.assert_array_equal(stroke_mask(places, 4.27, size), away <= 4.27)
    dab = stroke_mask(np.array([[20.0, 12.0]]), 6.0, size)
    assert dab.sum() == pytest.approx(np.pi * 36, rel=0.03) and dab[12, 20] and not dab[0, 0]
    assert not stroke_mask(np.array([[-50.0, -50.0], [-40.0, -9.0]]), 3.0, size).any()


def test_a_region_is_found_again_by_its_text():
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (3, 5), (12, 12), (27, 27)):
        for share in (0.02, 0.3, 1.0):
            cells = [(int(r), int(c)) for r, c in np.argwhere(generator.random(shape) < share)]
            text = region_text(cells, shape)
            assert region_cells(text, shape) == tuple(cells)
            assert len(text) <= 9 + shape[0] * shape[1] / 6 and re.fullmatch(r"[\w.,-]*", text)
    assert (
        region_text([(1, 2), (1, 3), (2, 2), (2, 3)], (12, 12)) == "1,2,2,3"
        and region_text([(4, 4)], (9, 9)) == "4,4,4,4"
    )


@pytest.mark.parametrize(
    "text", ["", "1,2", "2,2,1,3", "0,0,12,0", "12x12.", "12x12.AAA", "11x12.AAAA", "-1,0,1,1", "12x12.!", "x" * 5000]
)
def test_a_region_of_another_grid_or_of_nothing_is_empty(text: str):
    assert region_cells(text, (12, 12)) == ()
