"""Curves over layers and cosines across pictures, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.attention import attention_received
from lens.backend.encoding import Encoded, encode
from lens.backend.loading import LoadedModel
from lens.backend.readouts import embedding_lens
from lens.backend.tracing import Trace, hidden_sites, trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import classify
from lens.embedlens.layers import cross_image, curves, mean_cosines, nearest_words, quantities
from lens.embedlens.probe import left_out
from lens.errors import Cancelled, ImagesMissing
from tests.embedlens.planted import PROMPT, Planted, picture_of_noise, pictures


@pytest.fixture(scope="module")
def encoded(llava: LoadedModel) -> Encoded:
    return encode(llava, PROMPT, picture_of_noise(0))


@pytest.fixture(scope="module")
def held(llava: LoadedModel, encoded: Encoded) -> Trace:
    return trace(llava, encoded, hidden_sites(llava.anatomy.depth))


LABELS = np.full((6, 6), "alive")
LABELS[0, :4] = "dead"


def test_curves_are_means_over_a_class_with_intervals_around_them(llava: LoadedModel, encoded: Encoded, held: Trace):
    received = attention_received(llava, encoded)
    words = nearest_words(llava, held)
    found = curves(quantities(held, received, words), LABELS)
    assert set(found) == {"norm", "cosine", "attention", "stability"}
    assert all(set(by_class) == {"dead", "alive"} for by_class in found.values()), "no curve of an empty class"
    dead = encoded.token_map.visual_positions[:4]
    for layer in range(5):
        states = held.hidden(layer)[dead]
        assert found["norm"]["dead"].mean[layer] == pytest.approx(float(states.norm(dim=-1).mean()), rel=1e-5)
        if layer:
            turned = torch.cosine_similarity(states, held.hidden(layer - 1)[dead]).mean()
            assert found["cosine"]["dead"].mean[layer - 1] == pytest.approx(float(turned), abs=1e-5)
            assert found["attention"]["dead"].mean[layer - 1] == pytest.approx(received[layer - 1, :4].mean())
            same = np.mean(words[layer, :4] == words[layer - 1, :4])
            assert found["stability"]["dead"].mean[layer - 1] == pytest.approx(same)
    assert found["norm"]["dead"].layers == (0, 1, 2, 3, 4) and found["cosine"]["dead"].layers == (1, 2, 3, 4)
    for by_class in found.values():
        for curve in by_class.values():
            assert (curve.low <= curve.mean + 1e-6).all() and (curve.mean <= curve.high + 1e-6).all()
    assert (found["norm"]["alive"].high > found["norm"]["alive"].low).all()
    assert set(curves(quantities(held), LABELS)) == {"norm", "cosine"}


def test_nearest_words_are_the_probes(llava: LoadedModel, held: Trace):
    words = nearest_words(llava, held)
    assert words.shape == (5, 36)
    out = set(left_out(llava).tolist())
    ids = embedding_lens(llava, held.hidden(2)[held.token_map.visual_positions], 20).ids
    assert words[2].tolist() == [next(i for i in row if i not in out) for row in ids.tolist()]


def test_mean_cosines_against_every_pair():
    generator = np.random.default_rng(0)
    groups = [generator.normal(size=(n, 5)) for n in (3, 1, 4, 0)]
    groups = [g / np.linalg.norm(g, axis=1, keepdims=True) for g in groups]
    found = mean_cosines(np.array([g.sum(0) for g in groups]), np.array([len(g) for g in groups]))
    for a in range(3):
        for b in range(3):
            pairs = [x @ y for i, x in enumerate(groups[a]) for j, y in enumerate(groups[b]) if a != b or i != j]
            assert found[a, b] == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found[a, b])
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()


def test_planted_sinks_are_alike_across_pictures_and_content_is_not(planted: Planted, anchors: Anchors):
    found = cross_image(planted.loaded, pictures(3), PROMPT, anchors)
    assert found.names == ("noise-0.png", "noise-1.png", "noise-2.png")
    apart = ~np.eye(3, dtype=bool)
    alike = {name: matrix[apart].mean() for name, matrix in found.matrices.items()}
    assert alike["dead"] > 0.5 > 0.2 > alike["alive"]
    held = [trace(planted.loaded, encode(planted.loaded, PROMPT, p), ["hidden.0"]) for p in pictures(2)]
    chosen = [
        h.hidden(0)[h.token_map.visual_positions[(classify(planted.loaded, h, anchors).labels == "dead").reshape(-1)]]
        for h in held
    ]
    pairs = torch.cosine_similarity(chosen[0][:, None], chosen[1][None], dim=-1)
    assert found.matrices["dead"][0, 1] == pytest.approx(float(pairs.mean()), abs=1e-5)


def test_no_pictures_and_cancelling(planted: Planted, anchors: Anchors):
    with pytest.raises(ImagesMissing):
        cross_image(planted.loaded, [], PROMPT, anchors)

    def report(done: float, total: float, message: str) -> None:
        assert total == 3
        if done == 1:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        cross_image(planted.loaded, pictures(3), PROMPT, anchors, report=report)
