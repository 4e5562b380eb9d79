"""Areas of a picture as runs of pixels: polygons, circles, blocks and run lengths, together drawn once.

The cost is that of the outlines (rows that edges cross, runs) and of one pass over the picture, however many shapes there
are and however much of the picture each covers. Coordinates are those of :mod:`lens.backend.geometry`: a pixel belongs to a
shape when its centre does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import MaskUnusable

MAX_CROSSINGS = 10_000_000
"""Rows of pixels that the edges of polygons cross at most, in all: 600 times what the outline of a picture of 64 megapixels
crosses; about a second and 400 MB."""
FARTHEST = 1e9
"""Pixels that a corner may lie from the picture's top left."""

BLOCKS = 4
"""Pictures' worth of pixels in blocks."""

_CHUNK = 1 << 20
"""Crossings that are worked out at once."""

Runs = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]
"""First pixels, and those after the last, in some order of all pixels."""


class Area:
    """The union of shapes in a picture of ``size`` (width, height)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._polygons: list[Float[np.ndarray, "n 2"]] = []
        self._rows: list[Runs] = []  # along the rows
        self._cols: list[Runs] = []  # down the columns
        self._blocks = 0  # pixels

    def add_polygon(self, corners: Float[np.ndarray, "n 2"]) -> None:
        """A polygon of (x, y) corners, which is closed by itself; where it crosses itself, by the even-odd rule."""
        if len(corners) < 3 or not (np.abs(corners) <= FARTHEST).all():
            raise MaskUnusable("The mask has a polygon without three finite corners; mend it or leave it out.")
        self._polygons.append(corners)

    def add_circle(self, x: float, y: float, radius: float) -> None:
        """A disc; what lies on its edge is inside."""
        if not all(abs(value) <= FARTHEST for value in (x, y, radius)):
            raise MaskUnusable("The mask has a circle without a finite centre and radius; mend it or leave it out.")
        width, height = self.size
        rows = np.arange(max(0, int(np.floor(y - radius))), min(height, int(np.ceil(y + radius)) + 1))
        away = radius**2 - (rows + 0.5 - y) ** 2
        rows, half = rows[away >= 0], np.sqrt(away[away >= 0])
        first, last = np.ceil(x - half - 0.5), np.floor(x + half - 0.5) + 1
        starts, ends = (rows * width + np.clip(cols, 0, width).astype(np.int64) for cols in (first, last))
        self._rows.append((starts, ends))

    def claim(self, pixels: int) -> None:
        """Before a block is decoded: all of them together may be as large as :data:`BLOCKS` pictures."""
        self._blocks += pixels
        if self._blocks > BLOCKS * self.size[0] * self.size[1]:
            raise MaskUnusable(
                f"The parts of the mask are together more than {BLOCKS} times as large as the picture; give one mask of it."
            )

    def add_block(self, left: int, top: int, inside: Bool[np.ndarray, "h w"]) -> None:
        """The pixels that are inside in a part of the picture, whose top left corner is given."""
        steps = np.diff(np.pad(inside, ((0, 0), (1, 1))).view(np.int8), axis=1)
        starts, ends = (((y + top) * self.size[0] + x + left) for y, x in (np.nonzero(steps == way) for way in (1, -1)))
        self._rows.append((starts, ends))

    def add_lengths(self, lengths: Int[np.ndarray, " n"]) -> None:
        """COCO's run lengths: down the columns from the left, outside and inside by turns, outside first."""
        pixels = self.size[0] * self.size[1]
        if ((lengths < 0) | (lengths > pixels)).any() or int(lengths.sum()) != pixels:
            total = sum(lengths.tolist())
            raise MaskUnusable(
                f"The mask's run lengths come to {total:,} pixels, but the picture has {pixels:,}; save it again."
            )
        ends = np.cumsum(lengths)
        self._cols.append(((ends - lengths)[1::2], ends[1::2]))

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The pixels of all shapes."""
        width, height = self.size
        rows = [*self._rows, polygon_runs(self._polygons, self.size)] if self._polygons else self._rows
        inside = filled(rows, width * height).reshape(height, width)
        if self._cols:
            inside |= filled(self._cols, width * height).reshape((height, width), order="F")
        return inside


def polygon_runs(polygons: Sequence[Float[np.ndarray, "n 2"]], size: tuple[int, int]) -> Runs:
    """The runs along the rows of pixels inside each polygon.

    Every edge is crossed by the centre lines of rows; between the first and the second crossing of a row, the third and the
    fourth, and so on, lies the polygon. :class:`MaskUnusable` for more than :data:`MAX_CROSSINGS` crossings.
    """
    width, height = size
    corners, lengths = np.concatenate(polygons), np.array([len(each) for each in polygons])
    following = np.arange(1, len(corners) + 1)
    following[np.cumsum(lengths) - 1] = np.cumsum(lengths) - lengths
    (x0, y0), (x1, y1) = corners.T, corners[following].T
    first, last = (
        np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (np.minimum(y0, y1), np.maximum(y0, y1))
    )
    counts = last - first
    ends = np.cumsum(counts)
    if ends[-1] > MAX_CROSSINGS:
        raise MaskUnusable(
            f"The mask's polygons cross {int(ends[-1]):,} rows of pixels in all, more than the {MAX_CROSSINGS:,} that are "
            "drawn here; simplify them, or give run lengths."
        )
    owner = np.repeat(np.arange(len(polygons)), lengths)
    keys = np.empty(ends[-1], dtype=np.int64)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1] + _CHUNK, _CHUNK)))
    for start, stop in itertools.pairwise([*cuts.tolist(), len(counts)]):
        if start == stop:
            continue
        edge = np.repeat(np.arange(start, stop), counts[start:stop])
        from_, to = int(ends[start] - counts[start]), int(ends[stop - 1])
        row = first[edge] + np.arange(from_, to) - (ends - counts)[edge]
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        col = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
        keys[from_:to] = (owner[edge] * height + row) * (width + 1) + col
    keys.sort()
    keys %= height * (width + 1)
    places = keys // (width + 1) * width + keys % (width + 1)
    return places[0::2], places[1::2]


def filled(runs: Sequence[Runs], pixels: int) -> Bool[np.ndarray, " pixels"]:
    """The union of runs."""
    starts, ends = (
        (np.concatenate([np.zeros(0, np.int64), *part]) for part in zip(*runs, strict=True)) if runs else ([], [])
    )
    if not len(starts):
        return np.zeros(pixels, dtype=bool)
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    apart = starts[1:] > ends[:-1]
    bounds = np.zeros(2 * (int(apart.sum()) + 1) + 2, dtype=np.int64)
    bounds[1:-1:2], bounds[2:-1:2] = starts[np.append(True, apart)], ends[np.append(apart, True)]
    bounds[-1] = pixels
    return np.repeat(np.arange(len(bounds) - 1) % 2 == 1, np.diff(bounds))
