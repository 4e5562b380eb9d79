"""Maps of states, against sklearn and on points whose groups are known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from lens.backend.maps import pca, umap, unit


def groups(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two tight bundles of directions, of different lengths."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(2, 20))
    label = np.repeat([0, 1], 30)
    states = centres[label] + 0.05 * generator.normal(size=(60, 20))
    return states * generator.uniform(0.1, 10, size=(60, 1)), label


def test_pca_is_that_of_sklearn_up_to_signs():
    states, _ = groups()
    plane, shares = pca(states)
    peer = PCA(2).fit(unit(states))
    assert np.abs(plane) == pytest.approx(np.abs(peer.transform(unit(states))), abs=1e-6)
    assert shares == pytest.approx(tuple(peer.explained_variance_ratio_), abs=1e-9)


def test_pca_ignores_lengths_and_is_the_same_twice():
    states, _ = groups()
    assert pca(states)[0] == pytest.approx(pca(3 * states)[0])
    assert np.array_equal(pca(states)[0], pca(states)[0])


@pytest.mark.parametrize("count", [1, 2])
def test_pca_of_hardly_any_points(count: int):
    assert np.isfinite(pca(np.ones((count, 5)))[0]).all()


def test_umap_keeps_groups_apart_and_follows_its_seed():
    states, label = groups()
    plane = umap(states)
    centres = np.stack([plane[label == name].mean(0) for name in (0, 1)])
    spread = max(np.linalg.norm(plane[label == name] - centres[name], axis=1).mean() for name in (0, 1))
    assert np.linalg.norm(centres[0] - centres[1]) > 3 * spread
    assert np.array_equal(plane, umap(states))
    with pytest.raises(ValueError, match="3 states"):
        umap(states[:3])
