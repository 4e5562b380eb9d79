"""Which visual token stands where in the picture: one named rule for each way in which processors cut a picture up.

A rule reads what the processor was given and what it returned (:class:`Processed`), and gives :class:`View`\\ s: grids of
visual tokens with the pixels that each covers, the coarse view of the whole picture first. A visual token that is in no
view stands for no place (a learned line break, padding). The arithmetic of resizing, cropping and padding is in
:mod:`lens.backend.geometry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lens.backend.geometry import Placement, entry, single_view
from lens.errors import ModelUnreadable


@dataclass(frozen=True, eq=False)
class View:
    """A grid of visual tokens.

    Attributes:
        tokens: which visual token stands at each patch, counted from 0 in the order of the sequence.
        boxes: the pixels of the original picture that it covers (x0, y0, x1, y1).
    """

    tokens: Int[np.ndarray, "rows cols"]
    boxes: Float[np.ndarray, "rows cols 4"]


@dataclass(frozen=True, eq=False)
class Processed:
    """What a rule may look at.

    Attributes:
        processor: the image processor (:mod:`transformers`).
        inputs: what the whole processor returned for one picture.
        config: the model's configuration.
        patch: side of the encoder's patches in pixels of its input; ``None`` where the family doesn't say.
        size: (width, height) of the picture that the processor got.
        origin: where that picture starts in the original one, see :func:`lens.backend.geometry.trim`.
        original: (width, height) of the original picture.
        count: visual tokens in the sequence.
    """

    processor: Any
    inputs: Mapping[str, Any]
    config: Any
    patch: int | None
    size: tuple[int, int]
    origin: tuple[int, int]
    original: tuple[int, int]
    count: int


def whole_picture(seen: Processed) -> tuple[View, ...]:
    """One view of the picture: padded, resized, cropped; patches merged m x m where there are fewer tokens than patches.

    A patch convolution leaves out what remains of an input that it doesn't divide: SigLIP's 384 by 14 is 27 of 14. Where
    the side of a patch isn't known, the tokens are taken for a square grid over the whole input.
    """
    return _one_view(seen, single_view(seen.processor, seen.size, seen.origin))


def padded_square(seen: Processed) -> tuple[View, ...]:
    """One view: the longest side resized to the input's, the shorter to no less than ``min_size``, then padding on both
    sides of it to a square (Janus, DeepSeek-VL)."""
    width, height = seen.size
    side = int(entry(seen.processor.size, "height") or 0)
    scale = side / max(width, height)
    new_width, new_height = (max(round(length * scale), seen.processor.min_size) for length in (width, height))
    shift_x, shift_y = (side - new_width) // 2, (side - new_height) // 2
    return _one_view(seen, Placement(new_width / width, new_height / height, shift_x, shift_y, side, side))


def merged_patches(seen: Processed) -> tuple[View, ...]:
    """The whole picture stretched to a grid of its own (``image_grid_thw``), each token merging m x m patches (Qwen2-VL).

    The stretch to multiples of the merged patch keeps the picture's edges, so the grid divides the picture evenly.
    """
    _, patch_rows, patch_cols = (int(n) for n in seen.inputs["image_grid_thw"][0])
    merge = int(seen.processor.merge_size)
    rows, cols = patch_rows // merge, patch_cols // merge
    _expect(seen, rows * cols, f"{rows} x {cols}")
    return (View(_numbered(rows, cols), _stretched(seen, rows, cols)),)


def pooled_patches(seen: Processed) -> tuple[View, ...]:
    """The whole picture stretched to a grid whose patches' places are given, k x k of them pooled to a token (Gemma 4)."""
    places = np.asarray(seen.inputs["image_position_ids"][0])
    across, down = places[(places >= 0).all(axis=1)].max(axis=0) + 1
    kernel = int(seen.processor.pooling_kernel_size)
    rows, cols = int(down) // kernel, int(across) // kernel
    _expect(seen, rows * cols, f"{rows} x {cols}")
    return (View(_numbered(rows, cols), _stretched(seen, rows, cols)),)


