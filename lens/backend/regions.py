"""Boxes, polygons and masks ↔ cells of a patch grid, and maps drawn over the picture at the patches' true places.

Coordinates are those of :mod:`lens.backend.geometry`: pixels of the picture, x to the right, y down, pixel (i, j) covering
[j, j + 1] x [i, i + 1]. A grid comes as ``boxes``, float [rows, cols, 4] with (x0, y0, x1, y1) cut to the picture. A pixel
belongs to a shape when its centre does. Areas are exact: a cell that covers a third of a pixel has a third of its area.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float

from lens.backend.areas import filled, polygon_runs

Boxes = Float[np.ndarray, "rows cols 4"]
Cell = tuple[int, int]
"""(row, col) of a grid."""
Size = tuple[int, int]
"""(width, height) of a picture in pixels."""


def region_text(cells: Collection[Cell], shape: tuple[int, int]) -> str:
    """Cells of a grid of ``shape`` (rows, cols) as a short text for an address.

    ``r0,c0,r1,c1`` (both corners included) for a full rectangle, else the grid's size and a bit for each cell, as in
    ``12x12.gAE``; no text for no cells.
    """
    if not cells:
        return ""
    low, high = np.min(list(cells), axis=0), np.max(list(cells), axis=0)
    if np.prod(high - low + 1) == len(set(cells)):
        return ",".join(map(str, [*low.tolist(), *high.tolist()]))
    bits = np.zeros(shape, dtype=bool)
    bits[tuple(np.array(sorted(set(cells))).T)] = True
    return f"{shape[0]}x{shape[1]}.{base64.urlsafe_b64encode(np.packbits(bits).tobytes()).decode().rstrip('=')}"


def region_cells(text: str, shape: tuple[int, int]) -> tuple[Cell, ...]:
    """What :func:`region_text` wrote, in reading order; no cells for any other text, or for cells of another grid."""
    rows, cols = shape
    if corners := re.fullmatch(r"(\d{1,4}),(\d{1,4}),(\d{1,4}),(\d{1,4})", text):
        r0, c0, r1, c1 = map(int, corners.groups())
        if r0 <= r1 < rows and c0 <= c1 < cols:
            return tuple((r, c) for r in range(r0, r1 + 1) for c in range(c0, c1 + 1))
    elif packed := re.fullmatch(rf"{rows}x{cols}\.([A-Za-z0-9_-]*)", text):
        size = -(-rows * cols // 8)
        try:
            data = base64.urlsafe_b64decode(packed[1] + "=" * (-len(packed[1]) % 4))
        except ValueError:
            return ()
        if len(data) == size:
            bits = np.unpackbits(np.frombuffer(data, np.uint8), count=rows * cols).reshape(shape)
            return tuple((int(r), int(c)) for r, c in np.argwhere(bits))
    return ()


def box_mask(box: Sequence[float], size: Size) -> Bool[np.ndarray, "h w"]:
    """The pixels of a rectangle (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = box
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    return ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None]


def polygon_mask(corners: Float[np.ndarray, "n 2"], size: Size) -> Bool[np.ndarray, "h w"]:
    """The pixels inside one polygon of (x, y) corners, which is closed by itself; where it crosses itself, by the even-odd
    rule."""
    return filled([polygon_runs([corners], size)], size[0] * size[1]).reshape(size[1], size[0])


def stroke_mask(places: Float[np.ndarray, "n 2"], radius: float, size: Size) -> Bool[np.ndarray, "h w"]:
    """The pixels within ``radius`` of a line through (x, y) ``places``: what a round brush paints."""
    width, height = size
    inside = np.zeros((height, width), dtype=bool)
    starts = places[:-1] if len(places) > 1 else places
    for (x0, y0), (x1, y1) in zip(starts, places[-len(starts) :], strict=True):
        left, top = (max(0, int(min(pair) - radius)) for pair in ((x0, x1), (y0, y1)))
        right, bottom = (int(np.ceil(max(pair) + radius)) for pair in ((x0, x1), (y0, y1)))
        x = np.arange(left, min(right, width)) + 0.5 - x0
        y = (np.arange(top, min(bottom, height)) + 0.5 - y0)[:, None]
        along = np.clip((x * (x1 - x0) + y * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2 or 1.0), 0, 1)
        away = (x - along * (x1 - x0)) ** 2 + (y - along * (y1 - y0)) ** 2
        inside[top : top + away.shape[0], left : left + away.shape[1]] |= away <= radius**2
    return inside


def lattice(boxes: Boxes) -> tuple[Float[np.ndarray, " cols_1"], Float[np.ndarray, " rows_1"]]:
    """The grid's lines, x and y, as they are beyond the picture's edges too, where boxes are cut off.

    Every view divides the encoder's input evenly, so that the widest column gives the spacing of all.
    """
    return _lines(boxes[0, :, 0], boxes[0, :, 2]), _lines(boxes[:, 0, 1], boxes[:, 0, 3])


