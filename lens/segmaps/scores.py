"""How well a map finds a mask: IoU, AUC and pointing game of one map, gIoU and cIoU of many.

A raster's cells are weighed by area: a cell that a mask half covers is half inside. So every score is that of the map's
pixels, exactly, at the cost of its cells, and all layers of a picture are scored at once. What the encoder never saw counts
as not found for IoU, and not at all for AUC. Pixels that a mask ignores (label 255) count nowhere.

Invariants: the IoU of a threshold is that of the mask that is drawn with it, up to pixels that a cell's edge parts; AUC
doesn't change with any rising function of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float

from lens.backend.maskfiles import Mask
from lens.backend.regions import Boxes, areas, covered
from lens.errors import MapConstant
from lens.segmaps.maps import SimilarityMap, fine_boxes, scaled, smooth
from lens.segmaps.masks import Raster, otsu


@dataclass(frozen=True)
class MapScores:
    """One map against one mask.

    Attributes:
        iou: at Otsu's threshold. threshold: that threshold. both, union: the pixels of intersection and union there, for
            :func:`giou` and :func:`ciou` over pictures.
        best_iou: at the best threshold, which knows the mask. best_threshold: that one.
        auc: area under the ROC curve, 0.5 by chance. NaN where the encoder saw nothing of the mask, or nothing else.
        pointing: 1 if the middle of the highest patch lies in the mask; a share where several are highest.
    """

    iou: float
    threshold: float
    both: float
    union: float
    best_iou: float
    best_threshold: float
    auc: float
    pointing: float


@dataclass(frozen=True, eq=False)
class LayerScores:
    """The scores of a map at its layers; a layer at which the map is constant has NaN."""

    layers: tuple[int, ...]
    scores: tuple[MapScores, ...]

    def curve(self, name: str) -> Float[np.ndarray, " layers"]:
        """One of the fields of :class:`MapScores` over the layers."""
        return np.array([getattr(score, name) for score in self.scores])

    def at(self, layer: int) -> MapScores:
        return self.scores[self.layers.index(layer)]


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """IoU of {values > t} for every t that makes a difference, descending thresholds."""

    thresholds: Float[np.ndarray, " n"]
    iou: Float[np.ndarray, " n"]


def score_layers(found: SimilarityMap, mask: Mask) -> LayerScores:
    """Every layer of a map against a mask of its picture."""
    target = Target.of(mask, fine_boxes(found.boxes))
    return LayerScores(
        found.layers, tuple(_score(found.at(layer), target, found.boxes, mask) for layer in found.layers)
    )


@dataclass(frozen=True, eq=False)
class Target:
    """A mask as a raster's cells see it: areas in pixels.

    Attributes:
        inside, outside: of each cell, flat.
        total: of the whole mask, blind sides of the picture included.
    """

    inside: Float[np.ndarray, " cells"]
    outside: Float[np.ndarray, " cells"]
    total: float

    @classmethod
    def of(cls, mask: Mask, boxes: Boxes) -> Target:
        inside = covered(mask.inside, boxes)
        ignored = covered(mask.ignored, boxes) if mask.ignored.any() else 0.0
        outside = np.clip(areas(boxes) - inside - ignored, 0, None)
        return cls(inside.reshape(-1), outside.reshape(-1), float(mask.inside.sum()))


def _score(values: np.ndarray, target: Target, boxes: Boxes, mask: Mask) -> MapScores:
    try:
        fine = scaled(smooth(scaled(values)))
        threshold = otsu(fine)
    except MapConstant:
        nothing = float("nan")
        return MapScores(*[nothing] * len(fields(MapScores)))
    curve = threshold_curve(fine, target)
    best = int(curve.iou.argmax())
    both, union = overlap_above(fine, threshold, target)
    return MapScores(
        iou=both / union,
        threshold=threshold,
        both=both,
        union=union,
        best_iou=float(curve.iou[best]),
        best_threshold=float(curve.thresholds[best]),
        auc=auc(fine, target),
        pointing=pointing(values, boxes, mask.inside),
    )


def iou_above(values: Float[np.ndarray, "*cells"], threshold: float, target: Target) -> float:
    """IoU of the cells above a threshold with the target."""
    both, union = overlap_above(values, threshold, target)
    return both / union


def overlap_above(values: Float[np.ndarray, "*cells"], threshold: float, target: Target) -> tuple[float, float]:
    """Pixels of the intersection and of the union of the cells above a threshold with the target."""
    chosen = values.reshape(-1) > threshold
    return float(target.inside[chosen].sum()), float(target.outside[chosen].sum()) + target.total


def threshold_curve(values: Float[np.ndarray, "*cells"], target: Target) -> ThresholdCurve:
    """IoU over threshold; the last threshold lies below every value, so that all cells are inside."""
    flat = values.reshape(-1)
    order = np.argsort(-flat, kind="stable")
    both = np.concatenate([[0.0], np.cumsum(target.inside[order])])
    more = np.concatenate([[0.0], np.cumsum(target.outside[order])])
    ordered = flat[order]
    ends = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True)) + 1  # equal values are inside together
    counts = np.concatenate([[0], ends])
    lowest = ordered[-1] - (ordered[0] - ordered[-1] or 1.0) / len(ordered)
    thresholds = np.append(ordered[counts[:-1]], lowest)
    return ThresholdCurve(thresholds, both[counts] / (more[counts] + target.total))


def auc(values: Float[np.ndarray, "*cells"], target: Target) -> float:
    """The chance that a random pixel inside has a higher value than one outside, ties counting half."""
    flat = values.reshape(-1)
    inside, outside = float(target.inside.sum()), float(target.outside.sum())
    if inside <= 0 or outside <= 0:
        return float("nan")
    _, level = np.unique(flat, return_inverse=True)
    within = np.bincount(level, target.inside)
    beyond = np.bincount(level, target.outside)
    below = np.cumsum(beyond) - beyond
    return float((within * (below + beyond / 2)).sum() / (inside * outside))


def pointing(values: Float[np.ndarray, "rows cols"], boxes: Boxes, inside: Bool[np.ndarray, "h w"]) -> float:
    """Whether the middle of the highest cell lies in the mask (Zhang et al. 2016, without their 15 pixels of tolerance);
    of several highest cells, the share that do. Cells outside the picture can't be the highest."""
    shown = np.where(areas(boxes) > 0, values, -np.inf)
    at = boxes[shown == shown.max()]
    x, y = ((at[:, i] + at[:, i + 2]) / 2 for i in (0, 1))
    rows, cols = np.minimum(y.astype(int), inside.shape[0] - 1), np.minimum(x.astype(int), inside.shape[1] - 1)
    return float(inside[rows, cols].mean())


def raster_iou(raster: Raster, mask: Mask) -> float:
    """IoU of a raster's mask with another."""
    if raster.boxes is None:
        both, union = overlap(raster.mask, mask)
        return both / union if union else 0.0
    return iou_above(raster.values, raster.threshold, Target.of(mask, raster.boxes))


def overlap(found: Bool[np.ndarray, "h w"], mask: Mask) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks, those ignored left out."""
    found = found & ~mask.ignored
    return int((found & mask.inside).sum()), int((found | mask.inside).sum())


def giou(overlaps: Sequence[tuple[float, float]]) -> float:
    """The mean over pictures of intersection over union, as LISA and READ compute it: I / (U + 1e-5), and 1 where both
    masks are empty."""
    return float(np.mean([1.0 if union == 0 else both / (union + 1e-5) for both, union in overlaps]))


def ciou(overlaps: Sequence[tuple[float, float]]) -> float:
    """All intersections over all unions: Σ I / (Σ U + 1e-10)."""
    return float(sum(both for both, _ in overlaps) / (sum(union for _, union in overlaps) + 1e-10))
