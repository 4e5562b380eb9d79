"""Similarity as points: the vectors measured on READ's own functions, and what must hold for any map."""

from __future__ import annotations

import numpy as np
import pytest

from lens.backend.geometry import Placement
from lens.errors import MapConstant
from lens.segmaps.points import (
    NEGATIVE,
    NEUTRAL,
    POSITIVE,
    READ_7B,
    READ_13B,
    Point,
    PointRule,
    continuous,
    grid_points,
    inside_share,
    random_points,
    read_points,
    sam_coordinates,
)

RISING = np.arange(576.0).reshape(24, 24)
ROWS, COLS = np.mgrid[0:24, 0:24]
HILL = np.exp(-((COLS - 16) ** 2 + (ROWS - 6) ** 2) / 18)
WIDE = (640, 480)
"""480 x 640 in READ's order of height and width."""


def crop_boxes(size: tuple[int, int], side: int = 24) -> np.ndarray:
    """The patches of a centre crop, as CLIP's processor makes it."""
    shortest = min(size)
    x, y = ((length - shortest) / 2 for length in size)
    return Placement(1.0, 1.0, -x, -y, shortest, shortest).boxes(side, side, size)


def places(points: tuple[Point, ...]) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in points]


def test_the_rising_map_gives_reads_points():
    found = read_points(RISING, WIDE)
    assert [point.label for point in found] == [POSITIVE] * 30
    assert places(found)[:3] == [(540, 460), (500, 460), (460, 460)]
    assert places(found)[-1] == (340, 380)
    assert sam_coordinates(found, WIDE)[0] == (864, 736)
    assert places(read_points(RISING, (500, 300)))[0] == (387, 287)
    assert sam_coordinates([Point(300, 200, POSITIVE, 1.0)], (600, 400)) == [(512, 200 * 683 / 400)], "682.67 is 683"


def test_the_hill_gives_reads_points():
    found = read_points(HILL, WIDE)
    labels = [point.label for point in found]
    assert labels == [POSITIVE] * 4 + [NEGATIVE] * 26
    assert places(found)[:4] == [(420, 140), (420, 100), (380, 140), (380, 100)]
    similarities = [point.similarity for point in found[4:]]
    assert similarities == sorted(similarities) and similarities[0] == 0


@pytest.mark.parametrize("values", [RISING, HILL], ids=["rising", "hill"])
@pytest.mark.parametrize("size", [WIDE, (480, 640), (336, 336), (500, 300), (300, 500)])
def test_the_true_places_are_reads_to_a_pixel_where_its_crop_is_true(values: np.ndarray, size: tuple[int, int]):
    read, true = read_points(values, size), grid_points(values, crop_boxes(size), size)
    assert [point.label for point in read] == [point.label for point in true]
    assert np.abs(np.array(places(read)) - np.array(places(true))).max() <= 1


def test_a_picture_that_is_no_crop_has_its_points_where_its_patches_are():
    """The whole picture squeezed into the square: READ's padding would put points into the middle alone."""
    boxes = Placement(336 / 640, 336 / 480, 0, 0, 336, 336).boxes(24, 24, WIDE)
    found = grid_points(RISING, boxes, WIDE)
    assert places(found)[0] == pytest.approx((640 - 640 / 24, 460))
    assert max(point.x for point in read_points(RISING, WIDE)) == 540


def test_a_rising_line_through_the_map_changes_nothing():
    values = np.random.default_rng(0).random((24, 24))
    wanted = places(read_points(values, WIDE))
    for a, b in ((3.5, -20.0), (1e-3, 4.0), (1e6, 0.0)):
        found = read_points(a * values + b, WIDE)
        assert places(found) == wanted
    assert places(read_points(-values, WIDE)) != wanted


