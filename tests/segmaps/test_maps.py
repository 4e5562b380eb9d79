"""Similarity maps: what dot, cosine and centred are, what they don't change with, and one forward for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lens.backend.encoding import encode, visual_grid
from lens.backend.hooks import Hook, attached
from lens.backend.loading import LoadedModel
from lens.backend.store import STORE
from lens.errors import LayerMissing, MapConstant, StatesUnusable
from lens.segmaps.asking import Asked, ask, patch_query, seg_query, token_query
from lens.segmaps.maps import (
    SIMILARITIES,
    Query,
    fine_boxes,
    scaled,
    similarities,
    similarity_map,
    smooth,
)
from tests.segmaps.seghelpers import ANSWER, PROMPT, noise


def test_similarities_by_hand():
    query = torch.tensor([3.0, 4.0])
    patches = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, -4.0], [6.0, 2.0]])
    assert similarities(query, patches, "dot") == pytest.approx([3, 8, -25, 26])
    assert similarities(query, patches, "cosine") == pytest.approx([0.6, 0.8, -1, 26 / 5 / np.sqrt(40)])
    centred = patches - torch.tensor([1.0, 0.0])  # the mean patch
    away = torch.tensor([2.0, 4.0])
    expected = [0.0 if not row.any() else float(row @ away / row.norm() / away.norm()) for row in centred]
    assert similarities(query, patches, "centred") == pytest.approx(expected)
    with pytest.raises(ValueError, match="similarity"):
        similarities(query, patches, "euclidean")


def test_a_layer_of_the_map_is_the_product_of_its_states(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked), "dot")
    grid = visual_grid(asked.token_map)
    for layer in range(asked.trace.depth + 1):
        states = asked.trace.hidden(layer).double()
        expected = states[grid.positions.reshape(-1)] @ states[asked.segs[0]]
        np.testing.assert_allclose(found.at(layer).reshape(-1), expected, rtol=1e-6)
    assert found.layers == (0, 1, 2, 3, 4) and found.size == (90, 60)
    assert (found.boxes == grid.boxes).all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_shown_map_does_not_change_with_the_querys_length(asked: Asked, similarity: str):
    """The centred one may: the mean is taken from the query too."""
    query = seg_query(asked)
    longer = replace(query, states={layer: 7.5 * state for layer, state in query.states.items()})
    one, other = (similarity_map(asked.trace, each, similarity) for each in (query, longer))
    for layer in (1, 4):
        np.testing.assert_allclose(one.shown(layer), other.shown(layer), atol=1e-6)


def test_a_patch_is_most_similar_to_itself(asked: Asked):
    for row, col in ((0, 0), (2, 5), (5, 3)):
        for similarity in ("cosine", "centred"):
            found = similarity_map(asked.trace, patch_query(asked, row, col), similarity)
            for layer in found.layers:
                assert found.at(layer)[row, col] == pytest.approx(1, abs=1e-6) == found.at(layer).max()


def test_patches_before_the_prompt_do_not_know_it(seg_model: LoadedModel, asked: Asked):
    """Why swapped queries need no other patches: the picture stands first."""
    other = ask(seg_model, "Describe the image.", noise(90, 60), answer=ANSWER)
    query = seg_query(asked)
    np.testing.assert_allclose(
        similarity_map(other.trace, query).raw, similarity_map(asked.trace, query).raw, rtol=1e-4, atol=1e-3
    )


def test_scales():
    values = np.array([[1.0, 2.0], [4.0, 5.0]])
    assert scaled(values).tolist() == [[0, 0.25], [0.75, 1]]
    z = scaled(values, "z-score")
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=1e-12)
    for scale in ("min-max", "z-score"):
        np.testing.assert_allclose(scaled(3 * values + 8, scale), scaled(values, scale))
    with pytest.raises(ValueError, match="scale"):
        scaled(values, "log")


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), -7.5), np.full((2, 2), 1e20) * (1 + 1e-12)])
def test_a_constant_map_is_refused(values: np.ndarray):
    with pytest.raises(MapConstant, match="at every patch"):
        scaled(values)
    with pytest.raises(MapConstant, match="no numbers"):
        scaled(np.array([[0.0, np.nan]]))


def test_a_layer_that_the_map_has_not(asked: Asked):
    with pytest.raises(LayerMissing, match="layers 0 to 4"):
        similarity_map(asked.trace, seg_query(asked)).at(5)


def test_states_that_are_no_numbers(asked: Asked):
    bad = Query("word", "x", {4: torch.full((32,), torch.nan)})
    with pytest.raises(StatesUnusable):
        similarity_map(asked.trace, bad)
    zero = Query("word", "x", {4: torch.zeros(32)})
    with pytest.raises(StatesUnusable):
        similarity_map(asked.trace, zero, "cosine")


def test_the_smooth_map_lies_where_the_patches_do(asked: Asked):
    found = similarity_map(asked.trace, seg_query(asked))
    fine, boxes = smooth(found.at(4)), fine_boxes(found.boxes)
    assert fine.shape == (24, 24) and boxes.shape == (24, 24, 4)
    assert boxes[0, 0, :2].tolist() == found.boxes[0, 0, :2].tolist()
    assert boxes[-1, -1, 2:].tolist() == found.boxes[-1, -1, 2:].tolist()
    assert smooth(found.raw).shape == (5, 24, 24)
    np.testing.assert_allclose(smooth(found.raw)[4], fine)


def test_every_layer_query_and_similarity_comes_from_one_forward(seg_model: LoadedModel):
    """Counted at the language model itself, with the answer given so that nothing has to be written."""
    STORE.traces.clear()
    picture, runs = noise(64, 48, seed=9), []
    encode(seg_model, PROMPT, picture)
    count = Hook(seg_model.anatomy.text_model, "before", lambda *_: runs.append(1))
    with attached([count]):
        once = ask(seg_model, PROMPT, picture, answer=ANSWER)
        queries = [seg_query(once, rule=rule) for rule in ("p", "p-1")]
        queries += [token_query(once, i) for i, kind in enumerate(once.token_map.kinds) if kind != "image"]
        queries.append(patch_query(once, 1, 1))
        for query in queries:
            for similarity in SIMILARITIES:
                assert len(similarity_map(once.trace, query, similarity).layers) == 5
        ask(seg_model, PROMPT, picture, answer=ANSWER)
    assert len(runs) == 1
