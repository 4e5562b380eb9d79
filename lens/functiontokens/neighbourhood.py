"""The part of a graph around one token or one feature: small enough to draw, with its places computed beforehand.

Two columns: tokens at the left, features at the right. Around a token stand its strongest features, and the other tokens
that fire those most; around a feature the same, the other way round. What is strongest is a choice: by ``firings`` the
ubiquitous come first, by ``lift`` (times as often as under the null) the particular. Deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from lens.functiontokens.graph import FeatureGraph, Neighbours

EDGES = 300
"""Edges drawn at most: more make a browser crawl and a reader see nothing."""
NODES = 24
"""Nodes in a column at most."""
SWEEPS = 6
"""Rounds of ordering each column by the mean place of its neighbours (Sugiyama, Tagawa, Toda 1981)."""

Order = Literal["firings", "lift"]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Tokens, features and the edges among them.

    Attributes:
        centre: ("token", id) or ("feature", number).
        ids, texts: of the tokens; features: numbers.
        token_at, feature_at: places down each column, 0 at the top to 1.
        edge_token, edge_feature: rows of ``ids`` and ``features``; firings, rate, lift: of each edge.
        hidden: edges among these nodes that are not drawn; all: edges of the centre in the whole graph.
    """

    centre: tuple[str, int]
    n: int
    ids: Int[np.ndarray, " a"]
    texts: tuple[str, ...]
    ranks: Int[np.ndarray, " a"]
    features: Int[np.ndarray, " b"]
    token_at: Float[np.ndarray, " a"]
    feature_at: Float[np.ndarray, " b"]
    edge_token: Int[np.ndarray, " e"]
    edge_feature: Int[np.ndarray, " e"]
    firings: Int[np.ndarray, " e"]
    rate: Float[np.ndarray, " e"]
    lift: Float[np.ndarray, " e"]
    hidden: int
    all: int


def around_token(
    graph: FeatureGraph, token_id: int, n: int = 1, order: Order = "lift", nodes: int = NODES, edges: int = EDGES
) -> Neighbourhood:
    """A token, its features, and the tokens that share them. :class:`TokenMissing` for one that never occurs."""
    rank = graph.counts.rank(token_id)
    own = graph.token_features(token_id, n)
    features = _strongest(own, order, nodes)
    others = [_strongest(graph.feature_tokens(int(f), n), order, nodes) for f in features]
    ranks = _with(rank, others, nodes)
    return _assembled(graph, ("token", int(token_id)), ranks, features, n, order, edges, len(own))


def around_feature(
    graph: FeatureGraph, feature: int, n: int = 1, order: Order = "lift", nodes: int = NODES, edges: int = EDGES
) -> Neighbourhood:
    """A feature, its tokens, and the features that they share. :class:`FeaturesMismatch` for one that there isn't."""
    own = graph.feature_tokens(feature, n)
    ranks = _strongest(own, order, nodes)
    others = [_strongest(graph.token_features(int(graph.counts.ids[r]), n), order, nodes) for r in ranks]
    features = _with(feature, others, nodes)
    return _assembled(graph, ("feature", int(feature)), ranks, features, n, order, edges, len(own))


def _strongest(found: Neighbours, order: Order, nodes: int) -> Int[np.ndarray, " b"]:
    strength = found.lift if order == "lift" else found.firings
    return found.nodes[np.lexsort((found.nodes, -found.firings, -strength))[:nodes]]


def _with(centre: int, lists: list[np.ndarray], nodes: int) -> Int[np.ndarray, " a"]:
    """The centre, then nodes taken from the lists in turn, so that each list has its best ones in."""
    chosen = dict.fromkeys([int(centre)])
    for place in range(nodes):
        for found in lists:
            if place < len(found) and len(chosen) < nodes:
                chosen.setdefault(int(found[place]))
    return np.array(list(chosen), np.int64)


def _assembled(
    graph: FeatureGraph,
    centre: tuple[str, int],
    ranks: np.ndarray,
    features: np.ndarray,
    n: int,
    order: Order,
    most: int,
    total: int,
) -> Neighbourhood:
    part = graph.edges(n)[ranks][:, features].tocoo()
    token, feature, firings = part.coords[0], part.coords[1], part.data
    lift = graph.lift(ranks[token], features[feature], firings)
    rate = firings / np.maximum(graph.occurrences[ranks[token]], 1)
    own = (ranks[token] == graph.counts.rank(centre[1])) if centre[0] == "token" else (features[feature] == centre[1])
    strength = lift if order == "lift" else firings
    kept = np.lexsort((feature, token, -strength, ~own))[:most]  # the centre's own edges are drawn before all others
    kept = kept[np.lexsort((feature[kept], token[kept]))]
    token_at, feature_at = _places(token[kept], feature[kept], len(ranks), len(features))
    return Neighbourhood(
        centre=centre,
        n=n,
        ids=graph.counts.ids[ranks],
        texts=tuple(graph.counts.texts[rank] for rank in ranks),
        ranks=ranks,
        features=features,
        token_at=token_at,
        feature_at=feature_at,
        edge_token=token[kept],
        edge_feature=feature[kept],
        firings=firings[kept],
        rate=rate[kept],
        lift=lift[kept],
        hidden=len(firings) - len(kept),
        all=total,
    )


def _places(
    token: np.ndarray, feature: np.ndarray, tokens: int, features: int
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " b"]]:
    """Places by the barycentre rule, which keeps edges from crossing more than they must."""
    token_at, feature_at = _spread(np.arange(tokens)), _spread(np.arange(features))
    for _ in range(SWEEPS):
        token_at = _spread(_ranked(_means(token, feature_at[feature], tokens)))
        feature_at = _spread(_ranked(_means(feature, token_at[token], features)))
    return token_at, feature_at


def _means(at: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    times = np.bincount(at, minlength=size)
    return np.where(times > 0, np.bincount(at, weights=values, minlength=size) / np.maximum(times, 1), 1.0)


def _ranked(values: np.ndarray) -> np.ndarray:
    out = np.empty(len(values), np.int64)
    out[np.argsort(values, kind="stable")] = np.arange(len(values))
    return out


def _spread(place: np.ndarray) -> np.ndarray:
    """Places 0, 1, 2, ... as heights from 0 to 1; one alone stands in the middle."""
    return place / (len(place) - 1) if len(place) > 1 else np.full(len(place), 0.5)
