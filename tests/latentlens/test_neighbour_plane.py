"""The map's points: every token and every neighbour once, with the states that the search compared."""

from __future__ import annotations

import numpy as np
import pytest

from lens.backend.maps import pca
from lens.backend.tracing import Trace
from lens.latentlens.index import Index
from lens.latentlens.plane import flat, folded, gather
from lens.latentlens.search import search


def test_points_are_the_tokens_and_their_neighbours(held: Trace, lines: Index):
    found = gather(held, lines, [1, 3], k=2)
    visual = held.token_map.visual_positions
    near = [row for layer in (1, 3) for row in search(lines, held.hidden(layer)[visual].numpy(), 2).rows]
    tokens = 2 * len(visual)
    assert found.visual.sum() == tokens == len(found.cells) and found.layer[:tokens].tolist() == [1] * 36 + [3] * 36
    assert found.cells[36:] == found.cells[:36] and found.cells[7] == (1, 1)
    identity = {(one.layer, one.sentence, one.start, one.token) for one in found.contexts}
    assert identity == {(one.layer, one.sentence, one.start, one.token) for row in near for one in row}
    assert len(identity) == len(found.contexts) == len(found.states) - tokens
    for i, row in enumerate(near):
        best = found.contexts[found.best[i]]
        assert (best.sentence, best.start, best.layer) == (row[0].sentence, row[0].start, row[0].layer)
        assert found.words[i] == row[0].word
        # The state that is drawn is the one whose cosine the search reported.
        assert found.states[i] @ found.states[tokens + found.best[i]] == pytest.approx(row[0].similarity, abs=1e-5)
    assert found.words[tokens:] == tuple(one.word for one in found.contexts)
    assert found.layer[tokens:].tolist() == [one.layer for one in found.contexts]


def test_centred_clouds_share_their_centre(held: Trace, lines: Index):
    apart, together = (gather(held, lines, [2], centred=centred) for centred in (False, True))
    assert np.linalg.norm(together.states, axis=1) == pytest.approx(1)

    def gap(states: np.ndarray) -> float:
        return float(np.linalg.norm(states[apart.visual].mean(0) - states[~apart.visual].mean(0)))

    assert gap(together.states) < 0.5 * gap(apart.states)
    assert together.words == apart.words


def test_pca_at_once_and_umap_later(held: Trace, lines: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lens.backend.maps.umap", lambda states: states[:, :2])  # it compiles
    points = gather(held, lines, [2])
    quick, slow = flat(points), folded(points)
    assert list(quick.planes) == ["PCA"] and list(slow.planes) == ["PCA", "UMAP"]
    assert np.array_equal(quick.planes["PCA"], pca(points.states)[0]) and quick.explained == slow.explained
    assert slow.planes["UMAP"].shape == (len(points.states), 2)
