"""Scores of maps against masks: closed forms, brute force over pixels, and the vectors of LISA's and READ's code."""

from __future__ import annotations

import numpy as np
import pytest

from lens.backend.maskfiles import Mask, mask_of
from lens.backend.regions import box_mask, painted, sampled
from lens.segmaps.maps import SimilarityMap, fine_boxes, scaled, smooth
from lens.segmaps.masks import map_raster
from lens.segmaps.scores import (
    Target,
    auc,
    ciou,
    giou,
    iou_above,
    overlap,
    pointing,
    raster_iou,
    score_layers,
    threshold_curve,
)
from tests.segmaps.test_masks import hill_map
from tests.segmaps.test_points import crop_boxes

SIZE = (90, 60)
BOXES = crop_boxes(SIZE, 6)
"""6 x 6 patches of 10 pixels, from x = 15 to 75."""


def one_map(values: np.ndarray) -> SimilarityMap:
    return SimilarityMap("map", "word", "dot", (2,), values[None], BOXES, SIZE)


def test_giou_and_ciou_of_the_method_file():
    assert giou([(50, 100), (900, 1000)]) == pytest.approx(0.7, abs=1e-6)
    assert ciou([(50, 100), (900, 1000)]) == pytest.approx(0.863636, abs=1e-6)
    assert giou([(0, 0), (1, 2)]) == pytest.approx(0.75, abs=1e-5), "both empty counts as found"
    assert ciou([(0, 0)]) == 0


def test_overlap_leaves_out_what_is_ignored():
    mask = Mask(box_mask((0, 0, 10, 10), SIZE), box_mask((10, 0, 20, 10), SIZE))
    assert overlap(box_mask((5, 0, 25, 10), SIZE), mask) == (50, 150)


def test_the_iou_is_that_of_the_mask_that_is_drawn():
    """Edges of the raster's cells fall between pixels (cells of 2.5 pixels), so only nearly."""
    found, mask = hill_map(), mask_of(box_mask((40, 0, 75, 30), SIZE))
    for threshold in (0.2, 0.5, 0.8):
        raster = map_raster(found, 0, "value", threshold)
        both, either = overlap(raster.mask, mask)
        assert raster_iou(raster, mask) == pytest.approx(both / either, abs=0.02)


def test_a_perfect_map_and_its_opposite():
    cells = np.zeros((6, 6))
    cells[1:4, 2:5] = 1.0
    mask = mask_of(painted(cells > 0, BOXES, SIZE))
    values = np.repeat(np.repeat(cells, 4, 0), 4, 1)
    target = Target.of(mask, fine_boxes(BOXES))
    assert iou_above(values, 0.5, target) == pytest.approx(1)
    assert auc(values, target) == pytest.approx(1)
    assert auc(-values, target) == pytest.approx(0)
    assert auc(np.zeros_like(values), target) == pytest.approx(0.5)
    assert pointing(cells, BOXES, mask.inside) == 1
    assert pointing(-cells, BOXES, mask.inside) == 0
    curve = threshold_curve(values, target)
    assert curve.iou.max() == pytest.approx(1)
    assert curve.iou[-1] == pytest.approx(9 / 36) and curve.thresholds[-1] < 0, "everything inside"
    assert curve.iou[0] == 0 and curve.thresholds[0] == 1, "nothing inside"


def test_auc_and_iou_against_pixels():
    """The same map as pixels, every pair of pixels compared; cells of whole pixels, so exactly."""
    generator = np.random.default_rng(0)
    values = np.round(generator.random((6, 6)), 1)  # with ties
    inside = generator.random((60, 90)) < 0.3
    ignored = (generator.random((60, 90)) < 0.2) & ~inside
    mask = Mask(inside, ignored)
    target = Target.of(mask, BOXES)
    pixels = np.repeat(np.repeat(values, 10, 0), 10, 1)
    seen, left = inside[:, 15:75], ignored[:, 15:75]
    yes, no = pixels[seen], pixels[~seen & ~left]
    brute = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
    assert auc(values, target) == pytest.approx(brute)
    assert auc(np.exp(3 * values), target) == pytest.approx(brute), "any rising function"
    curve = threshold_curve(values, target)
    assert sorted(set(values.ravel()), reverse=True) == pytest.approx(curve.thresholds[:-1].tolist())
    for threshold, iou in zip(curve.thresholds, curve.iou, strict=True):
        drawn = np.zeros((60, 90), dtype=bool)
        drawn[:, 15:75] = pixels > threshold
        both, either = overlap(drawn, mask)
        assert iou == pytest.approx(both / either)
        assert iou_above(values, threshold, target) == pytest.approx(iou)


def test_a_mask_on_the_blind_sides_counts_as_missed():
    mask = mask_of(box_mask((0, 0, 90, 60), SIZE))
    target = Target.of(mask, BOXES)
    assert iou_above(np.ones((6, 6)), 0.5, target) == pytest.approx(60 / 90)
    assert np.isnan(auc(np.eye(6), target)), "no pixel outside"
    blind = mask_of(box_mask((0, 0, 15, 60), SIZE))
    scores = score_layers(one_map(np.arange(36.0).reshape(6, 6)), blind).at(2)
    assert scores.iou == 0 and scores.best_iou == 0 and np.isnan(scores.auc) and scores.pointing == 0


def test_pointing_shares_the_highest_patches():
    values = np.zeros((6, 6))
    values[0, 0] = values[0, 5] = 1
    assert pointing(values, BOXES, box_mask((15, 0, 25, 10), SIZE)) == 0.5
    off = BOXES.copy()
    off[0, 0] = (15, 0, 25, 0)
    assert pointing(values, off, box_mask((15, 0, 25, 10), SIZE)) == 0, "a patch on padding is never the highest"


def test_layers_are_scored_alike_and_a_constant_one_has_no_score():
    raw = np.stack([hill_map().raw[0], np.full((6, 6), 3.0), hill_map().raw[1]])
    found = SimilarityMap("m", "word", "dot", (0, 1, 2), raw, BOXES, SIZE)
    mask = mask_of(box_mask((45, 0, 75, 30), SIZE))
    layers = score_layers(found, mask)
    assert np.isnan(layers.curve("iou")).tolist() == [False, True, False]
    high, _, low = layers.scores
    assert high.auc > 0.9 and high.auc + low.auc == pytest.approx(1)
    assert (high.pointing, low.pointing) == (1, 0)
    assert high.best_iou >= high.iou > low.iou
    fine = scaled(smooth(scaled(raw[0])))
    assert high.iou == pytest.approx(iou_above(fine, high.threshold, Target.of(mask, fine_boxes(BOXES))))
    assert high.best_iou == pytest.approx(iou_above(fine, high.best_threshold, Target.of(mask, fine_boxes(BOXES))))


def test_the_raster_is_the_maps_own_interpolation():
    values = np.random.default_rng(3).random((6, 6))
    boxes = fine_boxes(BOXES)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    np.testing.assert_allclose(smooth(values), sampled(values, BOXES, middles[0, :, 0], middles[:, 0, 1]), atol=1e-12)


def test_overlaps_at_every_layer_add_up_over_pictures():
    """The pixels behind the IoU are those of the mask that is drawn, so that gIoU and cIoU can be had at every layer."""
    found, mask = hill_map(), mask_of(box_mask((40, 0, 75, 30), SIZE))
    score = score_layers(found, mask).at(0)
    both, either = overlap(map_raster(found, 0).mask, mask)
    assert (score.both, score.union) == (pytest.approx(both, rel=0.02), pytest.approx(either, rel=0.02))
    assert score.iou == score.both / score.union
