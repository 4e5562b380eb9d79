"""The mixing in which vectors are stored: orthogonal, even, and fixed for good."""

from __future__ import annotations

import numpy as np
import pytest

from lens.latentlens.rotation import rotate, unrotate


@pytest.mark.parametrize("width", [32, 100, 576, 768, 3584, 33])
def test_it_keeps_every_inner_product_and_can_be_undone(width: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    mixed = rotate(vectors)
    np.testing.assert_allclose(mixed @ mixed.T, vectors @ vectors.T, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(unrotate(mixed), vectors, atol=1e-4)
    assert np.abs(mixed - vectors).max() > 0.1


@pytest.mark.parametrize("width", [64, 576, 3584])
def test_one_massive_dimension_is_spread_evenly(width: int) -> None:
    mixed = rotate(np.eye(width, dtype=np.float32)[:50])
    assert np.abs(mixed).max() < 8 / np.sqrt(width)


def test_it_is_part_of_the_format() -> None:
    """Stored indexes depend on these very numbers: a change needs another format version."""
    mixed = rotate(np.arange(576, dtype=np.float32)[None] / 576)
    golden = [0.05159824, -0.08006822, -0.6214496, 0.4914587, -1.0105351, 0.7136874]
    np.testing.assert_allclose(mixed[0, :6], golden, atol=1e-5)
