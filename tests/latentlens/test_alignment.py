"""The alignment matrix: rows sum to 1, planted layers are found, one picture is a set of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace
from lens.errors import Cancelled, ImagesMissing, SiteMissing
from lens.latentlens.alignment import SHUFFLED, Alignment, align, align_pictures, shuffled
from lens.latentlens.index import Index
from lens.latentlens.search import search
from tests.latentlens.conftest import noise


def test_rows_are_shares_of_the_neighbours(held: Trace, lines: Index):
    found = align(held, lines, k=4)
    assert (found.visual_layers, found.text_layers) == ((0, 1, 2, 3, 4), (1, 3))
    assert found.shares.shape == found.shuffled.shape == (1, 5, 2)
    assert np.allclose(found.mean.sum(1), 1) and np.allclose(found.control.sum(1), 1)
    for row, layer in enumerate(found.visual_layers):
        states = held.hidden(layer)[held.token_map.visual_positions].numpy()
        near = search(lines, states, 4).rows
        assert found.mean[row, 1] == pytest.approx(np.mean([one.layer == 3 for each in near for one in each]))
        assert found.similarity[0, row] == pytest.approx(np.mean([each[0].similarity for each in near]), abs=1e-5)


def test_planted_text_states_find_their_own_layer(held: Trace, lines: Index):
    """Visual tokens that *are* text states of layer 1 (or 3): with k = 1 every neighbour comes from that layer."""
    positions = held.token_map.visual_positions
    states = {}
    for name, layer in ((0, 3), (1, 1)):
        planted = held.hidden(name).clone()
        planted[positions] = torch.from_numpy(lines.vectors(layer)[40 : 40 + len(positions)])
        states[f"hidden.{name}"] = planted
    found = align(Trace(held.key, states, held.token_map, held.depth), lines, [0, 1], k=1)
    assert found.mean.tolist() == [[0, 1], [1, 0]] and found.similarity == pytest.approx(1, abs=1e-5)
    assert (found.shuffled_similarity < 0.99).all()


def test_the_control_keeps_each_dimension_and_is_seeded(held: Trace, lines: Index):
    states = np.arange(24.0).reshape(6, 4)
    mixed = shuffled(states, np.random.default_rng(0))
    assert np.array_equal(np.sort(mixed, axis=0), states) and not np.array_equal(mixed, states)
    one, same = (align(held, lines, [2], seed=7) for _ in range(2))
    assert np.array_equal(one.shuffled_similarity, same.shuffled_similarity)
    assert not np.array_equal(one.shuffled_similarity, align(held, lines, [2], seed=8).shuffled_similarity)
    assert SHUFFLED >= 36


def written(shares: list[list[float]], control: list[list[float]]) -> Alignment:
    """An alignment of one picture with these two matrices."""
    both = [np.array(values, dtype=float)[None] for values in (shares, control)]
    curve = np.zeros((1, len(shares)))
    texts = tuple(range(len(shares[0])))
    return Alignment(tuple(range(len(shares))), texts, ("one",), 5, both[0], curve, both[1], curve)


def test_a_control_is_like_its_matrix_by_a_rule():
    steps = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    same = written(steps, steps)
    assert same.likeness == pytest.approx(1) and same.same_best == 3 and same.explained
    other = written(steps, steps[::-1])
    assert other.likeness == pytest.approx(0) and other.same_best == 1 and not other.explained
    blurred = written(steps, [[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.4, 0.0, 0.6]])
    by_hand = np.corrcoef(blurred.mean.ravel(), blurred.control.ravel())[0, 1]
    assert blurred.likeness == pytest.approx(by_hand) and blurred.explained == (by_hand >= 0.8)
    # Nearly the same numbers, but another text layer wins at two of three visual layers.
    close = written([[0.51, 0.49, 0.0]] * 3, [[0.49, 0.51, 0.0]] * 2 + [[0.51, 0.49, 0.0]])
    assert close.likeness > 0.99 and close.same_best == 1 and not close.explained
    assert np.isnan(written([[1.0], [1.0]], [[1.0], [1.0]]).likeness)
    assert not written([[1.0], [1.0]], [[1.0], [1.0]]).explained


def test_several_pictures_are_each_their_own(llava: LoadedModel, held: Trace, lines: Index):
    seen: list[float] = []
    pictures = [noise(3), noise(4)]
    found = align_pictures(
        llava, pictures, "What is this?", lines, count=2, report=lambda done, total, _: seen.append(done / total)
    )
    assert found.names == ("noise-3.png", "noise-4.png") and found.shares.shape == (2, 5, 2)
    alone = align(held, lines)
    assert found.shares[0] == pytest.approx(alone.shares[0]) and found.shuffled[0] == pytest.approx(alone.shuffled[0])
    assert found.mean == pytest.approx(found.shares.mean(0))
    low, high = found.interval(2, 3)
    assert low <= found.mean[2, 1] <= high
    assert alone.interval(2, 3) == pytest.approx((alone.mean[2, 1],) * 2)
    assert seen == sorted(seen) and seen[-1] == 1


def test_bad_input_and_cancelling(llava: LoadedModel, held: Trace, lines: Index):
    with pytest.raises(SiteMissing):
        align(held, lines, [9])
    with pytest.raises(ImagesMissing):
        align_pictures(llava, [], "What is this?", lines)

    def stop(done: float, total: float, message: str) -> None:
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        align(held, lines, report=stop)
