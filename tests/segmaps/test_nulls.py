"""Maps that are moved: the same arithmetic as for the map itself, and chance where nothing ties map and mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lens.backend.maskfiles import Mask, mask_of
from lens.backend.regions import box_mask
from lens.segmaps import nulls
from lens.segmaps.maps import FINE, SimilarityMap, fine_boxes, scaled, smooth
from lens.segmaps.masks import otsu
from lens.segmaps.nulls import moved_scores
from lens.segmaps.scores import Target, auc, iou_above, score_layers

SIZE = (90, 60)


def six_by_six(raw: np.ndarray) -> SimilarityMap:
    boxes = np.empty((6, 6, 4))
    boxes[..., 0] = 15 + 10 * np.arange(6)
    boxes[..., 1] = (10 * np.arange(6))[:, None]
    boxes[..., 2], boxes[..., 3] = boxes[..., 0] + 10, boxes[..., 1] + 10
    return SimilarityMap("x", "seg", "dot", tuple(range(len(raw))), raw, boxes, SIZE)


def mask() -> Mask:
    return mask_of(box_mask((25, 10, 55, 40), SIZE))


def test_a_move_is_scored_as_the_rolled_map_is():
    """Against the functions that score a map, on the raster rolled by hand."""
    found = six_by_six(np.random.default_rng(0).random((2, 6, 6)))
    moved = moved_scores(found, mask())
    assert moved.iou.shape == moved.auc.shape == (2, 35)
    target = Target.of(mask(), fine_boxes(found.boxes))
    fine = scaled(smooth(scaled(found.at(1))))
    for number, (down, across) in enumerate(divmod(way, 6) for way in range(1, 36)):
        rolled = np.roll(fine, (FINE * down, FINE * across), axis=(0, 1))
        assert moved.of("iou", 1)[number] == pytest.approx(iou_above(rolled, otsu(fine), target))
        assert moved.of("auc", 1)[number] == pytest.approx(auc(rolled, target))


def test_moving_a_map_of_the_mask_loses_it_and_its_auc_is_chance_on_average():
    truth = np.zeros((1, 6, 6))
    truth[0, 1:4, 1:4] = 1
    found = six_by_six(truth)
    moved, own = moved_scores(found, mask()), score_layers(found, mask()).at(0)
    assert own.auc > 0.99 and own.iou > moved.iou.max() and own.auc > moved.auc.max()
    assert (moved.auc.sum() + own.auc) / 36 == pytest.approx(0.5, abs=1e-9)


def test_a_constant_layer_has_no_score_and_many_moves_are_drawn(monkeypatch: pytest.MonkeyPatch):
    found = six_by_six(np.stack([np.full((6, 6), 3.0), np.arange(36.0).reshape(6, 6)]))
    moved = moved_scores(found, mask())
    assert np.isnan(moved.iou[0]).all() and np.isnan(moved.auc[0]).all() and np.isfinite(moved.auc[1]).all()
    monkeypatch.setattr(nulls, "MOST", 10)
    some = moved_scores(found, mask())
    assert some.iou.shape == (2, 10) and set(some.iou[1]) <= set(moved.iou[1])
    np.testing.assert_array_equal(some.iou, moved_scores(found, mask()).iou)
    everything = replace(found, raw=np.arange(72.0).reshape(2, 6, 6))
    assert np.isfinite(moved_scores(everything, mask()).iou).all()
