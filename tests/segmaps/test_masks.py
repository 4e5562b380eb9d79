"""Thresholds and the masks that they give."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float

from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import MapConstant
from lens.segmaps.asking import Asked, seg_query
from lens.segmaps.maps import SimilarityMap, similarity_map
from lens.segmaps.masks import head_rasters, map_raster, open_head, otsu, threshold_of
from tests.segmaps.test_points import crop_boxes


def hill_map(size: tuple[int, int] = (90, 60)) -> SimilarityMap:
    rows, cols = np.mgrid[0:6, 0:6]
    hill = np.exp(-((cols - 4.0) ** 2 + (rows - 1.0) ** 2) / 3)
    return SimilarityMap("hill", "word", "dot", (0, 3), np.stack([hill, -hill]), crop_boxes(size, 6), size)


def test_otsu_is_the_best_of_all_thresholds():
    """By brute force: the least variance within the two sides."""
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=80) + 3 * (np.arange(80) < 25)
        within = []
        ordered = np.sort(values)
        for k in range(1, 80):
            low, high = ordered[:k], ordered[k:]
            within.append(k * low.var() + (80 - k) * high.var())
        k = int(np.argmin(within)) + 1
        assert otsu(values) == pytest.approx((ordered[k - 1] + ordered[k]) / 2)
        assert otsu(5 * values + 2) == pytest.approx(5 * otsu(values) + 2)


def test_otsu_never_parts_equal_values():
    assert otsu(np.array([0.0, 0, 0, 1, 1])) == 0.5
    assert otsu(np.array([[0.0, 0.0], [0.0, 9.0]])) == 4.5
    for same in (np.ones(7), np.ones(1), np.full(49, 0.1)):  # sums of the last one are rounded
        with pytest.raises(MapConstant):
            otsu(same)


def test_otsu_agrees_with_scikit_image():
    filters = pytest.importorskip("skimage.filters")
    values = np.concatenate([np.random.default_rng(0).normal(0, 1, 4000), np.random.default_rng(1).normal(6, 1, 1500)])
    assert otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=2 * np.ptp(values) / 256)


def test_the_three_rules():
    values = np.linspace(0, 1, 101).reshape(1, -1)
    assert threshold_of(values, "value", 0.3)[0] == 0.3
    assert (values > threshold_of(values, "quantile", 0.8)[0]).sum() == 20
    assert threshold_of(values, "otsu")[0] == pytest.approx(0.5, abs=0.01)
    for rule, number in (("value", 1.2), ("quantile", -0.1), ("guess", None)):
        with pytest.raises(ValueError):
            threshold_of(values, rule, number)


def test_a_mask_lies_where_the_map_is_high_and_never_where_nothing_was_seen():
    found = hill_map()
    raster = map_raster(found, 0)
    mask = raster.mask
    assert mask.shape == (60, 90)
    assert mask[15, 60] and not mask[50, 20]
    assert not mask[:, :15].any() and not mask[:, 75:].any()
    inverse = map_raster(found, 3).mask
    assert not inverse[15, 60] and inverse[50, 20] and not inverse[:, :15].any()
    everywhere = map_raster(found, 3, "value", 0.0).mask
    assert everywhere[:, 15:75].mean() > 0.99
    sizes = [map_raster(found, 0, "value", t).mask.sum() for t in (0.1, 0.4, 0.7, 0.99)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
    assert map_raster(found, 0, "quantile", 0.75).cells.mean() == pytest.approx(0.25, abs=0.01)


def test_a_constant_map_has_no_mask():
    found = hill_map()
    flat = SimilarityMap("x", "word", "dot", (0,), np.ones((1, 6, 6)), found.boxes, found.size)
    with pytest.raises(MapConstant):
        map_raster(flat, 0)


class CornerHead:
    """A head that finds one corner, at twice the patches' resolution."""

    def sites(self) -> tuple[str, ...]:
        return ("connector",)

    def logits(self, trace: Trace, positions: tuple[int, ...]) -> Float[np.ndarray, "masks rows cols"]:
        assert "hidden.4" in trace.states
        found = np.full((len(positions), 12, 12), -1.0)
        found[:, :6, :6] = 1.0
        return found


def test_a_models_own_head_gives_a_mask_for_each_token(asked: Asked, seg_model: LoadedModel):
    assert open_head(seg_model) is None, "the catalog names none for it"
    found = similarity_map(asked.trace, seg_query(asked))
    (raster,) = head_rasters(CornerHead(), asked.trace, found, asked.segs)
    assert raster.threshold == 0
    mask = raster.mask
    assert mask[:30, 15:45].all() and mask.sum() == 900
