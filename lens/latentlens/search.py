"""Search: the contextual text states nearest to given states, over all stored layers at once.

As published (arXiv 2602.00462): cosine against every stored layer, the k best of each, then the k best of all. The cosines
are those of the stored vectors; where these are quantised (any factory but ``Flat``), they are approximate by the
``similarity_error`` that the manifest gives for the layer. They are cut to [-1, 1].

Besides the raw cosine, a search can rank by the centred or the z-scored one (:mod:`lens.latentlens.spaces`), or by CSLS
(:mod:`lens.latentlens.csls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lens.backend.readouts import check_states
from lens.backend.visible import visible
from lens.errors import CapabilityMissing, IndexMismatch
from lens.latentlens.csls import CANDIDATES, corrected
from lens.latentlens.index import Index
from lens.latentlens.rotation import rotate
from lens.latentlens.spaces import search_space

SIMILARITIES = {
    "raw": "Raw cosine",
    "centred": "Centred cosine",
    "z-scored": "Z-scored cosine",
    "csls": "CSLS",
}
"""What neighbours can be ranked by."""


@dataclass(frozen=True)
class Neighbour:
    """One contextual text token.

    Attributes:
        word: the whole word that the token is part of: ``sentence[start:end]``.
        token: the token itself, as ``decode`` gives it (a leading space is kept).
        similarity: cosine with the query.
        layer: the text layer it was found at.
        seen: end of what the causal model had read at this token: ``sentence[seen:]`` had no influence on its state.
        row: the context's number in the index.
        position: of the token in its sequence. At 0 its state is an attention sink, alike for all words.
        evidence: occurrences in the corpus with the same beginning, all of which have this one state.
    """

    word: str
    token: str
    similarity: float
    layer: int
    sentence: str
    start: int
    end: int
    seen: int
    row: int = -1
    position: int = -1
    evidence: int = 1

    @property
    def shown(self) -> str:
        """The word as a reader sees it; the token where that is a part of no word."""
        return self.word if self.word.strip() and self.word.isprintable() else visible(self.token)

    @property
    def sink(self) -> bool:
        """Whether the token is the first of its sequence."""
        return self.position == 0


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of n states, best first; fewer than k where the index has fewer rows."""

    rows: tuple[tuple[Neighbour, ...], ...]


def search(
    index: Index,
    states: Float[np.ndarray, "n d"],
    k: int = 5,
    layers: Sequence[int] | None = None,
    similarity: str = "raw",
    reference: Float[np.ndarray, "m d"] | None = None,
) -> Neighbours:
    """The ``k`` nearest contexts of each state, over ``layers`` (by default all that are stored).

    Args:
        similarity: one of :data:`SIMILARITIES`.
        reference: for ``"csls"``, other visual tokens of the same layer as the states.

    Raises:
        IndexMismatch: states of another width.
        StatesUnusable: NaN, infinities or zero vectors.
        LayerMissing: a layer that the index doesn't store.
        CapabilityMissing: an unknown similarity, or CSLS without a reference.
    """
    return neighbours(index, *search_rows(index, states, k, layers, similarity, reference))


def neighbours(
    index: Index, rows: Int[np.ndarray, "n k"], values: Float[np.ndarray, "n k"], layers: Int[np.ndarray, "n k"]
) -> Neighbours:
    """What :func:`search_rows` gives, with its contexts read from the index."""
    found = index.contexts.take(rows[rows >= 0])
    sentences = index.sentences.take(found.column("sentence")).to_pylist()
    names = ("word", "token", "start", "end", "seen", "position", "evidence")
    details = iter(zip(sentences, *(found.column(name).to_pylist() for name in names), strict=True))

    def neighbour(row: int, value: float, at: int) -> Neighbour:
        sentence, word, token, start, end, seen, position, evidence = next(details)
        return Neighbour(word, token, float(value), int(at), sentence, start, end, seen, int(row), position, evidence)

    per_query = zip(rows, values, layers, strict=True)
    return Neighbours(
        tuple(
            tuple(neighbour(i, value, at) for i, value, at in zip(*query, strict=True) if i >= 0) for query in per_query
        )
    )


def search_rows(
    index: Index,
    states: Float[np.ndarray, "n d"],
    k: int = 5,
    layers: Sequence[int] | None = None,
    similarity: str = "raw",
    reference: Float[np.ndarray, "m d"] | None = None,
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """As :func:`search`, but gives context rows (-1 where there are no more), similarities and layers as arrays."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if similarity not in SIMILARITIES:
        raise CapabilityMissing(f"There is no similarity {similarity!r}; choose one of {', '.join(SIMILARITIES)}.")
    unit = unit_vectors(index, states)
    wanted = index.layers if layers is None else [index.check_layer(layer) for layer in dict.fromkeys(layers)]
    if similarity == "csls":
        if reference is None:
            raise CapabilityMissing("CSLS needs visual tokens of other pictures to compare with; give some.")
        return corrected(index, unit_vectors(index, reference), k, *_merged(index, unit, CANDIDATES, wanted, "raw"))
    return _merged(index, unit, k, wanted, similarity)


def _merged(
    index: Index, unit: Float[np.ndarray, "n d"], k: int, layers: Sequence[int], similarity: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, similarities and layers of the k best over several layers."""
    most = min(k, index.rows)
    if similarity == "raw":
        turned = rotate(unit)
        values, rows = zip(*(index.faiss[layer].search(turned, most) for layer in layers), strict=True)
    else:
        values, rows = zip(*(search_space(index, unit, layer, most, similarity) for layer in layers), strict=True)
    layer = np.repeat(np.array(layers), values[0].shape[1])
    all_values, all_rows = np.concatenate(values, axis=1), np.concatenate(rows, axis=1)
    all_values = np.where(all_rows < 0, -np.inf, np.clip(all_values, -1, 1))
    order = np.argsort(-all_values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(all_rows, order, 1), np.take_along_axis(all_values, order, 1), layer[order]


def unit_vectors(index: Index, states: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
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
