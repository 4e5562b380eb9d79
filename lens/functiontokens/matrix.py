"""Tokens x features as one picture: rates or lifts, rows and columns ordered so that what is alike stands together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist

from lens.functiontokens.graph import FeatureGraph

Value = Literal["rate", "lift"]
ROWS, COLUMNS = 60, 120


@dataclass(frozen=True, eq=False)
class TokenMatrix:
    """A clustered matrix.

    Attributes:
        ids, texts: tokens by row; features: numbers by column.
        values: by ``value``, the share of the token's occurrences on which the feature fires, or log2((o + 1) / (e + 1))
            for o firings where the null expects e: rare pairs stay near 0, whichever way they go.
        firings: of each pair.
    """

    value: Value
    ids: Int[np.ndarray, " rows"]
    texts: tuple[str, ...]
    features: Int[np.ndarray, " cols"]
    values: Float[np.ndarray, "rows cols"]
    firings: Int[np.ndarray, "rows cols"]


def token_matrix(
    graph: FeatureGraph, ids: np.ndarray, n: int = 1, value: Value = "lift", rows: int = ROWS, columns: int = COLUMNS
) -> TokenMatrix:
    """The first ``rows`` of the tokens ``ids`` that the pass kept, by the ``columns`` features that tell them apart most
    (the greatest variance of the value over these tokens), clustered by average linkage."""
    ranks = np.array([rank for rank in map(graph.counts.rank, map(int, ids)) if graph.occurrences[rank]], np.int64)[
        :rows
    ]
    firings = graph.edges(n)[ranks].toarray()
    rate = firings / np.maximum(graph.occurrences[ranks], 1)[:, None]
    if value == "rate":
        values = rate
    else:
        expected = graph.occurrences[ranks][:, None] * graph.firings / max(graph.positions, 1)
        values = np.log2((firings + 1) / (expected + 1))
    chosen = np.flatnonzero(firings.any(axis=0))
    spread = values[:, chosen].var(axis=0) if len(ranks) else np.zeros(len(chosen))
    chosen = np.sort(chosen[np.lexsort((chosen, -graph.firings[chosen], -spread))[:columns]])
    values = values[:, chosen]
    down, across = _ordered(values), _ordered(values.T)
    return TokenMatrix(
        value=value,
        ids=graph.counts.ids[ranks[down]],
        texts=tuple(graph.counts.texts[rank] for rank in ranks[down]),
        features=chosen[across],
        values=values[np.ix_(down, across)],
        firings=firings[:, chosen][np.ix_(down, across)],
    )


def _ordered(values: np.ndarray) -> np.ndarray:
    """Rows so that neighbours are alike: hierarchical clustering, its leaves turned for the least sum of steps."""
    if len(values) < 3:
        return np.arange(len(values))
    distances = pdist(values)
    return leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))
