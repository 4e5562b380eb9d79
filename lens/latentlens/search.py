"""Search: the contextual text states nearest to given states, over all stored layers at once.

As published (arXiv 2602.00462): cosine against every stored layer, the k best of each, then the k best of all. The cosines
are those of the stored vectors; where these are quantised (any factory but ``Flat``), they are approximate by the
``similarity_error`` that the manifest gives for the layer. They are cut to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend.readouts import check_states
from lens.errors import IndexMismatch
from lens.latentlens.index import Index
from lens.latentlens.rotation import rotate


@dataclass(frozen=True)
class Neighbour:
    """One contextual text token.

    Attributes:
        word: the whole word that the token is part of: ``sentence[start:end]``.
        token: the token itself, as ``decode`` gives it (a leading space is kept).
        similarity: cosine with the query.
        layer: the text layer it was found at.
        seen: end of what the causal model had read at this token: ``sentence[seen:]`` had no influence on its state.
    """

    word: str
    token: str
    similarity: float
    layer: int
    sentence: str
    start: int
    end: int
    seen: int


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of n states, best first; fewer than k where the index has fewer rows."""

    rows: tuple[tuple[Neighbour, ...], ...]


def search(
    index: Index, states: Float[np.ndarray, "n d"], k: int = 5, layers: Sequence[int] | None = None
) -> Neighbours:
    """The ``k`` nearest contexts of each state, over ``layers`` (by default all that are stored).

    Raises:
        IndexMismatch: states of another width.
        StatesUnusable: NaN, infinities or zero vectors.
        LayerMissing: a layer that the index doesn't store.
    """
    rows, similarity, layer = search_rows(index, states, k, layers)
    found = index.contexts.take(rows[rows >= 0])
    sentences = index.sentences.take(found.column("sentence")).to_pylist()
    names = ("word", "token", "start", "end", "seen")
    details = iter(zip(sentences, *(found.column(name).to_pylist() for name in names), strict=True))

    def neighbour(value: float, at: int) -> Neighbour:
        sentence, word, token, start, end, seen = next(details)
        return Neighbour(word, token, float(value), int(at), sentence, start, end, seen)

    per_query = zip(rows, similarity, layer, strict=True)
    return Neighbours(
        tuple(tuple(neighbour(value, at) for i, value, at in zip(*query, strict=True) if i >= 0) for query in per_query)
    )


def search_rows(
    index: Index, states: Float[np.ndarray, "n d"], k: int = 5, layers: Sequence[int] | None = None
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """As :func:`search`, but gives context rows (-1 where there are no more), similarities and layers as arrays."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    queries = rotate(_unit(index, states))
    wanted = index.layers if layers is None else [index.check_layer(layer) for layer in dict.fromkeys(layers)]
    values, rows = zip(*(index.faiss[layer].search(queries, min(k, index.rows)) for layer in wanted), strict=True)
    layer = np.repeat(np.array(wanted), values[0].shape[1])
    all_values, all_rows = np.concatenate(values, axis=1), np.concatenate(rows, axis=1)
    all_values = np.where(all_rows < 0, -np.inf, np.clip(all_values, -1, 1))
    order = np.argsort(-all_values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_rows, order, 1), np.take_along_axis(all_values, order, 1), layer[order]


def _unit(index: Index, states: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Unit vectors as float32; normalised in float64, so that no scale over- or underflows."""
    states = np.asarray(states)
    if states.ndim != 2 or states.shape[1] != index.width:
        raise IndexMismatch(
            f"The index {index.name} holds states of width {index.width}, but the query has shape {states.shape}; choose "
            "an index of this model."
        )
    check_states(states)
    wide = states.astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