def _lines(starts: Float[np.ndarray, " n"], stops: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n_1"]:
    widest = int(np.argmax(stops - starts))
    step = stops[widest] - starts[widest]
    return starts[widest] + (np.arange(len(starts) + 1) - widest) * step


def subdivide(boxes: Boxes, factor: int) -> Boxes:
    """The boxes of a grid ``factor`` times as fine in each direction, cut to what the coarse one covers."""
    x, y = (_finer(lines, factor) for lines in lattice(boxes))
    left, top, right, bottom = boxes[..., 0].min(), boxes[..., 1].min(), boxes[..., 2].max(), boxes[..., 3].max()
    x, y = np.clip(x, left, right), np.clip(y, top, bottom)
    fine = np.empty((len(y) - 1, len(x) - 1, 4))
    fine[..., 0], fine[..., 2] = x[None, :-1], x[None, 1:]
    fine[..., 1], fine[..., 3] = y[:-1, None], y[1:, None]
    return fine


def _finer(lines: Float[np.ndarray, " n"], factor: int) -> Float[np.ndarray, " m"]:
    return np.interp(np.arange(factor * (len(lines) - 1) + 1) / factor, np.arange(len(lines)), lines)


def resized(values: Float[np.ndarray, "*layers rows cols"], rows: int, cols: int) -> Float[np.ndarray, "*layers r c"]:
    """Bilinear resizing with cells' centres in place (torch's ``align_corners=False``), constant beyond the outermost
    centres; nothing is smoothed where it shrinks."""
    down, across = _weights(values.shape[-2], rows), _weights(values.shape[-1], cols)
    return down @ np.asarray(values, dtype=float) @ across.T


def _weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return _hats(place, old)


def _hats(place: Float[np.ndarray, " n"], old: int) -> Float[np.ndarray, "n old"]:
    """Linear interpolation at ``place``, in units of cells, as a matrix."""
    return np.clip(1 - np.abs(place[:, None] - np.arange(old)), 0, None)


def sampled(
    values: Float[np.ndarray, "rows cols"], boxes: Boxes, x: Float[np.ndarray, " w"], y: Float[np.ndarray, " h"]
) -> Float[np.ndarray, "h w"]:
    """The map, bilinear between the centres of its cells, at places ``x`` by ``y`` in pixels of the picture; what lies
    beyond the outermost centres has their value."""
    places = []
    for at, lines in zip((x, y), lattice(boxes), strict=True):
        cells = (np.asarray(at, dtype=float) - lines[0]) / (lines[1] - lines[0]) - 0.5
        places.append(np.clip(cells, 0, len(lines) - 2))
    return _hats(places[1], values.shape[0]) @ values @ _hats(places[0], values.shape[1]).T


def areas(boxes: Boxes) -> Float[np.ndarray, "rows cols"]:
    """The pixels that each cell covers of the picture."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def covered(mask: Bool[np.ndarray, "h w"], boxes: Boxes) -> Float[np.ndarray, "rows cols"]:
    """The area, in pixels, that each cell shares with a mask; exact, by a table of sums."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(0, dtype=float).cumsum(1)
    x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)

    def below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        left, top = np.minimum(x.astype(int), mask.shape[1] - 1), np.minimum(y.astype(int), mask.shape[0] - 1)
        dx, dy = x - left, y - top
        upper = sums[top, left] * (1 - dx) + sums[top, left + 1] * dx
        lower = sums[top + 1, left] * (1 - dx) + sums[top + 1, left + 1] * dx
        return upper * (1 - dy) + lower * dy

    return np.clip(below(x1, y1) - below(x0, y1) - below(x1, y0) + below(x0, y0), 0, None)


def cells_of(mask: Bool[np.ndarray, "h w"], boxes: Boxes, share: float = 0.5) -> Bool[np.ndarray, "rows cols"]:
    """The cells of which a mask covers at least ``share``; none that covers nothing of the picture."""
    area = areas(boxes)
    return (covered(mask, boxes) >= share * area - 1e-9) & (area > 0)


def painted(cells: Bool[np.ndarray, "rows cols"], boxes: Boxes, size: Size) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres lie in chosen cells."""
    across, down = (_cell_of(length, lines) for length, lines in zip(size, lattice(boxes), strict=True))
    inside = (down >= 0)[:, None] & (across >= 0)[None]
    return inside & cells[np.maximum(down, 0)[:, None], np.maximum(across, 0)[None]]


def _cell_of(length: int, lines: Float[np.ndarray, " n"]) -> np.ndarray:
    """The row or column that holds each pixel's centre; -1 outside the grid."""
    found = np.searchsorted(lines, np.arange(length) + 0.5, side="right") - 1
    return np.where(found < len(lines) - 1, found, -1)
