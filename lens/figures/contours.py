"""Lines of equal value and outlines of masks, as line segments [n, 4] of (x0, y0, x1, y1) in pixels of the picture.

Marching squares (Lorensen and Cline 1987, in the plane): every square between four neighbouring centres gives no segment,
one, or at a saddle two, told apart by the mean of its corners.
"""

from __future__ import annotations

import math

import numpy as np

Segments = np.ndarray
"""Float [n, 4]."""
LONGEST = 240
"""Cells of the longer side at which a mask is outlined."""


def contour_segments(values: np.ndarray, boxes: np.ndarray, level: float) -> Segments:
    """Where a map, linear between the middles of its cells, is ``level``."""
    across = (boxes[0, :, 0] + boxes[0, :, 2]) / 2
    down = (boxes[:, 0, 1] + boxes[:, 0, 3]) / 2
    return _to_picture(marching_squares(values, level), across, down)


def mask_segments(mask: np.ndarray, size: tuple[int, int]) -> Segments:
    """The outline of a mask [h, w] of a picture of ``size``, closed at the picture's edges."""
    step = max(1, math.ceil(max(mask.shape) / LONGEST))
    small = np.pad(mask[step // 2 :: step, step // 2 :: step].astype(float), 1)
    down, across = ((np.arange(length) - 0.5) * step for length in small.shape)
    found = _to_picture(marching_squares(small, 0.5), across, down)
    return np.clip(found, 0, [size[0], size[1]] * 2)


def marching_squares(values: np.ndarray, level: float) -> Segments:
    """Segments in units of cells: (column, row) of values' places."""
    above = values > level
    corners = above[:-1, :-1], above[:-1, 1:], above[1:, 1:], above[1:, :-1]
    mixed = np.any(corners, axis=0) & ~np.all(corners, axis=0)
    found: list[tuple[float, ...]] = []
    for row, col in np.argwhere(mixed).tolist():
        found += _square(values[row : row + 2, col : col + 2], level, row, col)
    return np.array(found, dtype=float).reshape(-1, 4)


def _square(corner: np.ndarray, level: float, row: int, col: int) -> list[tuple[float, ...]]:
    """The segments within one square of 2 x 2 values."""
    (a, b), (d, c) = corner.tolist()
    ends: dict[str, tuple[float, float]] = {}
    if (a > level) != (b > level):
        ends["top"] = (col + (level - a) / (b - a), row)
    if (b > level) != (c > level):
        ends["right"] = (col + 1, row + (level - b) / (c - b))
    if (d > level) != (c > level):
        ends["bottom"] = (col + (level - d) / (c - d), row + 1)
    if (a > level) != (d > level):
        ends["left"] = (col, row + (level - a) / (d - a))
    if len(ends) == 2:
        one, other = ends.values()
        return [(*one, *other)]
    # A saddle: what its middle belongs to is joined, the other two corners are cut off.
    joined = ((a + b + c + d) / 4 > level) == (a > level)
    pairs = (("top", "right"), ("bottom", "left")) if joined else (("left", "top"), ("right", "bottom"))
    return [(*ends[one], *ends[other]) for one, other in pairs]


def _to_picture(segments: Segments, across: np.ndarray, down: np.ndarray) -> Segments:
    out = np.empty_like(segments)
    for at, places in ((0, across), (1, down), (2, across), (3, down)):
        out[:, at] = np.interp(segments[:, at], np.arange(len(places)), places)
    return out