def test_thresholds_count_and_down_sampling_are_live():
    values = np.random.default_rng(1).random((24, 24))
    every = read_points(values, (336, 336), PointRule(10_000, 0.6, 0.3, 1))
    assert len(every) == 576
    flat = (values - values.min()) / (values.max() - values.min())
    counts = {label: sum(point.label == label for point in every) for label in (POSITIVE, NEGATIVE, NEUTRAL)}
    assert counts == {
        POSITIVE: int((flat >= 0.6).sum()),
        NEGATIVE: int((flat <= 0.3).sum()),
        NEUTRAL: int(((flat > 0.3) & (flat < 0.6)).sum()),
    }
    between = [point for point in every if point.label == NEUTRAL]
    assert between == sorted(between, key=lambda point: (point.y, point.x)), "in reading order"
    assert every[:7] == read_points(values, (336, 336), PointRule(7, 0.6, 0.3, 1))
    assert len(read_points(values, (336, 336), READ_13B)) == 60
    assert len(read_points(values, (336, 336), PointRule(10_000, down_sample=3))) == 64
    assert len(read_points(values, (336, 336), PointRule(10_000, down_sample=99))) == 1


def test_padding_never_becomes_a_point():
    found = read_points(HILL, (1000, 300), PointRule(10_000))
    assert len(found) == 144
    assert all(350 <= point.x <= 650 for point in found)


def test_patches_on_padding_give_no_points():
    boxes = Placement(1.0, 1.0, 0.0, 20.0, 80, 80).boxes(8, 8, (80, 40))
    values = np.arange(64.0).reshape(8, 8)
    found = grid_points(values, boxes, (80, 40), PointRule(1000, down_sample=1))
    assert len(found) == 32
    assert all(0 <= point.y < 40 for point in found)


def test_a_constant_map_is_refused():
    for values in (np.full((24, 24), 3.25), np.zeros((24, 24)), np.full((24, 24), 0.1) * 3):
        for find in (lambda v: read_points(v, WIDE), lambda v: grid_points(v, crop_boxes(WIDE), WIDE)):
            with pytest.raises(MapConstant, match="nothing stands out"):
                find(values)


def test_the_continuous_points_stay_within_hundredths_of_a_pixel():
    found = read_points(HILL, WIDE)
    moved = continuous(found, HILL, crop_boxes(WIDE), WIDE)
    shift = np.abs(np.array(places(found)) - np.array(places(moved)))
    assert 0 < shift.max() < 0.04
    assert [point.label for point in moved] == [point.label for point in found]


def test_the_continuous_points_by_hand():
    """Over every pixel of a small picture, as READ's loop does it."""
    size, boxes = (30, 24), crop_boxes((30, 24), 6)
    values = np.random.default_rng(2).random((6, 6))
    shown = (values - values.min()) / (values.max() - values.min())
    centre = lambda at, start: np.clip((at - start) / 4 - 0.5, 0, 5)  # noqa: E731 (cells of four pixels)
    y, x = np.mgrid[0:24, 0:30].astype(float)
    rows, cols = centre(y, 0), centre(x, 3)
    r, c = np.minimum(rows.astype(int), 4), np.minimum(cols.astype(int), 4)
    dr, dc = rows - r, cols - c
    field = (shown[r, c] * (1 - dr) + shown[r + 1, c] * dr) * (1 - dc) + (
        shown[r, c + 1] * (1 - dr) + shown[r + 1, c + 1] * dr
    ) * dc
    field[(x < 3) | (x > 27)] = 0
    point = Point(12.0, 9.0, POSITIVE, 1.0)
    weights = np.exp(-((x - 12) ** 2) - (y - 9) ** 2) * np.exp(field)
    weights /= weights.sum()
    (moved,) = continuous([point], values, boxes, size)
    assert (moved.x, moved.y) == pytest.approx(((weights * x).sum(), (weights * y).sum()))


def test_points_against_a_mask_and_by_chance():
    mask = np.zeros((480, 640), dtype=bool)
    mask[:, 400:] = True
    share = inside_share(read_points(HILL, WIDE), mask)
    assert share["positive"] == 0.5 and set(share) == {"positive", "negative"}
    boxes = crop_boxes(WIDE)
    chance = random_points(boxes, 2000)
    assert chance == random_points(boxes, 2000) != random_points(boxes, 2000, seed=1)
    assert all(80 <= point.x <= 560 for point in chance), "only where the encoder saw something"
    assert inside_share(chance, mask)["positive"] == pytest.approx(160 / 480, abs=0.04)


def test_reads_numbers():
    assert (READ_7B.count, READ_7B.positive, READ_7B.negative, READ_7B.down_sample) == (30, 0.8, 0.2, 2)
    assert (READ_13B.count, READ_13B.positive, READ_13B.negative, READ_13B.down_sample) == (60, 0.6, 0.2, 1)
