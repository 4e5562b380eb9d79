"""What a map's score is worth: the same map moved over the grid, so that its blobs lie elsewhere.

A map is moved by whole patches and around the edges, which keeps its values, their blobs and its threshold, and breaks only
what ties it to the picture. Random maps would be too weak a null: a large blob hits a large mask by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend.maskfiles import Mask
from lens.errors import MapConstant
from lens.segmaps.maps import FINE, SimilarityMap, fine_boxes, scaled, smooth
from lens.segmaps.masks import otsu
from lens.segmaps.scores import Target

MOST = 60
"""Moves that are tried at most; of a finer grid as many, drawn at random."""


@dataclass(frozen=True, eq=False)
class MovedScores:
    """Scores of a map after each of some moves, at its layers; NaN where the map is constant.

    Attributes:
        iou: at Otsu's threshold, as in :class:`lens.segmaps.scores.MapScores`. auc: likewise.
    """

    layers: tuple[int, ...]
    iou: Float[np.ndarray, "layers moves"]
    auc: Float[np.ndarray, "layers moves"]

    def of(self, measure: str, layer: int) -> Float[np.ndarray, " moves"]:
        """``"iou"`` or ``"auc"`` of every move at one layer."""
        return getattr(self, measure)[self.layers.index(layer)]


def moved_scores(found: SimilarityMap, mask: Mask, seed: int = 0) -> MovedScores:
    """Every layer of a map, moved by every whole number of patches but none (at most :data:`MOST`), against a mask."""
    boxes = fine_boxes(found.boxes)
    target = Target.of(mask, boxes)
    rows, cols = found.raw.shape[1:]
    ways = np.arange(1, rows * cols)
    if len(ways) > MOST:
        ways = np.sort(np.random.default_rng(seed).choice(ways, MOST, replace=False))
    at = _moved_cells(boxes.shape[:2], ways // cols * FINE, ways % cols * FINE)
    inside, outside = (np.ascontiguousarray(area[at].T) for area in (target.inside, target.outside))
    scores = [_scores(found.at(layer), inside, outside, target.total) for layer in found.layers]
    return MovedScores(found.layers, np.stack([iou for iou, _ in scores]), np.stack([auc for _, auc in scores]))


def _moved_cells(
    shape: tuple[int, ...], down: Int[np.ndarray, " moves"], across: Int[np.ndarray, " moves"]
) -> Int[np.ndarray, "moves cells"]:
    """Where each cell of a grid, counted through, lies after each move."""
    row, col = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    return (row + down[:, None]) % shape[0] * shape[1] + (col + across[:, None]) % shape[1]


def _scores(
    values: Float[np.ndarray, "rows cols"],
    inside: Float[np.ndarray, "cells moves"],
    outside: Float[np.ndarray, "cells moves"],
    total: float,
) -> tuple[np.ndarray, np.ndarray]:
    """IoU and AUC of one layer after each move. The order of the values is the same for all, and so is the threshold."""
    try:
        fine = scaled(smooth(scaled(values))).reshape(-1)
        threshold = otsu(fine)
    except MapConstant:
        nothing = np.full(inside.shape[1], np.nan)
        return nothing, nothing
    order = np.argsort(-fine, kind="stable")
    within, beyond = inside[order], outside[order]
    count = int((fine > threshold).sum())
    iou = within[:count].sum(0) / (beyond[:count].sum(0) + total)
    ordered = fine[order]
    starts = np.append(0, np.flatnonzero(ordered[1:] < ordered[:-1]) + 1)
    if len(starts) < len(ordered):  # equal values count half against each other
        within, beyond = (np.add.reduceat(area, starts) for area in (within, beyond))
    above = np.cumsum(within, axis=0) - within / 2
    pairs = within.sum(0) * beyond.sum(0)
    found = np.einsum("cm,cm->m", beyond, above)
    return iou, np.divide(found, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
