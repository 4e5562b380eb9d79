"""Similarity as points (READ, CVPR 2025): where a map is high, low and in between, as prompts for a segmenter.

The map is made coarser (24 x 24 to 12 x 12 in READ-7B), min-max scaled, and its cells are taken in this order: those of at
least ``positive``, the highest first; those of at most ``negative``, the lowest first; those between, in reading order.
The first ``count`` become points with the labels 1, 0 and -1. :func:`read_points` puts them where READ's
``similarity_map_to_points`` does, which takes the encoder's square for a centre crop; :func:`grid_points` where the patches
truly are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.backend.regions import Boxes, Size, areas, lattice, resized, sampled
from lens.segmaps.maps import scaled

POSITIVE, NEGATIVE, NEUTRAL = 1, 0, -1
LABELS = {POSITIVE: "positive", NEGATIVE: "negative", NEUTRAL: "neutral"}
"""As SAM takes them: inside, outside, and no statement."""
REACH = 6
"""Pixels around a point beyond which exp(-distance²) is nothing (2e-16)."""
SAM_SIDE = 1024


@dataclass(frozen=True)
class PointRule:
    """How many points, from which similarities, and by how much the map is made coarser before."""

    count: int = 30
    positive: float = 0.8
    negative: float = 0.2
    down_sample: int = 2


READ_7B, READ_13B = PointRule(), PointRule(60, 0.6, 0.2, 1)
"""As released for ReasonSeg."""


@dataclass(frozen=True)
class Point:
    """One point: pixels of the picture, a label of :data:`LABELS`, and the scaled similarity, 0 to 1."""

    x: float
    y: float
    label: int
    similarity: float


def read_points(values: Float[np.ndarray, "side side"], size: Size, rule: PointRule = READ_7B) -> tuple[Point, ...]:
    """READ's points on a picture of ``size`` (width, height), in whole pixels.

    The square map is padded with -1 to the picture's proportions, and cells are spread evenly over the picture.
    Raises MapConstant.
    """
    small = coarse(values, rule.down_sample)
    width, height = size
    side = len(small)
    scale = side / min(height, width)
    above, before = ((int(length * scale) - side) // 2 for length in (height, width))
    padded = np.pad(small, ((above, above), (before, before)), constant_values=-1.0)
    rows, cols = padded.shape
    return tuple(
        Point(
            int(min((col + 0.5) * (width / cols), width - 1)),
            int(min((row + 0.5) * (height / rows), height - 1)),
            label,
            float(padded[row, col]),
        )
        for row, col, label in chosen(padded, rule)
    )


def grid_points(
    values: Float[np.ndarray, "rows cols"], boxes: Boxes, size: Size, rule: PointRule = READ_7B
) -> tuple[Point, ...]:
    """The points in the middle of the coarser cells, wherever the encoder's geometry puts these; cells outside the picture
    give none. Raises MapConstant."""
    small = coarse(values, rule.down_sample)
    x, y = (
        np.interp((np.arange(n) + 0.5) * (len(lines) - 1) / n, np.arange(len(lines)), lines)
        for n, lines in zip((small.shape[1], small.shape[0]), lattice(boxes), strict=True)
    )
    shown = (y >= 0)[:, None] & (y < size[1])[:, None] & ((x >= 0) & (x < size[0]))[None]
    places = chosen(np.where(shown, small, -1.0), rule)
    return tuple(Point(float(x[c]), float(y[r]), label, float(small[r, c])) for r, c, label in places)


def coarse(values: Float[np.ndarray, "rows cols"], down_sample: int) -> Float[np.ndarray, "r c"]:
    """The map at a ``down_sample``-th of its resolution (bilinear, not averaged, as READ does it), from 0 to 1."""
    if down_sample < 1:
        raise ValueError(f"expected a down-sampling of 1 or more, got {down_sample}")
    rows, cols = (max(1, length // down_sample) for length in values.shape)
    scaled(values)  # a constant map is refused as it is, not for what rounding makes of it
    return scaled(resized(values, rows, cols)) if rows * cols > 1 else np.ones((1, 1))


def chosen(values: Float[np.ndarray, "rows cols"], rule: PointRule) -> list[tuple[int, int, int]]:
    """Cells (row, column, label) in READ's order; cells below 0 are padding."""
    flat = values.reshape(-1)
    positive = np.flatnonzero(flat >= rule.positive)
    negative = np.flatnonzero((flat >= 0) & (flat <= rule.negative) & (flat < rule.positive))
    between = np.flatnonzero((flat > rule.negative) & (flat < rule.positive))
    order = [
        (positive[np.argsort(-flat[positive], kind="stable")], POSITIVE),
        (negative[np.argsort(flat[negative], kind="stable")], NEGATIVE),
        (between, NEUTRAL),
    ]
    found = [(*divmod(int(i), values.shape[1]), label) for cells, label in order for i in cells]
    return found[: rule.count]


