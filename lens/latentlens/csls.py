"""CSLS and hubs: contexts that are near to everything, and a similarity that holds it against them.

Cross-domain similarity local scaling (Conneau et al. 2018, arXiv 1710.04087): twice the cosine of a visual token and a
context, less the mean cosine of each with its :data:`K` nearest on the other side. A context that many visual tokens are
near to (a hub) sinks. The visual side is a *reference*: tokens of other pictures at the same layer. The text side is the
whole index; its term is the same for all neighbours of one token, so it moves the value and not the order.

The correction re-ranks the :data:`CANDIDATES` nearest contexts of each token by raw cosine: what isn't among these is not
found.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from lens.latentlens.index import Index

K = 10
"""Neighbours that a density is the mean of, as published."""
CANDIDATES = 50


def corrected(
    index: Index,
    reference: Float[np.ndarray, "m d"],
    k: int,
    rows: Int[np.ndarray, "n c"],
    values: Float[np.ndarray, "n c"],
    layers: Int[np.ndarray, "n c"],
    groups: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]] | None = None,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """The ``k`` best of each state's candidates (raw cosines, best first) by CSLS (in [-4, 4]); ``reference`` holds
    unit vectors. ``groups``: of states and of reference tokens; a state's own group is no reference for it."""
    density = np.zeros(rows.shape, np.float32)
    own, theirs = groups or (np.zeros(len(rows), int), np.ones(len(reference), int))
    of = np.broadcast_to(np.asarray(own)[:, None], rows.shape)
    for layer in np.unique(layers):
        here = (layers == layer) & (rows >= 0)
        some, inverse = np.unique(rows[here], return_inverse=True)
        similarity = index.taken(int(layer), some) @ reference.T
        for group in np.unique(of[here]):
            mine = of[here] == group
            density[here & (of == group)] = text_density(similarity[:, theirs != group])[inverse[mine]]
    nearest = np.where(rows[:, :K] >= 0, values[:, :K], np.nan)
    found = 2 * values - np.nanmean(nearest, axis=1, keepdims=True) - density
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    rows, found, layers = (np.take_along_axis(part, order, 1) for part in (rows, found, layers))
    return rows, found, layers


def text_density(similarity: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
    """Of each context, the mean of its :data:`K` highest similarities with reference tokens (of all, if there are fewer)."""
    k = min(K, similarity.shape[1])
    return np.partition(similarity, -k, axis=1)[:, -k:].mean(axis=1)