def unpadded_tiles(seen: Processed) -> tuple[View, ...]:
    """A square coarse view, then tiles of the picture fitted into the best canvas; rows that see only padding are left
    out and each row ends with a learned line break (LLaVA-NeXT's anyres; LLaVA-OneVision's thins a large grid out).

    The arithmetic is that of ``select_best_resolution``, ``get_patch_output_size`` and ``unpad_image`` of transformers.
    """
    tile, patch = int(seen.config.vision_config.image_size), int(seen.config.vision_config.patch_size)
    side = tile // patch
    width, height = seen.size
    canvas_height, canvas_width = _best_canvas(width, height, seen.processor.image_grid_pinpoints)
    down, across = canvas_height // tile, canvas_width // tile
    scale = min(canvas_width / width, canvas_height / height)
    new_width, new_height = min(ceil(width * scale), canvas_width), min(ceil(height * scale), canvas_height)
    placed = Placement(
        new_width / width,
        new_height / height,
        (canvas_width - new_width) // 2,
        (canvas_height - new_height) // 2,
        canvas_width,
        canvas_height,
    )
    top, left = _padding_rows(width, height, side * across, side * down)
    y = _Axis.of_tiles(down, tile, side, side * patch).without(top)
    x = _Axis.of_tiles(across, tile, side, side * patch).without(left)
    limit = _limit(seen.config)
    ratio = sqrt(len(y) * len(x) / (limit * side * side)) if limit else 0.0
    if ratio > 1.1:
        y, x = y.thinned(int(len(y) // ratio)), x.thinned(int(len(x) // ratio))
    _expect(seen, side * side + len(y) * (len(x) + 1), f"{side} x {side} and {len(y)} rows of {len(x)} and a break")
    fine = side * side + _numbered(len(y), len(x) + 1)[:, :-1]
    coarse = Placement(tile / width, tile / height, 0.0, 0.0, tile, tile)
    covered = _Axis.of_tiles(1, tile, side, side * patch)
    return (
        View(
            _numbered(side, side),
            coarse.rectangles(covered.starts, covered.ends, covered.starts, covered.ends, seen.size),
        ),
        View(fine, placed.rectangles(x.starts, x.ends, y.starts, y.ends, seen.size)),
    )


def split_picture(seen: Processed) -> tuple[View, ...]:
    """Tiles in reading order, then the whole picture, as Idefics3's and SmolVLM's processor counts them."""
    down, across = 0, 0
    if seen.processor.do_image_splitting:
        _, down, across = seen.processor.get_number_of_image_patches(seen.size[1], seen.size[0], {})
    return _tiles_and_whole(seen, max(down, 1), max(across, 1))


def tiled_canvas(seen: Processed) -> tuple[View, ...]:
    """Tiles of the canvas whose shape is nearest the picture's, then the whole picture (InternVL, Aya Vision)."""
    tiles = seen.inputs["pixel_values"].shape[0]
    if tiles == 1:
        return _tiles_and_whole(seen, 1, 1)
    tile = (int(entry(seen.processor.size, "width") or 0), int(entry(seen.processor.size, "height") or 0))
    across, down = _nearest_canvas(seen.size, tile, int(seen.processor.min_patches), int(seen.processor.max_patches))
    return _tiles_and_whole(seen, down, across)


def whole_then_tiles(seen: Processed) -> tuple[View, ...]:
    """The whole picture, then its tiles in reading order with a token of its own between two rows of them (Ovis2)."""
    views = seen.inputs["pixel_values"].shape[0]
    between_rows = seen.config.visual_indicator_token_ids[3]
    down = int((np.asarray(seen.inputs["input_ids"][0]) == between_rows).sum()) + 1 if views > 1 else 1
    return _tiles_and_whole(seen, down, max(1, views - 1) // down, whole_first=True)


def no_grid(_seen: Processed) -> tuple[View, ...]:
    """Queries that look at the whole picture (BLIP-2, Idefics2): a token belongs to no place."""
    return ()


RULES: dict[str, Callable[[Processed], tuple[View, ...]]] = {
    "single view": whole_picture,
    "padded square": padded_square,
    "merged patches": merged_patches,
    "pooled patches": pooled_patches,
    "unpadded tiles": unpadded_tiles,
    "split picture": split_picture,
    "tiled canvas": tiled_canvas,
    "whole then tiles": whole_then_tiles,
    "no grid": no_grid,
}
"""Geometry rules by the name that a family's row gives."""


@dataclass(frozen=True, eq=False)
class _Axis:
    """Where each token starts and ends along one axis of the encoder's input, in its pixels."""

    starts: Float[np.ndarray, " tokens"]
    ends: Float[np.ndarray, " tokens"]

    @classmethod
    def of_tiles(cls, tiles: int, tile: int, side: int, covered: int) -> _Axis:
        """``tiles`` tiles of ``tile`` pixels, in each ``side`` tokens that share its first ``covered`` pixels."""
        starts = (np.arange(tiles)[:, None] * tile + np.arange(side)[None] * (covered / side)).reshape(-1)
        return cls(starts, starts + covered / side)

    def __len__(self) -> int:
        return len(self.starts)

    def without(self, margin: int) -> _Axis:
        """Without ``margin`` tokens at each end."""
        return _Axis(self.starts[margin : len(self) - margin], self.ends[margin : len(self) - margin])

    def thinned(self, count: int) -> _Axis:
        """``count`` tokens over the same pixels, as interpolation of a feature map makes them."""
        lines = np.interp(np.linspace(0, len(self), count + 1), np.arange(len(self) + 1), [*self.starts, self.ends[-1]])
        return _Axis(lines[:-1], lines[1:])


def _one_view(seen: Processed, placement: Placement) -> tuple[View, ...]:
    if seen.patch is None:
        rows = cols = isqrt(seen.count)
        _expect(seen, rows * cols, f"{rows} x {cols}")
    else:
        rows, cols = placement.height // seen.patch, placement.width // seen.patch
        placement = replace(placement, width=cols * seen.patch, height=rows * seen.patch)
        merge = isqrt(max(1, rows * cols // max(1, seen.count)))
        rows, cols = rows // merge, cols // merge
        _expect(seen, rows * cols, f"{rows} x {cols}")
    return (View(_numbered(rows, cols), placement.boxes(rows, cols, seen.original)),)


def _tiles_and_whole(seen: Processed, down: int, across: int, whole_first: bool = False) -> tuple[View, ...]:
    """``down`` x ``across`` tiles of s x s tokens in reading order and s x s of the whole picture; one tile is the whole."""
    tiles = down * across
    views = tiles + 1 if tiles > 1 else 1
    side = isqrt(seen.count // views)
    each = side * side
    _expect(seen, views * each, f"{views} views of {side} x {side}")
    first_coarse, first_fine = (0, each) if whole_first else ((views - 1) * each, 0)
    coarse = View(first_coarse + _numbered(side, side), _stretched(seen, side, side))
    if tiles == 1:
        return (coarse,)
    fine = first_fine + np.arange(tiles * each).reshape(down, across, side, side).transpose(0, 2, 1, 3)
    rows, cols = down * side, across * side
    return coarse, View(fine.reshape(rows, cols), _stretched(seen, rows, cols))


def _numbered(rows: int, cols: int) -> Int[np.ndarray, "rows cols"]:
    return np.arange(rows * cols).reshape(rows, cols)


def _stretched(seen: Processed, rows: int, cols: int) -> Float[np.ndarray, "rows cols 4"]:
    """The boxes of a grid over the whole picture, whatever size it was resized to."""
    width, height = seen.size
    return Placement(1.0, 1.0, 0.0, 0.0, width, height).boxes(rows, cols, seen.size)


def _expect(seen: Processed, tokens: int, layout: str) -> None:
    if tokens != seen.count or tokens < 1:
        raise ModelUnreadable(
            f"The processor placed {seen.count} visual tokens where its geometry gives {layout}; "
            "this model's patch layout is not supported."
        )


def _best_canvas(width: int, height: int, canvases: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(height, width) of the canvas that keeps most of the picture's pixels and, of those, wastes fewest of its own."""

    def merit(canvas: Sequence[int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    best = max(canvases, key=merit)
    return int(best[0]), int(best[1])


def _padding_rows(width: int, height: int, cols: int, rows: int) -> tuple[int, int]:
    """Rows of tokens above (and below) and columns left (and right) of the picture that see only padding."""
    if width / height > cols / rows:
        return (rows - int(round(height * (cols / width), 7))) // 2, 0
    return 0, (cols - int(round(width * (rows / height), 7))) // 2


def _limit(config: Any) -> int:
    """How many tiles' worth of tokens LLaVA-OneVision keeps (``anyres_max_9``); 0 where nothing is thinned out."""
    rule = str(getattr(config, "vision_aspect_ratio", ""))
    return int(rule.removeprefix("anyres_max_")) if rule.startswith("anyres_max_") else 0


def _nearest_canvas(size: tuple[int, int], tile: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    """(across, down) in tiles: the aspect ratio nearest the picture's; of equal ones the larger, as long as the picture
    has more than half its pixels (``get_optimal_tiled_canvas`` of transformers)."""
    width, height = size
    best, nearest = (1, 1), float("inf")
    shapes = [(a, d) for a in range(1, most + 1) for d in range(1, most + 1) if fewest <= a * d <= most]
    for across, down in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        difference = abs(width / height - across / down)
        roomy = width * height > 0.5 * tile[0] * tile[1] * across * down
        if difference < nearest or (difference == nearest and roomy):
            best, nearest = (across, down), difference
    return best
