"""Visual tokens among their text neighbours, as points of one plane.

Points are the visual tokens of one picture at one or several layers, and the contexts that are their nearest neighbours,
each once, as the index stores them. Cosine decides what is near, as in the search. Visual and text states are often two
clouds apart (the modality gap), and the plane shows it; *centred*, each cloud has its own mean taken off first, so that
their inner order can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.backend import maps
from lens.backend.encoding import visual_grid
from lens.backend.tracing import Trace
from lens.latentlens.index import Index
from lens.latentlens.search import Neighbour, neighbours, search_rows
from lens.progress import Report, silent


@dataclass(frozen=True, eq=False)
class Points:
    """What is drawn: first the visual tokens, layer by layer in reading order, then their neighbours.

    Attributes:
        states: unit vectors; centred ones where that was asked for.
        layer: of each point, visual or text.
        cells: (row, col) of the visual tokens, one for each of the first points.
        words: of a visual token its best neighbour's, of a neighbour its own.
        contexts: the neighbours in full, for the points after the visual tokens.
        best: for each visual token, which of ``contexts`` is its best neighbour.
    """

    states: Float[np.ndarray, "n d"]
    layer: Int[np.ndarray, " n"]
    cells: tuple[tuple[int, int], ...]
    words: tuple[str, ...]
    contexts: tuple[Neighbour, ...]
    best: Int[np.ndarray, " visual"]

    @property
    def visual(self) -> Bool[np.ndarray, " n"]:
        """Which points are visual tokens."""
        return np.arange(len(self.states)) < len(self.cells)


@dataclass(frozen=True, eq=False)
class Plane:
    """The points by PCA and, where there was time for it, by UMAP.

    Attributes:
        planes: by method, in the order of ``points``.
        explained: shares of the variance that the two axes of the PCA hold.
    """

    points: Points
    planes: dict[str, Float[np.ndarray, "n 2"]]
    explained: tuple[float, float]


def gather(held: Trace, index: Index, layers: Sequence[int], k: int = 3, *, centred: bool = False) -> Points:
    """The visual tokens at ``layers`` and their ``k`` nearest contexts; a search, no forward.

    Raises:
        SiteMissing: a layer that the trace doesn't hold.
        IndexMismatch, StatesUnusable: as :func:`lens.latentlens.search.search`.
    """
    grid = visual_grid(held.token_map)
    positions = grid.positions.reshape(-1)
    visual = np.concatenate([held.hidden(layer)[positions].float().numpy() for layer in layers])
    rows, similarity, at = search_rows(index, visual, k)
    keys = np.stack([at[rows >= 0], rows[rows >= 0]], axis=1)
    unique, first, where = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    text = np.zeros((len(unique), index.width), np.float32)
    for layer in np.unique(unique[:, 0]):
        chosen = unique[:, 0] == layer
        text[chosen] = index.taken(int(layer), unique[chosen, 1])
    found = neighbours(index, unique[:, 1:], similarity[rows >= 0][first][:, None], unique[:, :1])
    contexts = tuple(row[0] for row in found.rows)
    starts = np.cumsum((rows >= 0).sum(1)) - (rows >= 0).sum(1)
    best = where.reshape(-1)[starts]
    states = [maps.unit(visual), maps.unit(text)]
    if centred:
        states = [maps.unit(each - each.mean(0)) for each in states]
    cells = tuple((row, col) for row in range(grid.rows) for col in range(grid.cols))
    return Points(
        states=np.concatenate(states),
        layer=np.concatenate([np.repeat(np.asarray(layers), len(positions)), unique[:, 0]]),
        cells=cells * len(layers),
        words=tuple(contexts[i].word for i in best) + tuple(one.word for one in contexts),
        contexts=contexts,
        best=best,
    )


def flat(points: Points) -> Plane:
    """By PCA alone: at once."""
    plane, explained = maps.pca(points.states)
    return Plane(points, {"PCA": plane}, explained)


def folded(points: Points, report: Report = silent) -> Plane:
    """By PCA and by UMAP, which takes seconds, and in a process's first call the better part of a minute.

    Raises:
        Cancelled: raised by ``report``.
    """
    planes, explained = maps.planes(points.states, report)
    return Plane(points, planes, explained)
