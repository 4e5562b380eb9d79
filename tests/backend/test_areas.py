"""Polygons, drawn from the rows that their edges cross, against a rule that looks at each pixel; and what they cost."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lens.backend.areas import Area, polygon_runs
from lens.errors import MaskUnusable
from tests.costs import cost

SIZE = (60, 45)


def by_pixel(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Even-odd: how many edges a ray to the left from each pixel's centre crosses."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:
            spans = (y >= min(y0, y1)) & (y < max(y0, y1))
            inside ^= spans & (x >= x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


@pytest.mark.parametrize("seed", range(40))
def test_any_polygons(seed: int):
    random = np.random.default_rng(seed)
    polygons = []
    for _ in range(random.integers(1, 6)):
        corners = random.uniform(-20, 80, (random.integers(3, 12), 2))
        polygons.append(corners.round() if random.random() < 0.5 else corners)
    area = Area(SIZE)
    for corners in polygons:
        area.add_polygon(corners)
    assert (area.mask() == np.logical_or.reduce([by_pixel(each, SIZE) for each in polygons])).all()


def test_chunks_make_up_the_whole(monkeypatch: pytest.MonkeyPatch):
    corners = np.random.default_rng(1).uniform(-20, 80, (200, 2))
    whole = polygon_runs([corners, corners + 3], SIZE)
    monkeypatch.setattr("lens.backend.areas._CHUNK", 50)
    for found, wanted in zip(polygon_runs([corners, corners + 3], SIZE), whole, strict=True):
        assert (found == wanted).all()


def test_nothing_and_everything():
    assert not Area(SIZE).mask().any()
    area = Area(SIZE)
    area.add_polygon(np.array([(100, 100), (200, 100), (200, 200)]))
    area.add_polygon(np.array([(0, 5), (10, 5), (20, 5)]))
    assert not area.mask().any()
    area.add_circle(30, 20, 1e9)
    assert area.mask().all()


@pytest.mark.parametrize("corner", [(np.nan, 0), (0, np.inf), (1e300, 0), (0, -2e9)])
def test_corners_out_of_reach_are_refused(corner: tuple[float, float]):
    with pytest.raises(MaskUnusable, match="finite"):
        Area(SIZE).add_polygon(np.array([(0, 0), (5, 5), corner]))
    with pytest.raises(MaskUnusable, match="finite"):
        Area(SIZE).add_circle(*corner, 5)


MASKED = """
from lens.backend.maskfiles import read_mask
read_mask(DATA, (8000, 8000))
"""


def annotated(segmentations: list) -> dict:
    return {"images": [{"id": 1}], "annotations": [{"image_id": 1, "segmentation": each} for each in segmentations]}


@pytest.mark.parametrize(
    "content",
    [
        [[0, 0, 8000, 0, 8000, 8000, 0, 8000]] * 200,
        annotated([[[k % 7000, k % 6001, k % 7000 + 40, k % 6001, k % 7000, k % 6001 + 40]] for k in range(100_000)]),
        annotated([{"size": [8000, 8000], "counts": [k, 50, 64_000_000 - k - 50]} for k in range(100_000)]),
        {"shapes": [{"shape_type": "circle", "points": [[4000, 4000], [4000, k]]} for k in range(500)]},
        [[value for k in range(600) for value in (k * 10, k % 2 * 8000)]] * 2,
    ],
    ids=["full pictures", "annotations", "run lengths", "circles", "zigzags"],
)
def test_small_files_of_many_shapes_are_quick(content: object):
    """At 64 megapixels: 5 s and 1 GB at most."""
    seconds, megabytes = cost(MASKED, json.dumps(content).encode())
    assert seconds < 5 and megabytes < 1000
