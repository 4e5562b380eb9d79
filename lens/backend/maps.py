"""States as points of a plane: PCA at once, UMAP when there is time. For looking only; distances are not to scale."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.progress import Report, silent

NEIGHBOURS = 15
LEAST = 4
"""Fewer points than these have no map."""


def pca(states: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n 2"], tuple[float, float]]:
    """The two directions in which the states, brought to length one, vary most; and each one's share of the variance.

    Signs are fixed so that the point farthest along each direction is positive: the same states give the same map.
    """
    points = unit(states) - unit(states).mean(0)
    u, s, _ = np.linalg.svd(points, full_matrices=False)
    plane = np.zeros((len(states), 2))
    plane[:, : min(2, len(s))] = (u * s)[:, :2]
    farthest = plane[np.abs(plane).argmax(0), [0, 1]]
    shares = np.append(s**2, [0.0, 0.0])[:2] / max(float((s**2).sum()), np.finfo(float).tiny)
    return plane * np.where(farthest < 0, -1.0, 1.0), (float(shares[0]), float(shares[1]))


def umap(states: Float[np.ndarray, "n d"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """UMAP of the states by cosine distance, seeded (one thread). The first call in a process compiles for about 40 s."""
    if len(states) < LEAST:
        raise ValueError(f"{len(states)} states have no map; {LEAST} or more are needed.")
    from umap import UMAP  # slow to import

    fit = UMAP(n_neighbors=min(NEIGHBOURS, len(states) - 1), metric="cosine", random_state=seed, n_jobs=1)
    if len(states) <= NEIGHBOURS:
        fit.init = "random"  # the spectral start needs more points than dimensions
    return np.asarray(fit.fit_transform(states.astype(np.float32)), dtype=float)


def planes(
    states: Float[np.ndarray, "n d"], report: Report = silent
) -> tuple[dict[str, Float[np.ndarray, "n 2"]], tuple[float, float]]:
    """Both maps by name, and the shares of the variance that the axes of the PCA hold.

    ``report`` is asked before the UMAP, which can't be interrupted; it cancels by raising Cancelled.
    """
    plane, explained = pca(states)
    report(0, 1, "UMAP (the first one compiles, about 40 s)")
    both = {"PCA": plane, "UMAP": umap(states)}
    report(1, 1, "UMAP")
    return both, explained


def unit(states: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows at length one; a row of zeros stays."""
    lengths = np.linalg.norm(states.astype(np.float64), axis=1, keepdims=True)
    return states / np.where(lengths == 0, 1.0, lengths)
