"""Regions: pooling in closed form, votes counted by hand, and what they are compared with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import IndexMissing, LayerMissing, PatchOutsideGrid
from lens.latentlens.index import Index
from lens.latentlens.reading import LENSES, PatchReading, Reading, VocabularyWord, read, score
from lens.latentlens.region import pool, read_pooled, votes

GRID = [(row, col) for row in range(6) for col in range(6)]


def written(words: list[str], scores: list[float] | None = None) -> Reading:
    """A reading of 2 x 3 patches by the logit lens that finds these words."""
    values = scores or [1.0] * 6
    patches = tuple(
        PatchReading(i // 3, i % 3, (0, 0, 1, 1), {"logit": (VocabularyWord(word, word, value),)})
        for i, (word, value) in enumerate(zip(words, values, strict=True))
    )
    return Reading("m", None, (3, 2), 2, 3, 1, ("logit",), patches)


def test_pooling_is_the_mean_direction_at_the_mean_length():
    assert torch.allclose(pool(torch.tensor([[3.0, 0], [0, 1]])), torch.tensor([1.0, 1.0]))
    assert torch.equal(pool(torch.tensor([[0.5, -2.0]] * 7)), torch.tensor([0.5, -2.0]))


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_a_region_of_one_patch_or_of_equal_ones_reads_as_that_patch(
    llava: LoadedModel, held: Trace, lines: Index, layer: int
):
    alone = read(llava, held, lines, layer, [(2, 3)]).patches[0].neighbours
    grid = held.token_map.grids[0]
    same = held.hidden(layer).clone()
    same[grid.positions.reshape(-1)] = held.hidden(layer)[grid.position(2, 3)]
    constant = Trace(held.key, {f"hidden.{layer}": same}, held.token_map, held.depth)
    for trace, cells in ((held, [(2, 3)]), (constant, [(1, 1), (5, 0), (0, 2)])):
        found = read_pooled(llava, trace, lines, layer, cells)
        for lens in LENSES:
            assert [one.token for one in found.neighbours[lens]] == [one.token for one in alone[lens]]
            assert list(map(score, found.neighbours[lens])) == pytest.approx(list(map(score, alone[lens])), abs=1e-4)
        assert found.coherence == pytest.approx(1, abs=1e-6)
    assert found.outside == pytest.approx(1, abs=1e-6)


def test_coherence_is_compared_with_the_other_patches(llava: LoadedModel, held: Trace, lines: Index):
    cells = [(0, 0), (0, 1), (1, 0)]
    found = read_pooled(llava, held, lines, 1, [*cells, (0, 0)], ["embedding"])
    assert found.cells == ((0, 0), (0, 1), (1, 0)) and list(found.neighbours) == ["embedding"]
    states = held.hidden(1)[held.token_map.visual_positions].double().numpy()
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    own = np.array([GRID.index(cell) for cell in cells])
    centre = unit[own].mean(0) / np.linalg.norm(unit[own].mean(0))
    assert found.coherence == pytest.approx((unit[own] @ centre).mean(), abs=1e-5)
    assert found.outside == pytest.approx((np.delete(unit, own, 0) @ centre).mean(), abs=1e-5)
    assert math.isnan(read_pooled(llava, held, lines, 1, GRID, ["embedding"]).outside)


def test_votes_are_counted_inside_and_outside():
    reading = written(["Cat", "cat", "dog", "cat", "sky", "sky"], [1.0, 3.0, 9.0, 1.0, 1.0, 1.0])
    cat, dog = votes(reading, "logit", [(0, 0), (0, 1), (0, 2), (0, 2)])
    assert (cat.word, cat.cells, cat.score) == ("Cat", ((0, 0), (0, 1)), 2.0)
    assert (cat.share, cat.elsewhere) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (dog.word, dog.share, dog.elsewhere) == ("dog", pytest.approx(1 / 3), 0.0)
    everything = votes(reading, "logit", [(r, c) for r in range(2) for c in range(3)])
    assert [vote.word for vote in everything] == ["cat", "sky", "dog"]
    assert sum(vote.share for vote in everything) == pytest.approx(1) and math.isnan(everything[0].elsewhere)


def test_votes_of_equal_number_go_by_score():
    reading = written(["a", "b", "a", "b", "c", "c"], [1.0, 2.0, 1.0, 2.0, 5.0, 1.0])
    assert [vote.word for vote in votes(reading, "logit", [(0, 0), (0, 1), (1, 1)])] == ["c", "b", "a"]


def test_what_is_not_there_is_refused(llava: LoadedModel, held: Trace, lines: Index):
    with pytest.raises(PatchOutsideGrid, match="no patch"):
        read_pooled(llava, held, lines, 1, [])
    with pytest.raises(PatchOutsideGrid, match="6,0"):
        read_pooled(llava, held, lines, 1, [(0, 0), (6, 0)])
    with pytest.raises(LayerMissing):
        read_pooled(llava, held, lines, 9, [(0, 0)])
    with pytest.raises(IndexMissing):
        read_pooled(llava, held, None, 1, [(0, 0)])
    with pytest.raises(PatchOutsideGrid, match=r"\(2, 0\).*rows 0 to 1"):
        votes(written(["a"] * 6), "logit", [(2, 0)])
    with pytest.raises(PatchOutsideGrid, match="no patch"):
        votes(written(["a"] * 6), "logit", [])