def continuous(
    points: Sequence[Point], values: Float[np.ndarray, "rows cols"], boxes: Boxes, size: Size
) -> tuple[Point, ...]:
    """READ's discrete-to-continuous conversion: each point becomes the mean of the pixels g around it, weighted by
    exp(-|g - p|²) · exp(S(g)), S being the min-max map over the picture, 0 where the encoder saw nothing.

    In the middle of a picture this moves a point by some hundredths of a pixel: READ's gradient path, no gain by itself.
    """
    shown = scaled(values)
    out = []
    for point in points:
        x, y = (
            np.arange(max(0, int(at) - REACH), min(length, int(at) + REACH + 1), dtype=float)
            for at, length in zip((point.x, point.y), size, strict=True)
        )
        near = np.exp(-((x - point.x)[None] ** 2) - ((y - point.y)[:, None] ** 2))
        near *= np.exp(np.where(_seen(boxes, x, y), sampled(shown, boxes, x, y), 0.0))
        near /= near.sum()
        out.append(
            Point(float((near * x[None]).sum()), float((near * y[:, None]).sum()), point.label, point.similarity)
        )
    return tuple(out)


def _seen(boxes: Boxes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    left, top, right, bottom = boxes[..., 0].min(), boxes[..., 1].min(), boxes[..., 2].max(), boxes[..., 3].max()
    return ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]


def sam_coordinates(points: Sequence[Point], size: Size, side: int = SAM_SIDE) -> list[tuple[float, float]]:
    """Points in the input of SAM, whose longer ``side`` is 1024: x · int(width · side / longest + 0.5) / width, and y."""
    scale = side / max(size)
    across, down = (int(length * scale + 0.5) / length for length in size)
    return [(point.x * across, point.y * down) for point in points]


def inside_share(points: Sequence[Point], mask: np.ndarray) -> dict[str, float]:
    """By label, the share of points that lie in a mask [h, w]; labels without points are left out."""
    height, width = mask.shape
    found: dict[str, list[bool]] = {}
    for point in points:
        row, col = min(int(point.y), height - 1), min(int(point.x), width - 1)
        found.setdefault(LABELS[point.label], []).append(bool(mask[row, col]))
    return {label: float(np.mean(hits)) for label, hits in found.items()}


def random_points(boxes: Boxes, count: int, seed: int = 0) -> tuple[Point, ...]:
    """Points drawn evenly over what the encoder saw, all called positive, with a similarity of 0 since there is
    no map: the control of points."""
    generator = np.random.default_rng(seed)
    area = areas(boxes).reshape(-1)
    cells = generator.choice(len(area), count, p=area / area.sum())
    at = boxes.reshape(-1, 4)[cells]
    x, y = (at[:, i] + generator.random(count) * (at[:, i + 2] - at[:, i]) for i in (0, 1))
    return tuple(Point(float(a), float(b), POSITIVE, 0.0) for a, b in zip(x, y, strict=True))
