"""A whole reading and its export."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lens.backend.maskfiles import mask_of
from lens.backend.regions import box_mask
from lens.errors import LayerMissing, MapConstant
from lens.segmaps.asking import Asked, seg_query
from lens.segmaps.maps import SimilarityMap, similarity_map
from lens.segmaps.masks import head_rasters
from lens.segmaps.points import PointRule
from lens.segmaps.reading import as_json, read_map
from lens.segmaps.scores import overlap, score_layers
from tests.segmaps.test_masks import CornerHead

WANTED = mask_of(box_mask((15, 0, 45, 30), (90, 60)))


def test_a_reading_agrees_with_its_parts(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    reading = read_map(asked, found, 3, points=PointRule(5), wanted=WANTED)
    assert len(reading.points) == 5
    assert reading.shown.min() == 0 and reading.shown.max() == 1
    assert reading.scores is not None
    assert reading.scores.scores == score_layers(found, WANTED).scores
    table = as_json(reading, "tiny")
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert set(table) >= {"grid", "map", "points", "scores"}, "the form that the issue names"
    assert table["grid"] == {"rows": 6, "cols": 6} and np.shape(table["map"]) == (6, 6)
    assert set(table["points"][0]) == {"x", "y", "label"} and table["points"][0]["label"] == "positive"
    assert set(table["scores"]) >= {"iou", "auc", "pointing"}
    assert table["scores"]["iou"] == pytest.approx(reading.scores.at(3).iou, abs=1e-6)
    assert [row["layer"] for row in table["layers"]] == [0, 1, 2, 3, 4]
    assert table["query"] == {"kind": "seg", "text": "<SEG>", "position": asked.segs[0], "token_rule": "p"}


def test_without_a_mask_there_are_no_scores(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    table = as_json(read_map(asked, found, 4), "tiny")
    assert table["scores"] is None and table["layers"] is None
    z = as_json(read_map(asked, found, 4, scale="z-score"), "tiny")
    assert np.mean(z["map"]) == pytest.approx(0, abs=1e-5) and z["points"] == table["points"]


def test_the_head_is_scored_beside_the_map(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    heads = head_rasters(CornerHead(), asked.trace, found, asked.segs)
    reading = read_map(asked, found, 4, heads=heads, wanted=WANTED)
    assert as_json(reading, "tiny")["scores"]["mask_head_iou"] == pytest.approx(1)
    assert overlap(heads[0].mask, WANTED) == (900, 900)


def test_scores_that_do_not_exist_are_null(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    everywhere = mask_of(box_mask((0, 0, 90, 60), (90, 60)))
    table = as_json(read_map(asked, found, 4, wanted=everywhere), "tiny")
    assert table["scores"]["auc"] is None and table["scores"]["iou"] > 0


def test_a_layer_without_an_order_is_refused(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    flat = SimilarityMap("x", "word", "dot", (0,), np.ones((1, 6, 6)), found.boxes, found.size)
    with pytest.raises(MapConstant):
        read_map(asked, flat, 0)
    with pytest.raises(LayerMissing):
        read_map(asked, found, 5)
