"""The hubness control: what wins without content."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lens.backend.loading import LoadedModel
from lens.embedlens.anchors import Anchors
from lens.embedlens.hubness import BLANKS, blank_pictures, hubness, noise_pictures
from lens.errors import CapabilityMissing
from tests.embedlens.planted import Planted


def test_planted_anchors_win_in_images_without_content_and_not_for_random_vectors(planted: Planted, anchors: Anchors):
    """Their patches are planted whatever the image: exactly so many of 36, except that content may add to them."""
    found = hubness(planted.loaded, anchors, samples=400, images=3)
    names = [control.name for control in found.controls]
    assert names == ["Gaussian", "Noise images", "Blank images"]
    places = {planted.ids[name]: len(cells) for name, cells in planted.cells.items()}
    expected = np.array([places[anchor.id] for anchor in anchors.found]) / 36
    for control in found.controls[1:]:
        assert control.states == 3 * 36
        assert control.wins == pytest.approx(expected, abs=1e-9)
        assert (control.touches >= control.wins).all()
    gaussian = found.controls[0]
    assert gaussian.states == 400
    assert (gaussian.wins < 0.05).all() and (gaussian.touches < 0.1).all()
    assert found.chance == 1 / planted.loaded.anatomy.vocab_size


def test_a_cloud_around_an_anchor_is_won_by_it(planted: Planted, anchors: Anchors):
    """The shaped control sees where the picture's tokens lie: all of them at one embedding, whatever their length."""
    row = planted.loaded.anatomy.embeddings.weight[anchors.found[0].id]
    states = row * (5 + torch.randn(50, 1, generator=torch.Generator().manual_seed(0)) * 0.1)
    found = hubness(planted.loaded, anchors, states, samples=100, images=1)
    shaped = found.controls[1]
    assert shaped.name == "Gaussian, shaped"
    assert shaped.wins[0] == 1 and not shaped.wins[1:].any()


def test_the_control_is_seeded(planted: Planted, anchors: Anchors):
    runs = [hubness(planted.loaded, anchors, samples=300, images=1, seed=seed) for seed in (0, 0, 1)]
    shares = [np.concatenate([c.touches for c in run.controls]).tolist() for run in runs]
    assert shares[0] == shares[1]
    assert [picture.digest for picture in noise_pictures(2, 0)] == [picture.digest for picture in noise_pictures(2, 0)]


def test_pictures_without_content_are_what_they_say():
    first, second = noise_pictures(2, 0)
    assert first.digest != second.digest
    blanks = list(blank_pictures(len(BLANKS) + 3, 0))
    assert len({picture.digest for picture in blanks}) == len(BLANKS) + 3
    assert all(len(picture.image.getcolors() or ()) == 1 for picture in blanks)


def test_progress_runs_through_both_kinds_of_images(planted: Planted, anchors: Anchors):
    calls: list[tuple[float, float]] = []
    hubness(
        planted.loaded, anchors, samples=10, images=2, report=lambda done, total, _: calls.append((done / total, total))
    )
    assert [share for share, _ in calls] == [0, 0.25, 0.5, 0.75]


def test_a_text_only_model_is_refused(llama: LoadedModel, anchors: Anchors):
    with pytest.raises(CapabilityMissing):
        hubness(llama, anchors)
